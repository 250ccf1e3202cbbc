"""Tokens of attempts: derived, kept nowhere, and worth something only while the attempt is its job's running one.

A secret says which attempt it is of, and proves it by an HMAC (RFC 2104, SHA-256) under a key that is derived from
the data directory's secret. So there is nothing to store, to look up or to forget: when the attempt ends, is
canceled, lost or run again, its token opens nothing any more; nor when the token ends that its job was submitted
with, itself or by a job of a job, or its owner leaves the org. Minted for a lease, verified for a request; what it
opens is what the job's owner may do by now in the job's org, as a submitter at most, by routes that admit
`Credential.JOB`. Who operates a worker sees the tokens of what it runs: one of an attempt at somebody else's worker
submits to the kind of that alone, and never to the owner's own.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from collections.abc import Awaitable, Callable

from zbrain_nb.model.access import Credential, Principal, Role
from zbrain_nb.model.job import Job
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
    role_of : callable
        Gets a job; returns the role of its owner in its org (see `Standing`).
    is_at_owners : callable
        Gets a job; returns whether its owner's own worker runs it.
    """

    def __init__(
        self,
        secret: str,
        running: Callable[[str, int], Job | None],
        *,
        lives: Callable[[str], bool],
        role_of: Callable[[Job], Awaitable[Role | None]],
        is_at_owners: Callable[[Job], bool],
    ) -> None:
        self._key = hmac.digest(secret.encode(), _PURPOSE, hashlib.sha256)
        self._running = running
        self._lives = lives
        self._role_of = role_of
        self._is_at_owners = is_at_owners

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

    async def find(self, secret: str) -> Principal | None:
        """Return who shows a secret, or None if it is none of a running attempt, or its owner is out by now.

        Raises
        ------
        Unavailable
            If it cannot be told now what its owner may do.
        """
        sealed = unseal(secret, _BYTES) if secret.startswith(JOB_PREFIX) else None
        if sealed is None:
            return None
        content, mac = sealed[:-_MAC_BYTES], sealed[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(content)):
            return None
        job_id, attempt = str(uuid.UUID(bytes=content[:_ID_BYTES])), int.from_bytes(content[_ID_BYTES:], "big")
        job = self._standing(job_id, attempt)
        role = None if job is None else await self._role_of(job)
        job = self._standing(job_id, attempt)  # the attempt may have ended while the role was asked for
        if job is None or role is None:
            return None
        return Principal(
            owner=job.owner,
            roles={job.org_id: role},
            home=job.org_id,
            credential=Credential.JOB,
            token_id=f"{JOB_PREFIX}{job_id}.{attempt}",
            job_id=job_id,
            attempt=attempt,
            job_origin=job.origin,
            submits_to=None if self._is_at_owners(job) else job.spec.kind,
        )

    def _standing(self, job_id: str, attempt: int) -> Job | None:
        """Return the job if this is its running attempt, and the token lives that it was submitted with."""
        job = self._running(job_id, attempt)
        if job is None or (job.origin and not self._lives(job.origin)):
            return None
        return job

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, hashlib.sha256)
