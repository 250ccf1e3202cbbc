"""`JobQueue`: the face of the queue, in the process that owns the store."""

from __future__ import annotations

import asyncio
import builtins
import getpass
import logging
import os
from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec

from zbrain_nb.model.errors import (
    Conflict,
    InvalidSpec,
    JobNotFound,
    MissingBlobs,
    StaleAttempt,
    WrongState,
    ZBrainError,
)
from zbrain_nb.model.events import JobStarted, LogEntry, WorkerEvent
from zbrain_nb.model.job import CancelResult, Job, JobArtifact, JobSpec, JobState, Resources
from zbrain_nb.model.protocol import (
    EventBatch,
    EventBatchAnswer,
    EventResult,
    HeartbeatAnswer,
    HeartbeatRequest,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    WorkerInfo,
)
from zbrain_nb.queue.bus import Bus, Subscription, TakenEvents
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.commits import Commits
from zbrain_nb.queue.endings import Endings
from zbrain_nb.queue.files import keep_files
from zbrain_nb.queue.index import Entry, Index
from zbrain_nb.queue.intake import Intake
from zbrain_nb.queue.listing import list_jobs, make_filter
from zbrain_nb.queue.loading import Folder, load, restore_positions
from zbrain_nb.queue.outputs import reduce_outputs
from zbrain_nb.queue.ready import Want
from zbrain_nb.queue.submits import Accepted, as_job, blobs_of, decide_batch, decide_plain, needs_checks
from zbrain_nb.queue.turn import Turn
from zbrain_nb.queue.workers import WorkerDesk
from zbrain_nb.store import queries
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.storage import Storage, is_id

__all__ = ["Accepted", "JobQueue"]

log = logging.getLogger(__name__)

#: So many jobs whose rows are out of date are folded before a list is made, for it would sift them all.
FOLD_BEFORE_LIST = 2_000
MAX_CLEANUP_PAUSE_SECS = 5.0


class JobQueue:
    """A durable job queue.

    All methods belong to one event loop. The queue opens itself when it is first used.

    Parameters
    ----------
    storage : Storage
        Where jobs are kept. Closed together with the queue, unless it is in memory.
    artifacts : path or ArtifactStore
        Where blobs are kept.
    lease_ttl_secs : float
        How long a silent worker keeps its jobs; may be changed later.
    default_org_id : str
        The org of jobs that name none.
    owner : str or None
        The owner of jobs submitted without one; None is the account of this process.
    clock : Clock
        For tests.
    """

    def __init__(
        self,
        storage: Storage,
        artifacts: str | os.PathLike[str] | ArtifactStore,
        *,
        lease_ttl_secs: float = 300.0,
        default_org_id: str = "default",
        owner: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.storage = storage
        self.artifacts = artifacts if isinstance(artifacts, ArtifactStore) else ArtifactStore(artifacts)
        self.default_org_id = default_org_id
        self.owner = owner or getpass.getuser()
        self.events = TakenEvents()
        self._clock = clock or Clock()
        self._opening: asyncio.Lock | None = None
        self._is_open = False
        self._cleanup: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._bus = Bus(self._read_events, self.open)
        self._set_up(lease_ttl_secs)

    def _set_up(self, lease_ttl_secs: float) -> None:
        self._index = Index(self._clock)
        self._index.leases.ttl_secs = lease_ttl_secs
        self._commits = Commits(self.storage, self._index, self._clock, self._bus.publish, self._serve)
        self._endings = Endings(self._index)
        self._desk = WorkerDesk(self._index, self._commits, self._endings, self._clock)
        self._intake = Intake(self._endings, self._desk.start)
        self._folder = Folder(self.storage, self._index)

    # Opening and closing

    async def open(self) -> Self:
        """Load the live jobs from the store; harmless when open.

        Raises
        ------
        Unavailable
            If another process has the store open.
        """
        if self._opening is None:
            self._opening = asyncio.Lock()
        if self._is_open:
            return self
        async with self._opening:
            if not self._is_open:
                await self.storage.open()
                self._desk.known_before = await load(self.storage, self._index)
                self._bus.start(self.storage.last_seq)
                self._is_open = True
                self._serve()
        return self

    async def close(self) -> None:
        """Finish commits under way, fold, and close the store; harmless when closed."""
        if self._opening is None:
            return
        async with self._opening:
            if self._is_open:
                self._is_open = False
                await self._shut_down()

    async def _shut_down(self) -> None:
        if self._cleanup is not None:
            self._cleanup.cancel()
            await asyncio.gather(self._cleanup, return_exceptions=True)
            self._cleanup = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._desk.close()
        await self._commits.drain()
        self._bus.close()
        await self._folder.stop()
        if self.storage.path is not None:
            await self.storage.close()
        self._set_up(self.lease_ttl_secs)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def lease_ttl_secs(self) -> float:
        """How long a silent worker keeps its jobs, in seconds."""
        return self._index.leases.ttl_secs

    @lease_ttl_secs.setter
    def lease_ttl_secs(self, secs: float) -> None:
        self._index.leases.ttl_secs = secs

    @property
    def event_seq(self) -> int:
        """Number of the last event that was published."""
        return self._bus.published_seq

    def active_jobs(self) -> int:
        """Return how many jobs have not ended."""
        return len(self._index.live)

    # Jobs

    async def submit(self, job: Job | JobSpec, *, owner: str | None = None) -> str:
        """Submit a job; it is durable when its id is returned.

        Raises
        ------
        InvalidSpec
            If it does not hold, or names a job that does not exist.
        KeyConflict
            If its idempotency key was used with another payload.
        MissingBlobs
            If it names blobs that were not uploaded.
        """
        if not self._is_open:
            await self.open()
        own = as_job(job, owner, self.owner, self.default_org_id)
        if needs_checks(own.spec):
            return (await self.accept([own], owner=owner))[0].job.id
        future = asyncio.get_running_loop().create_future()
        self._commits.post(partial(decide_plain, own), future)
        await future
        return own.id

    async def submit_many(self, jobs: Iterable[Job | JobSpec], *, owner: str | None = None) -> builtins.list[str]:
        """Submit jobs, all or none, and return their ids in order (see `accept`)."""
        return [accepted.job.id for accepted in await self.accept(jobs, owner=owner)]

    async def accept(self, jobs: Iterable[Job | JobSpec], *, owner: str | None = None) -> builtins.list[Accepted]:
        """Submit jobs, all or none.

        Parameters
        ----------
        jobs : iterable of Job or JobSpec
            ``after`` may name a `Job` of the same batch.
        owner : str, optional
            Who submits.

        Returns
        -------
        list of Accepted
            In the order of `jobs`.

        Raises
        ------
        InvalidSpec, KeyConflict, Conflict
            If one does not hold; in a batch ``details["index"]`` says which.
        MissingBlobs
            If blobs were not uploaded; ``details["blobs"]`` lists them all.
        """
        await self.open()
        own = []
        given = list(jobs)
        for position, job in enumerate(given):
            try:
                own.append(as_job(job, owner, self.owner, self.default_org_id))
            except InvalidSpec as error:
                if len(given) > 1:
                    error.details.setdefault("index", position)
                raise
        if not own:
            return []
        blobs = blobs_of(own)
        if blobs:
            missing = await asyncio.to_thread(self.artifacts.missing, blobs)
            if missing:
                raise MissingBlobs("Blobs that the job reads are not here.", "Upload them.", blobs=missing)
        keys = await self._stored_keys(own)
        ids = {parent for job in own for parent in job.spec.after} | {job_id for job_id, _ in keys.values()}
        ended = await self._fetch(ids)

        def decide(turn: Turn) -> builtins.list[Accepted]:
            turn.borrow(ended)
            return decide_batch(turn, self._index, own, keys)

        accepted: builtins.list[Accepted] = await self._commits.run(decide)
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
            else:
                wanted.setdefault(job.owner, set()).add(key)
        for owner, keys in wanted.items():
            stored = await self.storage.read(queries.keyed_jobs, owner, keys)
            found.update({(owner, key): value for key, value in stored.items()})
        return found

    async def _fetch(self, ids: Iterable[str]) -> dict[str, Entry]:
        """Return the ended jobs among `ids`, from memory or the store."""
        found: dict[str, Entry] = {}
        asked = []
        for job_id in ids:
            if job_id in self._index.live:
                continue
            recent = self._index.recent.get(job_id)
            if recent is not None:
                found[job_id] = recent
            elif is_id(job_id):
                asked.append(job_id)
        if not asked:
            return found
        jobs = await self.storage.read(queries.jobs_by_id, asked)
        ended = {job_id: job for job_id, job in jobs.items() if job.state.ended}
        highs, log_seqs = await self.storage.read(queries.positions, list(ended))
        for job_id, job in ended.items():
            entry = found[job_id] = Entry(job, job.event_seq)
            restore_positions(entry, highs.get(job_id, {}), log_seqs.get(job_id, 0))
            self._index.remember(entry)
        return found

    async def get(self, job_id: str) -> Job | None:
        """Return the job as it is now, or None if there is none of this id."""
        await self.open()
        entry = self._index.get(job_id) or (await self._fetch([job_id])).get(job_id)
        return None if entry is None else self._shown(entry)

    def _shown(self, entry: Entry) -> Job:
        job = entry.job
        if job.state is JobState.PENDING:
            return msgspec.structs.replace(job, reason=self._desk.why_waiting(entry))
        return job

    def _present(self, row: Job) -> Job:
        entry = self._index.get(row.id)
        if entry is not None:
            return self._shown(entry)
        return self._index.unfolded.get(row.id, row)

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

        Raises
        ------
        Malformed
            If `state` is no state or `cursor` no id.
        """
        await self.open()
        wanted = make_filter(org_id, state, owner, name, q, cursor)
        if len(self._index.unfolded) > FOLD_BEFORE_LIST:
            await self._folder.fold()
        return await list_jobs(self.storage, self._index, wanted, limit, self._present)

    async def find(self, text: str, *, org_id: str | None = None, limit: int = 10) -> builtins.list[Job]:
        """Return jobs whose id begins with `text` (4 or more characters) or whose name it is, newest first."""
        if is_id(text):
            job = await self.get(text)
            return [job] if job is not None and org_id in (None, job.org_id) else []
        found = {job.id: job for job in await self.list(org_id, limit=limit, name=text)}
        if len(text) >= 4 and set(text.lower()) <= set("0123456789abcdef-"):
            near = await self.list(org_id, limit=limit, q=text)
            found |= {job.id: job for job in near if job.id.startswith(text.lower())}
        return sorted(found.values(), key=lambda job: job.id, reverse=True)[:limit]

    async def cancel_job(self, job_id: str, *, by: str | None = None) -> CancelResult:
        """Cancel a job: at once while it waits, else as soon as its worker ended it.

        Parameters
        ----------
        by : str, optional
            Who cancels, for the job's reason.

        Returns
        -------
        CancelResult
            The same for a repeated call, as long as the job stands the same.
        """
        await self.open()
        ended = await self._fetch([job_id])

        def decide(turn: Turn) -> CancelResult:
            turn.borrow(ended)
            return self._endings.cancel(turn, job_id, by)

        result: CancelResult = await self._commits.run(decide)
        return result

    async def retry_job(self, job_id: str, *, owner: str | None = None) -> Job:
        """Submit an ended job again, as a new job with ``retry_of``; return that.

        Raises
        ------
        JobNotFound
            If there is no such job.
        WrongState
            If it has not ended.
        """
        job = await self.get(job_id)
        if job is None:
            raise JobNotFound(f"No job {job_id}.")
        if not job.state.ended:
            raise WrongState(f"The job is {job.state}.", "Wait for it, or cancel it first.", state=str(job.state))
        spec = msgspec.structs.replace(job.spec, idempotency_key=None)
        again = Job(spec, owner=owner or job.owner, org_id=job.org_id, retry_of=job.id)
        return (await self.accept([again]))[0].job

    async def get_logs(
        self, job_id: str, from_seq: int = 0, limit: int = 1000, stream: str | None = None
    ) -> builtins.list[LogEntry]:
        """Return lines of the job's log from `from_seq` on (inclusive), in order; none for an unknown job."""
        if not is_id(job_id):
            return []
        await self.open()
        return await self.storage.read(queries.log_entries, job_id, max(0, from_seq), max(0, limit), stream)

    async def count_log_lines(self, job_id: str) -> int:
        """Return how many lines the job's log has; 0 for an unknown job."""
        if not is_id(job_id):
            return 0
        await self.open()
        _, lines = await self.storage.read(queries.positions, [job_id])
        return lines.get(job_id, 0)

    async def list_outputs(self, job_id: str) -> builtins.list[dict[str, Any]]:
        """Return the rich outputs of the job's last attempt as nbformat output dicts, in order."""
        job = await self.get(job_id)
        if job is None:
            return []
        return reduce_outputs(await self.storage.read(queries.displays, job_id, job.attempt))

    async def list_artifacts(self, job_id: str) -> builtins.list[JobArtifact]:
        """Return the files kept with the job; none for an unknown job."""
        job = await self.get(job_id)
        return [] if job is None else list(job.artifacts)

    # Workers

    async def acquire_lease(
        self,
        worker_id: str,
        org_id: str | None = None,
        kinds: Iterable[str] | None = None,
        resources: Resources | dict[str, Any] | None = None,
    ) -> Job | None:
        """Lease the next job for a worker, or return None at once.

        Parameters
        ----------
        worker_id : str
            Registered by this call if it is not.
        org_id : str, optional
            Jobs of this org only.
        kinds : iterable of str, optional
            Kinds of jobs; None is the worker's own.
        resources : Resources or dict, optional
            What is free; None is no limit.
        """
        await self.open()
        if not self._desk.is_registered(worker_id):
            await self.register_worker(WorkerInfo(id=worker_id))
        info = self._desk.record(worker_id).info
        free = msgspec.convert(resources, Resources) if isinstance(resources, dict) else resources
        want = Want.of([info.kind] if kinds is None else kinds, org_id or info.org_id, free)
        return await self._desk.acquire(worker_id, want)

    async def renew_lease(self, job_id: str, worker_id: str | None = None, attempt: int | None = None) -> bool:
        """Give a running attempt's lease a full term; return False if it is over or not the worker's."""
        await self.open()
        return self._desk.renew(job_id, worker_id, attempt)

    async def register_worker(self, info: WorkerInfo) -> Registered:
        """Register a worker; one that is known goes on with its leases."""
        await self.open()
        text = msgspec.json.encode(info).decode()
        await self.storage.write(lambda database: database.save_worker(info.id, text))
        return self._desk.register(info)

    async def lease(self, worker_id: str, req: LeaseRequest) -> LeaseAnswer:
        """Answer when a job fits or a cancel is due, else, empty, after ``wait_secs``.

        May be cancelled: what was leased by then is found by a repeat with the same ``request_id``.

        Raises
        ------
        WorkerNotFound
            If the worker has to register first.
        """
        await self.open()
        return await self._desk.lease(worker_id, req)

    async def heartbeat(self, worker_id: str, req: HeartbeatRequest) -> HeartbeatAnswer:
        """Renew a worker's leases and say how each of its attempts stands.

        Raises
        ------
        WorkerNotFound
            If the worker has to register first.
        """
        await self.open()
        return self._desk.heartbeat(worker_id, req)

    def workers(self) -> builtins.list[WorkerInfo]:
        """Return the registered workers, by id."""
        return self._desk.workers()

    async def take_events(self, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        """Take a worker's events; what is answered with ``ok`` is durable.

        Raises
        ------
        WorkerNotFound
            If the worker has to register first.
        """
        await self.open()
        self._desk.record(worker_id)
        return EventBatchAnswer(await self._take(batch.events, worker_id))

    async def handle_worker_event(self, event: WorkerEvent) -> None:
        """Take one event in process; without numbers it means the current attempt, and the next.

        Raises
        ------
        JobNotFound
            If there is no such job.
        StaleAttempt
            If the attempt is over or another worker's.
        Conflict
            If events before it are missing.
        InvalidSpec
            If it does not hold.
        """
        if await self.get(event.job_id) is None:
            raise JobNotFound(f"No job {event.job_id}.")
        if isinstance(event, JobStarted) and event.worker_id and not self._desk.is_registered(event.worker_id):
            await self.register_worker(WorkerInfo(id=event.worker_id))
        (result,) = await self._take([event], None)
        if result.status == "stale":
            raise StaleAttempt(f"Attempt {result.attempt} of job {event.job_id} is stale. {result.message}")
        if result.status == "gap":
            raise Conflict(f"Events after {result.high} are missing.", high=result.high)
        if result.status == "invalid":
            raise InvalidSpec(result.message)

    async def _take(self, events: Sequence[WorkerEvent], worker_id: str | None) -> builtins.list[EventResult]:
        kept, absent = await keep_files(self.artifacts, events)
        ended = await self._fetch({event.job_id for event in events})
        taken: builtins.list[WorkerEvent] = []

        def decide(turn: Turn) -> builtins.list[EventResult]:
            turn.borrow(ended)
            return self._intake.take(turn, kept, worker_id, absent, taken)

        results: builtins.list[EventResult] = await self._commits.run(decide)
        self.events.extend(taken)
        return results

    def subscribe(self, topics: Iterable[str] | None = None, after: int | None = None) -> Subscription:
        """Follow events.

        Parameters
        ----------
        topics : iterable of str, optional
            ``jobs/{id}`` and ``orgs/{org}``; None is everything.
        after : int, optional
            First all events with a greater number, from the store; None begins now.

        Returns
        -------
        Subscription
            Each matching event once, in order.

        Raises
        ------
        Malformed
            If a topic is none.
        """
        return self._bus.subscribe(topics, after)

    async def _read_events(
        self, after: int, upto: int, jobs: builtins.list[str] | None, orgs: builtins.list[str] | None, limit: int
    ) -> tuple[builtins.list[queries.StoredEvent], int]:
        return await self.storage.read(queries.events_between, after, upto, jobs, orgs, limit)

    # What passes with time

    def start_lease_cleanup(self) -> None:
        """Expire leases in the background from now on; harmless when it runs already."""
        if self._cleanup is None or self._cleanup.done():
            self._cleanup = asyncio.get_running_loop().create_task(self._clean_up())

    async def _clean_up(self) -> None:
        await self.open()
        while True:
            await asyncio.sleep(min(MAX_CLEANUP_PAUSE_SECS, max(0.05, self.lease_ttl_secs / 10)))
            try:
                await self.expire_leases()
            except ZBrainError as error:
                log.warning("Leases could not be expired; it is tried again.", extra={"why": str(error)})

    async def expire_leases(self) -> int:
        """End the attempts whose workers fell silent; return how many."""
        await self.open()
        return await self._desk.expire()

    async def fold(self) -> None:
        """Bring the jobs table of the store up to date now, for who reads it with SQL."""
        await self.open()
        await self._folder.fold()

    def tick(self) -> None:
        """Offer the jobs whose back-off is over to the workers; the queue's own timer calls this."""
        self._timer = None
        self._index.due()
        self._serve()

    def _serve(self) -> None:
        if not self._is_open:
            return
        self._desk.serve()
        self._folder.nudge()
        delayed = self._index.delayed
        if delayed and (self._timer is None or delayed[0][0] < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = delayed[0][0]
            pause = max(0.0, self._timer_at - self._clock.time())
            self._timer = asyncio.get_running_loop().call_later(pause, self.tick)
