"""Batches under one idempotency key: sent again because the connection broke, a thousand jobs stay a thousand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

import msgspec

from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import Conflict, KeyConflict
from zbrain_nb.model.job import JobSpec
from zbrain_nb.queue.jobside import JobSide, Meanwhile
from zbrain_nb.queue.submits import Accepted, decide_many_plain, needs_checks
from zbrain_nb.queue.turn import Turn
from zbrain_nb.store import waiting


class BatchSide(JobSide):
    """Submits of keyed batches."""

    async def accept_once(
        self,
        specs: Sequence[JobSpec],
        key: str,
        digest: str,
        *,
        owner: str | None = None,
        meanwhile: Meanwhile | None = None,
        scope: Principal | None = None,
    ) -> list[Accepted]:
        """Submit specs, all or none, and only once under `key`.

        The first job bears the key for all, and its place tells the others, which are submitted in one go behind
        it. Specs that need checks of their own, such as parents, get keys of their own instead, made from `key` and
        `digest`: sent again they are the same jobs, but under `key` another such batch is not refused.

        Parameters
        ----------
        key : str
            The idempotency key of the batch.
        digest : str
            A hash of the whole batch as it was sent.
        owner, meanwhile, scope
            See `accept`.

        Raises
        ------
        KeyConflict
            If the key was used with another batch.
        InvalidSpec, Forbidden, OverQuota, MissingBlobs
            As `accept` does.
        """
        await self.open()
        if any(map(needs_checks, specs)):
            return await self.accept(key_each(specs, key, digest), owner=owner, scope=scope)
        first = _keyed(specs[0], key)
        own = [self._own(spec, owner, scope) for spec in (first, *specs[1:])]
        owner = own[0].owner
        mark = f"{len(own)}:{digest}"
        stored = (await self._stored_keys(own[:1])).get((owner, key))

        accepted = [Accepted(job, False) for job in own]

        def decide(turn: Turn) -> str | None:
            known = turn.first_of((owner, key)) or stored
            if known is None:
                decide_many_plain(turn, own, mark)
                turn.claim((owner, key), (own[0].id, mark))
                if meanwhile is not None:
                    asyncio.get_running_loop().call_soon(meanwhile, accepted)
                return None
            job_id, payload = known
            if payload != mark:
                raise KeyConflict(
                    f"The idempotency key {key!r} was used before, with another payload (job {job_id}).",
                    "Use another key.",
                    job_id=job_id,
                )
            turn.touch(job_id)
            return job_id

        first_id: str | None = await self._commits.run(decide)
        if first_id is None:
            return accepted
        jobs = await self.storage.read(waiting.batch, first_id, len(own))
        if len(jobs) != len(own) or not all(self._sees(scope, job) for job in jobs):
            raise Conflict("The jobs of this batch are not all kept any more.", "Submit it under another key.")
        return [Accepted(self._present(job), True) for job in jobs]


def key_each(specs: Sequence[JobSpec], key: str, digest: str) -> list[JobSpec]:
    """Return the specs of a batch, each with an idempotency key of its own (see `BatchSide.accept_once`)."""
    stem = hashlib.sha256(f"{key}\0{digest}".encode()).hexdigest()[:32]
    return [_keyed(spec, f"{stem}#{n}") for n, spec in enumerate(specs)]


def _keyed(spec: JobSpec, key: str) -> JobSpec:
    return spec if spec.idempotency_key is not None else msgspec.structs.replace(spec, idempotency_key=key)
