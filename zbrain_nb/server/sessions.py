"""Browsers that a person sent to the host itself: a code that opens it once, and the session it becomes.

The code stands in a URL, so it lives for a minute and works once; the session stands in a cookie that no script
reads. Both stand for the principal who asked for the code, are kept in memory as hashes, and end with the host.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from zbrain_nb.model.access import Principal

CODE_SECS = 60.0
SESSION_SECS = 12 * 3600.0
#: More than these of one token push out its oldest; those of others stay.
MAX_CODES, MAX_SESSIONS = 20, 100


class Sessions:
    """Codes that were given out, and sessions that live.

    Parameters
    ----------
    clock : callable
        Gives seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._codes = _Secrets(clock, CODE_SECS, MAX_CODES)
        self._sessions = _Secrets(clock, SESSION_SECS, MAX_SESSIONS)

    def offer(self, principal: Principal) -> str:
        """Return a new code, by which a browser will act as `principal`."""
        return self._codes.make(principal)

    def begin(self, code: str) -> str | None:
        """Return a new session for a code, which is worth nothing from then on; None if it is worth nothing now."""
        principal = self._codes.take(code)
        return None if principal is None else self._sessions.make(principal)

    def find(self, session: str) -> Principal | None:
        """Return whose session it is; None if it does not live."""
        return self._sessions.find(session)

    def end(self, is_out: Callable[[Principal], bool]) -> None:
        """End the codes and sessions of the principals that are out."""
        for held in (self._codes, self._sessions):
            held.drop(is_out)


class _Secrets:
    """Random texts, known by their hashes, oldest first, each until its time is over; so many of each token."""

    def __init__(self, clock: Callable[[], float], life_secs: float, most: int) -> None:
        self._clock = clock
        self._life_secs = life_secs
        self._most = most
        self._held: dict[bytes, tuple[float, Principal]] = {}

    def make(self, principal: Principal) -> str:
        now = self._clock()
        self._held = {key: held for key, held in self._held.items() if held[0] > now}
        same = [key for key, (_, other) in self._held.items() if _whose(other) == _whose(principal)]
        if len(same) >= self._most:
            del self._held[same[0]]
        secret = secrets.token_urlsafe(32)
        self._held[_hash(secret)] = now + self._life_secs, principal
        return secret

    def find(self, secret: str) -> Principal | None:
        return self._living(self._held.get(_hash(secret)))

    def take(self, secret: str) -> Principal | None:
        return self._living(self._held.pop(_hash(secret), None))

    def drop(self, is_out: Callable[[Principal], bool]) -> None:
        for key in [key for key, (_, principal) in self._held.items() if is_out(principal)]:
            del self._held[key]

    def _living(self, held: tuple[float, Principal] | None) -> Principal | None:
        return held[1] if held is not None and held[0] > self._clock() else None


def _whose(principal: Principal) -> tuple[str, str]:
    return principal.owner, principal.token_id


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
