"""The face that callers see: submit, cancel and retry; what they look at is in `jobreads`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import (
    Forbidden,
    InvalidSpec,
    JobNotFound,
    MissingBlobs,
    WrongState,
)
from zbrain_nb.model.job import CancelResult, Job, JobSpec, submitted_with
from zbrain_nb.queue.jobreads import JobReads
from zbrain_nb.queue.submits import (
    Accepted,
    as_job,
    blobs_of,
    decide_batch,
    decide_many_plain,
    decide_plain,
    needs_checks,
)
from zbrain_nb.queue.turn import Turn
from zbrain_nb.store import queries

#: So many jobs are canceled in one command: the loop waits for it.
CANCEL_CHUNK = 500


#: Gets what will be returned, while it is still being written.
Meanwhile = Callable[[list[Accepted]], object]


class JobSide(JobReads):
    """Methods that change jobs."""

    async def submit(self, job: Job | JobSpec, *, owner: str | None = None, scope: Principal | None = None) -> str:
        """Submit a job; it is durable when its id is returned (see `accept`).

        Raises
        ------
        Forbidden
            If who submits may not do so in the job's org.
        InvalidSpec
            If it does not hold, or names a job that does not exist.
        KeyConflict
            If its idempotency key was used with another payload.
        MissingBlobs
            If it names blobs that were not uploaded.
        """
        if not self._is_open:
            await self.open()
        own = self._own(job, owner, scope)
        if needs_checks(own.spec):
            return (await self.accept([own], owner=owner, scope=scope))[0].job.id
        await self._commits.post(decide_plain, own)
        return own.id

    def check_submits(self, specs: Sequence[JobSpec], scope: Principal) -> None:
        """Refuse, before anything is kept for them, specs in whose orgs `scope` may not submit.

        Raises
        ------
        Forbidden
            If there is such a one; in a batch ``details["index"]`` says which.
        """
        for position, spec in enumerate(specs):
            try:
                scope.check_submit(spec.org_id or scope.home, spec.kind)
            except Forbidden as error:
                if len(specs) > 1:
                    error.details.setdefault("index", position)
                raise

    def _own(self, given: Job | JobSpec, owner: str | None, scope: Principal | None) -> Job:
        """Return the queue's own copy of what somebody submits who may do so."""
        if scope is None:
            own = as_job(given, owner, self.owner, self.default_org_id)
        else:
            own = as_job(given, scope.owner, self.owner, scope.home)
            if scope.roles is not None:
                scope.check_submit(own.org_id, own.spec.kind)
        own.spec = submitted_with(own.spec, "" if scope is None else scope.origin)
        if own.spec.secrets and not self.holds_secrets(own.id):
            raise InvalidSpec(
                "The values of its secrets are not here: they are forgotten when a job ends.",
                "Submit it again where they are.",
                field="secrets",
            )
        return own

    async def submit_many(
        self, jobs: Iterable[Job | JobSpec], *, owner: str | None = None, scope: Principal | None = None
    ) -> list[str]:
        """Submit jobs, all or none, and return their ids in order (see `accept`)."""
        return [accepted.job.id for accepted in await self.accept(jobs, owner=owner, scope=scope)]

    async def accept(
        self,
        jobs: Iterable[Job | JobSpec],
        *,
        owner: str | None = None,
        meanwhile: Meanwhile | None = None,
        scope: Principal | None = None,
        lent: frozenset[str] = frozenset(),
    ) -> list[Accepted]:
        """Submit jobs, all or none.

        Parameters
        ----------
        jobs : iterable of Job or JobSpec
            ``after`` may name a `Job` of the same batch.
        owner : str, optional
            Who submits; a scope says that itself.
        meanwhile : callable, optional
            May be called with what is about to be returned, while the store still writes it: a large answer can
            be made by then. It must not be given to anybody before this returns.
        scope : Principal, optional
            Who submits: the owner of the jobs, and of those that name no org the home is theirs.
        lent : frozenset of str
            Blobs that the jobs may read without a grant, for they repeat jobs that do.

        Returns
        -------
        list of Accepted
            In the order of `jobs`.

        Raises
        ------
        InvalidSpec, KeyConflict, Conflict, Forbidden
            If one does not hold, or its org is not open to who submits; in a batch ``details["index"]`` says which.
        MissingBlobs
            If blobs were not uploaded by who submits (see `Grants`); ``details["blobs"]`` lists them all.
        """
        await self.open()
        own = []
        given = list(jobs)
        for position, job in enumerate(given):
            try:
                own.append(self._own(job, owner, scope))
            except (InvalidSpec, Forbidden) as error:
                if len(given) > 1:
                    error.details.setdefault("index", position)
                raise
        if not own:
            return []
        if not any(isinstance(job, Job) or needs_checks(job) for job in given):
            return await self._accept_plain(own, meanwhile)
        blobs = blobs_of(own)
        if blobs:
            blobs |= {sha256: set() for sha256 in lent & blobs.keys()}
            if missing := await self.grants.missing(blobs, scope):
                raise MissingBlobs("Blobs that the job reads are not here.", "Upload them.", blobs=missing)
        keys = await self._stored_keys(own)
        parents = {parent for job in own for parent in job.spec.after}
        ids = await self._in_orgs(parents, {job.org_id for job in own}) | {job_id for job_id, _ in keys.values()}
        accepted: list[Accepted] = await self._decide(ids, lambda turn: decide_batch(turn, self._index, own, keys))
        return accepted

    async def _accept_plain(self, own: list[Job], meanwhile: Meanwhile | None) -> list[Accepted]:
        accepted = [Accepted(job, False) for job in own]

        def decide(turn: Turn) -> None:
            decide_many_plain(turn, own)
            if meanwhile is not None:
                asyncio.get_running_loop().call_soon(meanwhile, accepted)

        await self._commits.run(decide)
        return accepted

    async def _stored_keys(self, jobs: Sequence[Job]) -> dict[tuple[str, str], tuple[str, str]]:
        wanted: dict[str, set[str]] = {}
        found = {}
        for job in jobs:
            key = job.spec.idempotency_key
            if key is None:
                continue
            known = self._index.keys.get((job.owner, key))
            if known is not None:
                found[job.owner, key] = known
            elif self._index.keys.may_be_stored((job.owner, key)):
                wanted.setdefault(job.owner, set()).add(key)
        for owner, keys in wanted.items():
            stored = await self.storage.read(queries.keyed_jobs, owner, keys, self._keys_since)
            found.update({(owner, key): value for key, value in stored.items()})
        return found

    async def cancel_job(
        self, job_id: str, *, by: str | None = None, if_waiting: bool = False, scope: Principal | None = None
    ) -> CancelResult:
        """Cancel a job: at once while it waits, else as soon as its worker ended it.

        Parameters
        ----------
        by : str, optional
            Who cancels, for the job's reason; a scope says that itself.
        if_waiting : bool
            Leave a job alone that runs.

        Returns
        -------
        CancelResult
            The same for a repeated call, as long as the job stands the same.

        Raises
        ------
        WrongState
            If the job runs, and was to be canceled only while it waits.
        Forbidden
            If who cancels is neither the job's owner nor an operator of its org.
        """
        await self.open()
        if scope is not None:
            by = scope.owner
            job = await self.get(job_id, scope=scope)
            if job is None:
                return CancelResult.NOT_FOUND
            scope.check_cancel(job.org_id, job.owner)  # neither of them ever changes
        result: CancelResult = await self._decide(
            [job_id], lambda turn: self._endings.cancel(turn, job_id, by, if_waiting=if_waiting)
        )
        return result

    async def cancel_many(self, ids: Iterable[str], *, by: str | None = None, scope: Principal | None = None) -> None:
        """Cancel jobs (see `cancel_job`); unknown ones are passed over.

        Those that only the store keeps are read together: one by one, thousands would take minutes.

        Raises
        ------
        Forbidden
            If one may not be canceled by who asks; then none is.
        """
        await self.open()
        wanted = list(dict.fromkeys(ids))
        if scope is not None:
            by = scope.owner
            seen = await self.get_many(wanted, scope=scope)
            for job in seen:
                scope.check_cancel(job.org_id, job.owner)
            wanted = [job.id for job in seen]
        for start in range(0, len(wanted), CANCEL_CHUNK):
            chunk = wanted[start : start + CANCEL_CHUNK]

            def cancel(turn: Turn, chunk: list[str] = chunk) -> None:
                for job_id in chunk:
                    self._endings.cancel(turn, job_id, by)

            await self._decide(chunk, cancel)

    async def accept_repeats(
        self,
        jobs: Iterable[Job],
        *,
        owner: str | None = None,
        key: str | None = None,
        scope: Principal | None = None,
    ) -> list[Accepted]:
        """Submit one's own ended jobs again, all or none (see `retry_job`); all others are passed over.

        So are those of other people: nobody who chooses many jobs has looked at the code of each.
        """
        repeated = [
            job
            for job in jobs
            if job.state.ended and self._sees(scope, job) and (scope is None or scope.owner == job.owner)
        ]
        return await self._repeat(repeated, owner, scope, key)

    async def retry_job(
        self,
        job_id: str,
        *,
        owner: str | None = None,
        key: str | None = None,
        scope: Principal | None = None,
        others: bool = False,
    ) -> Job:
        """Submit an ended job again, as a new job with ``retry_of``, in the same org; return that.

        Under one idempotency `key` it is submitted again once, alone or with others: asked once more for the same, the
        queue returns the job that there is.

        It belongs to who asks, and reads what the job read: who sees a job may run it with its inputs. Its environment
        is that of their own worker, unless the job is their own: nobody else is told the values of its variables.
        The code of another person then runs as who asks, and what it gives passes for their own: that is refused
        unless they say, with `others`, that they mean it.

        Raises
        ------
        JobNotFound
            If there is no such job.
        WrongState
            If it has not ended.
        Forbidden
            If who asks may not submit in its org, or the job is another's and `others` is not set.
        """
        return (await self.accept_repeat(job_id, owner=owner, key=key, scope=scope, others=others)).job

    async def accept_repeat(
        self,
        job_id: str,
        *,
        owner: str | None = None,
        key: str | None = None,
        scope: Principal | None = None,
        others: bool = False,
    ) -> Accepted:
        """Do as `retry_job`, and say whether the job was there already under `key`."""
        job = await self.get(job_id, scope=scope)
        if job is None:
            raise JobNotFound(f"No job {job_id}.")
        if scope is not None:
            scope.check_submit(job.org_id, job.spec.kind)
            if scope.owner != job.owner and not others:
                raise Forbidden(
                    f"This is the code of {job.owner}; it would run as {scope.owner}.",
                    "Look at it first; then ask with ?others=1, `zbrain retry --others` or retry(others=True).",
                    org_id=job.org_id,
                )
        if not job.state.ended:
            raise WrongState(f"The job is {job.state}.", "Wait for it, or cancel it first.", state=str(job.state))
        return (await self._repeat([job], owner, scope, key))[0]

    async def _repeat(
        self, jobs: list[Job], owner: str | None, scope: Principal | None, key: str | None
    ) -> list[Accepted]:
        lent = frozenset(sha256 for job in jobs for sha256 in job.spec.blobs)
        again = [
            _again(job, owner, key, keeps_env=scope is None or scope.is_holder or scope.owner == job.owner)
            for job in jobs
        ]
        return await self.accept(again, scope=scope, lent=lent)


def _again(job: Job, owner: str | None, key: str | None, *, keeps_env: bool) -> Job:
    """Return a new job that repeats `job`; under `key` it has a key of its own, which no other job's repeat has."""
    own_key = None if key is None else f"{hashlib.sha256(key.encode()).hexdigest()[:32]}#{job.id}"
    spec = msgspec.structs.replace(job.spec, idempotency_key=own_key, env=job.spec.env if keeps_env else {})
    return Job(spec, owner=owner or job.owner, org_id=job.org_id, retry_of=job.id)
