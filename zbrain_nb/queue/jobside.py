"""The face that callers see: submit, look, list, cancel, retry, logs and outputs."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from zbrain_nb.model.access import Principal, among
from zbrain_nb.model.errors import (
    Forbidden,
    InvalidSpec,
    JobNotFound,
    MissingBlobs,
    WrongState,
)
from zbrain_nb.model.events import LogEntry
from zbrain_nb.model.job import CancelResult, Job, JobArtifact, JobSpec, JobState, submitted_with
from zbrain_nb.queue.core import QueueCore
from zbrain_nb.queue.listing import Filter, Page, list_jobs, make_filter
from zbrain_nb.queue.outputs import Shown, reduce_outputs
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
from zbrain_nb.store.searching import Found, search_log
from zbrain_nb.store.storage import is_id

#: So many jobs whose rows are out of date are folded before a list is made, for it would sift them all.
FOLD_BEFORE_LIST = 8_000
#: So many jobs are canceled in one command: the loop waits for it.
CANCEL_CHUNK = 500


#: Gets what will be returned, while it is still being written.
Meanwhile = Callable[[list[Accepted]], object]


class JobSide(QueueCore):
    """Methods about jobs."""

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
            own.spec = submitted_with(own.spec, scope.origin)
            if scope.roles is not None:
                scope.check_submit(own.org_id, own.spec.kind)
        if own.spec.secrets and not self.holds_secrets(own.id):
            raise InvalidSpec(
                "The values of its secrets are not here: they are forgotten when a job ends.",
                "Submit it again where they are.",
                field="secrets",
            )
        return own

    async def submit_many(
        self, jobs: Iterable[Job | JobSpec], *, owner: str | None = None, scope: Principal | None = None
    ) -> builtins.list[str]:
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
    ) -> builtins.list[Accepted]:
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
        ids = {parent for job in own for parent in job.spec.after} | {job_id for job_id, _ in keys.values()}
        accepted: builtins.list[Accepted] = await self._decide(
            ids, lambda turn: decide_batch(turn, self._index, own, keys)
        )
        return accepted

    async def _accept_plain(self, own: builtins.list[Job], meanwhile: Meanwhile | None) -> builtins.list[Accepted]:
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

    async def list(
        self,
        org_id: str | None = None,
        state: JobState | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        name: str | None = None,
        q: str | None = None,
        owner: str | None = None,
        tag: tuple[str, str] | None = None,
        after: int | None = None,
        scope: Principal | None = None,
    ) -> builtins.list[Job]:
        """Return jobs, newest first.

        Parameters
        ----------
        org_id, state, name, owner : str, optional
            Only jobs with this very value.
        limit : int
            At most so many, up to 10,000.
        cursor : str, optional
            Id of the last job of the page before.
        q : str, optional
            A part of the name, in either case, or the head of the id.
        tag : tuple of str, optional
            Only jobs that bear this tag, with this value.
        after : int, optional
            Only jobs whose submit is an event behind this ``event_seq``.

        Raises
        ------
        Malformed
            If `state` is no state or `cursor` no id.
        """
        wanted = make_filter(state, owner, name, q, cursor, tag, after)
        return (await self.list_page(wanted, limit, org_id=org_id, scope=scope)).jobs

    async def list_page(
        self,
        wanted: Filter,
        limit: int,
        *,
        org_id: str | None = None,
        most_bytes: int | None = None,
        scope: Principal | None = None,
    ) -> Page:
        """Return the jobs that `list` would, and whether more stand behind them.

        Parameters
        ----------
        wanted : Filter
            Which; of its orgs those that `scope` sees.
        most_bytes : int, optional
            The page ends too when what is kept of its jobs is so large together.
        """
        await self.open()
        wanted = msgspec.structs.replace(wanted, orgs=among(scope, org_id))
        if len(self._index.unfolded) > FOLD_BEFORE_LIST:
            await self._folder.fold()
        return await list_jobs(self.storage, self._index, wanted, limit, self._present, most_bytes)

    async def get_many(self, ids: Iterable[str], *, scope: Principal | None = None) -> builtins.list[Job]:
        """Return those of the jobs that exist, as they are now, in the order of `ids`."""
        await self.open()
        wanted = list(dict.fromkeys(job_id for job_id in ids if is_id(job_id)))
        entries = {job_id: self._index.get(job_id) for job_id in wanted}
        absent = [job_id for job_id, entry in entries.items() if entry is None]
        stored = await self.storage.read(queries.jobs_by_id, absent) if absent else {}
        found = {job_id: self._shown(entry) for job_id, entry in entries.items() if entry is not None}
        found |= {job_id: self._present(job) for job_id, job in stored.items()}
        return [found[job_id] for job_id in wanted if job_id in found and self._sees(scope, found[job_id])]

    async def find(
        self, text: str, *, org_id: str | None = None, limit: int = 10, scope: Principal | None = None
    ) -> builtins.list[Job]:
        """Return jobs whose id begins with `text` (4 or more characters) or whose name it is, newest first."""
        if is_id(text):
            job = await self.get(text, scope=scope)
            return [job] if job is not None and org_id in (None, job.org_id) else []
        found = {job.id: job for job in await self.list(org_id, limit=limit, name=text, scope=scope)}
        if len(text) >= 4 and set(text.lower()) <= set("0123456789abcdef-"):
            near = await self.list(org_id, limit=limit, q=text, scope=scope)
            found |= {job.id: job for job in near if job.id.startswith(text.lower())}
        return sorted(found.values(), key=lambda job: job.id, reverse=True)[:limit]

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

            def cancel(turn: Turn, chunk: builtins.list[str] = chunk) -> None:
                for job_id in chunk:
                    self._endings.cancel(turn, job_id, by)

            await self._decide(chunk, cancel)

    async def retry_many(
        self,
        jobs: Iterable[Job],
        *,
        owner: str | None = None,
        key: str | None = None,
        scope: Principal | None = None,
    ) -> builtins.list[Job]:
        """Submit one's own ended jobs again, all or none (see `retry_job`); all others are passed over.

        So are those of other people: nobody who chooses many jobs has looked at the code of each.
        """
        return [one.job for one in await self.accept_repeats(jobs, owner=owner, key=key, scope=scope)]

    async def accept_repeats(
        self,
        jobs: Iterable[Job],
        *,
        owner: str | None = None,
        key: str | None = None,
        scope: Principal | None = None,
    ) -> builtins.list[Accepted]:
        """Do as `retry_many`, and say of each job whether it was there already under `key`."""
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
        self, jobs: builtins.list[Job], owner: str | None, scope: Principal | None, key: str | None
    ) -> builtins.list[Accepted]:
        lent = frozenset(sha256 for job in jobs for sha256 in job.spec.blobs)
        again = [
            _again(job, owner, key, keeps_env=scope is None or scope.is_holder or scope.owner == job.owner)
            for job in jobs
        ]
        return await self.accept(again, scope=scope, lent=lent)

    async def get_logs(
        self,
        job_id: str,
        from_seq: int = 0,
        limit: int = 1000,
        stream: str | None = None,
        *,
        scope: Principal | None = None,
    ) -> builtins.list[LogEntry]:
        """Return lines of the job's log from `from_seq` on (inclusive), in order; none for an unknown job.

        They may be fewer than there are, and than `limit`, if they are long (see `LOG_PAGE_BYTES`).
        """
        if not is_id(job_id) or await self._is_hidden(job_id, scope):
            return []
        await self.open()
        from_seq, limit = max(0, from_seq), max(0, limit)
        entry = self._index.live.get(job_id)
        if entry is not None:
            if from_seq >= entry.log_seq:
                return []
            recent = self._watch.ring.read(job_id, from_seq, limit, stream)
            if recent is not None:
                return recent
        return await self.storage.read(queries.log_entries, job_id, from_seq, limit, stream)

    async def search_logs(
        self,
        job_id: str,
        text: str,
        from_seq: int = 0,
        limit: int = 1000,
        stream: str | None = None,
        *,
        scope: Principal | None = None,
    ) -> Found:
        """Return lines of the job's log, from `from_seq` on, that hold `text` in either case, and where to go on.

        They may be fewer than there are, and than `limit`: a search ends after half a second too, wherever it is.
        """
        end = await self.count_log_lines(job_id, scope=scope)
        from_seq = max(0, from_seq)
        if from_seq >= end or limit < 1:
            return Found([], from_seq)
        return await self.storage.read(search_log, job_id, text, from_seq, end, limit, stream)

    async def count_log_lines(self, job_id: str, *, scope: Principal | None = None) -> int:
        """Return how many lines the job's log has; 0 for an unknown job."""
        if not is_id(job_id) or await self._is_hidden(job_id, scope):
            return 0
        await self.open()
        entry = self._index.get(job_id)
        if entry is not None:
            return entry.log_seq
        _, lines = await self.storage.read(queries.positions, [job_id])
        return lines.get(job_id, 0)

    async def list_outputs(self, job_id: str, *, upto: int | None = None, scope: Principal | None = None) -> Shown:
        """Return the rich outputs of the job's last attempt as nbformat output dicts, in order.

        They are those of the events up to `upto`, by default of all that is published: whoever follows the events
        behind that number gets each of the others once.
        """
        await self.open()
        seq = self.event_seq if upto is None else upto
        job = await self.get(job_id, scope=scope)
        if job is None:
            return Shown([], clear_next=False)
        return reduce_outputs(await self.storage.read(queries.displays, job_id, job.attempt, seq))

    async def list_artifacts(self, job_id: str, *, scope: Principal | None = None) -> builtins.list[JobArtifact]:
        """Return the files kept with the job; none for an unknown job."""
        job = await self.get(job_id, scope=scope)
        return [] if job is None else list(job.artifacts)


def _again(job: Job, owner: str | None, key: str | None, *, keeps_env: bool) -> Job:
    """Return a new job that repeats `job`; under `key` it has a key of its own, which no other job's repeat has."""
    own_key = None if key is None else f"{hashlib.sha256(key.encode()).hexdigest()[:32]}#{job.id}"
    spec = msgspec.structs.replace(job.spec, idempotency_key=own_key, env=job.spec.env if keeps_env else {})
    return Job(spec, owner=owner or job.owner, org_id=job.org_id, retry_of=job.id)
