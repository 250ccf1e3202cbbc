"""Tokens of attempts: derived, kept nowhere, and worth something only while the attempt is its job's running one.

A secret says which attempt it is of, and proves it by an HMAC (RFC 2104, SHA-256) under a key that is derived from
the data directory's secret. So there is nothing to store, to look up or to forget: when the attempt ends, is
canceled, lost or run again, its token opens nothing any more; nor when the token ends that its job was submitted
with, itself or by a job of a job. Minted for a lease, verified for a request; what it
opens is what the job's owner may do in the job's org, by routes that admit `Credential.JOB`.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Callable

from zbrain_nb.model.access import Credential, Principal, Role
from zbrain_nb.model.job import TOKEN_TAG, Job
from zbrain_nb.model.tokens import JOB_PREFIX, seal, unseal

_PURPOSE = b"zbrain job tokens, 1"
_ID_BYTES, _ATTEMPT_BYTES, _MAC_BYTES = 16, 4, 32
_BYTES = _ID_BYTES + _ATTEMPT_BYTES + _MAC_BYTES
MAX_ATTEMPT = (1 << 8 * _ATTEMPT_BYTES) - 1


class JobTokens:
    """Mints and verifies the tokens of attempts.

    Parameters
    ----------
    secret : str
        The data directory's: another directory's tokens are worth nothing here.
    running : callable
        Gets a job id and an attempt; returns the job if this is its running attempt, else None.
    lives : callable
        Gets the id of a kept token; returns whether that lives.
    """

    def __init__(self, secret: str, running: Callable[[str, int], Job | None], *, lives: Callable[[str], bool]) -> None:
        self._key = hmac.digest(secret.encode(), _PURPOSE, hashlib.sha256)
        self._running = running
        self._lives = lives

    def mint(self, job_id: str, attempt: int) -> str:
        """Return the secret of an attempt; the same each time.

        Parameters
        ----------
        job_id : str
            A job's id.
        attempt : int
            From 1 to `MAX_ATTEMPT`.
        """
        content = uuid.UUID(job_id).bytes + attempt.to_bytes(_ATTEMPT_BYTES, "big")
        return seal(JOB_PREFIX, content + self._mac(content))

    def find(self, secret: str) -> Principal | None:
        """Return who shows a secret, or None if it is none of a running attempt."""
        sealed = unseal(secret, _BYTES) if secret.startswith(JOB_PREFIX) else None
        if sealed is None:
            return None
        content, mac = sealed[:-_MAC_BYTES], sealed[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(content)):
            return None
        job_id, attempt = str(uuid.UUID(bytes=content[:_ID_BYTES])), int.from_bytes(content[_ID_BYTES:], "big")
        job = self._running(job_id, attempt)
        origin = "" if job is None else job.spec.tags.get(TOKEN_TAG, "")
        if job is None or (origin and not self._lives(origin)):
            return None
        return Principal(
            owner=job.owner,
            roles={job.org_id: Role.SUBMITTER},
            home=job.org_id,
            credential=Credential.JOB,
            token_id=f"{JOB_PREFIX}{job_id}.{attempt}",
            job_id=job_id,
            attempt=attempt,
            job_origin=origin,
        )

    def is_live(self, principal: Principal) -> bool:
        """Whether the attempt of a principal that `find` returned still runs."""
        is_running = self._running(principal.job_id, principal.attempt) is not None
        return is_running and (not principal.job_origin or self._lives(principal.job_origin))

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, hashlib.sha256)
