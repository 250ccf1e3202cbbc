"""Browsers that a person sent to the host itself: a code that opens it once, and the session it becomes.

The code stands in a URL, so it lives for a minute and works once; the session stands in a cookie that no script
reads. Both are kept in memory as hashes, and end with the host.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

CODE_SECS = 60.0
SESSION_SECS = 12 * 3600.0
#: More than these push out the oldest.
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

    def offer(self) -> str:
        """Return a new code."""
        return self._codes.make()

    def begin(self, code: str) -> str | None:
        """Return a new session for a code, which is worth nothing from then on; None if it is worth nothing now."""
        return self._sessions.make() if self._codes.take(code) else None

    def holds(self, session: str) -> bool:
        """Whether the session lives."""
        return self._sessions.holds(session)


class _Secrets:
    """Random texts, known by their hashes, oldest first, each until its time is over."""

    def __init__(self, clock: Callable[[], float], life_secs: float, most: int) -> None:
        self._clock = clock
        self._life_secs = life_secs
        self._most = most
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def make(self) -> str:
        secret = secrets.token_urlsafe(32)
        self._ends[_hash(secret)] = self._clock() + self._life_secs
        if len(self._ends) > self._most:
            self._ends.popitem(last=False)
        return secret

    def holds(self, secret: str) -> bool:
        return self._ends.get(_hash(secret), 0.0) > self._clock()

    def take(self, secret: str) -> bool:
        return self._ends.pop(_hash(secret), 0.0) > self._clock()


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
