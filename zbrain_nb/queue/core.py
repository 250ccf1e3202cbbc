"""What both faces of the queue stand on: opening and closing, the memory, and what passes with time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from types import TracebackType
from typing import Any, Self

import msgspec

from zbrain_nb.model.access import Principal, among
from zbrain_nb.model.account import account_name
from zbrain_nb.model.errors import TooLarge, ZBrainError
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.quotas import Quotas
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.queue.background import Background
from zbrain_nb.queue.bindings import is_of
from zbrain_nb.queue.bus import Bus
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.commits import Commits
from zbrain_nb.queue.endings import Endings
from zbrain_nb.queue.grants import Grants
from zbrain_nb.queue.index import Entry, Index
from zbrain_nb.queue.intake import Intake
from zbrain_nb.queue.loading import Folder, load, restore_positions, size_of
from zbrain_nb.queue.lograte import LogRates
from zbrain_nb.queue.past import Past
from zbrain_nb.queue.quotas import QuotaBook
from zbrain_nb.queue.refill import Refill
from zbrain_nb.queue.stored import StoredBytes
from zbrain_nb.queue.taken import TakenEvents
from zbrain_nb.queue.turn import Borrowed, Command, LookAgain, Turn
from zbrain_nb.queue.watch import Watch
from zbrain_nb.queue.withdrawals import MayRun, Withdrawals, anybody_may, why_running
from zbrain_nb.queue.workers import WorkerDesk
from zbrain_nb.store import queries, waiting
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.storage import Storage, is_id

log = logging.getLogger(__name__)

MAX_CLEANUP_PAUSE_SECS = 5.0
#: What the jobs may take in memory that one command reads from the store; and what is so much that such commands are
#: decided one after the other.
BORROWED_BYTES, MUCH_BYTES = 256 * 1024 * 1024, 8 * 1024 * 1024


class QueueCore:
    """Index, decider, desk and bus, and what passes with time (the parameters are those of `JobQueue`)."""

    def __init__(
        self,
        storage: Storage,
        artifacts: str | os.PathLike[str] | ArtifactStore,
        *,
        lease_ttl_secs: float = 300.0,
        default_org_id: str = "default",
        owner: str | None = None,
        clock: Clock | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self.storage = storage
        self.artifacts = artifacts if isinstance(artifacts, ArtifactStore) else ArtifactStore(artifacts)
        self.default_org_id = default_org_id
        self.owner = owner or account_name()
        self.events = TakenEvents()
        #: Whether the values of a job's secrets are kept; only a host does that.
        self.holds_secrets: Callable[[str], bool] = lambda job_id: False
        #: Whether the owner of a job may have it run by now; asked before somebody else's worker gets it.
        self.may_run: MayRun = anybody_may
        #: Whether the token of who asks has ended: their requests for jobs that are under way get nothing.
        self.is_out: Callable[[Principal], bool] = lambda scope: False
        self._clock = clock or Clock()
        self.quotas = QuotaBook(quotas or Quotas())
        self.stored = StoredBytes(self.quotas, self.artifacts, self.owner)
        self.grants = Grants(self.storage, self.artifacts, self.owner, self.stored)
        self._opening: asyncio.Lock | None = None
        self._is_open = False
        self._cleanup = Background(self._clean_up)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._bus = Bus(Past(self.storage, self.get), self.open, self.quotas)
        self._watch = Watch(self._bus)
        self._keys_since = 0.0
        self._set_up(lease_ttl_secs)

    def _set_up(self, lease_ttl_secs: float) -> None:
        self._much = asyncio.Lock()
        self._index = Index(self._clock, self.quotas, self.stored)
        self._index.leases.ttl_secs = lease_ttl_secs
        self._commits = Commits(self.storage, self._index, self._clock, self._watch.publish, self._serve)
        self._commits.measure = self._watch.metrics.committed
        self._endings = Endings(self._index)
        self._withdrawals = Withdrawals(
            self._index,
            self._commits,
            self._endings,
            self._clock,
            self.storage,
            lambda: self.may_run,
            lambda: self.is_out,
        )
        self._desk = WorkerDesk(self._index, self._commits, self._endings, self._clock, self._withdrawals)
        self._rates = LogRates(self.quotas, self._clock)
        self._intake = Intake(self._endings, self._desk.start, self._rates, self._index.leases)
        self._folder = Folder(self.storage, self._index)
        self._refill = Refill(self.storage, self._index, self._serve)
        self._key_reader: asyncio.Task[None] | None = None

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
                self._desk.known_before = await load(self.storage, self._index, self._clock.time())
                await self._withdrawals.load()
                await self.stored.load(self.storage)
                self._watch.metrics.begin(
                    (entry.job.state for entry in self._index.live.values()), parked=self._index.ready.parked
                )
                self._bus.start(self.storage.last_seq)
                self._is_open = True
                self._key_reader = asyncio.get_running_loop().create_task(self._read_keys(self._index))
                self._serve()
        return self

    async def _read_keys(self, index: Index) -> None:
        try:
            index.keys.add_stored(await self.storage.read(waiting.key_fingerprints))
        except ZBrainError as error:
            log.warning("Idempotency keys were not read; the store is asked for each.", extra={"why": str(error)})

    async def close(self) -> None:
        """Finish commits under way, fold, and close the store; harmless when closed."""
        if self._opening is None:
            return
        async with self._opening:
            if self._is_open:
                self._is_open = False
                await self._shut_down()

    async def _shut_down(self) -> None:
        await self._cleanup.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            await self._desk.close()
            await self._commits.drain()
            if self._key_reader is not None:
                self._key_reader.cancel()
                await asyncio.gather(self._key_reader, return_exceptions=True)
            await self._refill.stop()
            self._bus.close()
            self._watch.ring.clear()
            await self._folder.stop()
        finally:
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
        return len(self._index.live) + self._index.ready.parked

    def running_attempt(self, job_id: str, attempt: int) -> Job | None:
        """Return the job if this is its running attempt, also while that is being canceled, else None.

        An attempt whose lease was revoked is none: its token, for one, opens nothing.
        """
        return self._index.live[job_id].job if self._index.leases.is_in_force(job_id, attempt) else None

    def runs_at_owners(self, job: Job) -> bool:
        """Whether the worker that has or had the job is its owner's own, or of who holds the data directory."""
        return job.worker_id is not None and is_of(self._desk.holder_of(job.worker_id), job.owner)

    async def get(self, job_id: str, *, scope: Principal | None = None) -> Job | None:
        """Return the job as it is now, or None if there is none of this id.

        Parameters
        ----------
        scope : Principal, optional
            Who asks: what they do not see does not exist for them. None, here and in all methods of the queue, is
            trusted code in this process.
        """
        await self.open()
        entry = self._index.get(job_id)
        if entry is not None:
            return self._shown(entry, alone=True, reader=scope) if self._sees(scope, entry.job) else None
        job = await self.storage.get_job(job_id)
        return None if job is None or not self._sees(scope, job) else self._present(job)

    async def is_over(self, job_id: str) -> bool:
        """Whether the job has ended, or there is none; asks for less than `get`, for who asks about many often."""
        await self.open()
        entry = self._index.get(job_id)
        job = self._index.unfolded.get(job_id) if entry is None else entry.job
        if job is None:
            job = await self.storage.get_job(job_id)
        return job is None or job.state.ended

    def _sees(self, scope: Principal | None, job: Job) -> bool:
        """Whether the job exists for who asks; for a worker's token, what its workers have or had leased."""
        if scope is None or scope.roles is None:
            return True
        if scope.worker is not None:
            mine = scope.worker.admits(job.org_id, job.owner, job.spec.kind)
            return mine and job.worker_id is not None and self._desk.holder_of(job.worker_id) == scope.holder
        return scope.sees(job.org_id)

    async def _is_hidden(self, job_id: str, scope: Principal | None) -> bool:
        """Whether there is no such job for who asks; who sees all need not be asked for."""
        return scope is not None and scope.roles is not None and await self.get(job_id, scope=scope) is None

    async def _weigh(self, ids: Iterable[str], scope: Principal | None = None) -> int:
        """Return about how much memory it takes to read jobs from the store, of those that `scope` sees."""
        asked = [job_id for job_id in set(ids) if is_id(job_id) and self._index.get(job_id) is None]
        return await self.storage.read(queries.memory_bytes, asked, among(scope, None)) if asked else 0

    async def _in_orgs(self, ids: set[str], orgs: Collection[str]) -> set[str]:
        """Return those of the jobs that are in memory, or in these orgs: others are read, and weighed, for nobody."""
        asked = [job_id for job_id in ids if is_id(job_id) and self._index.get(job_id) is None]
        if not asked:
            return ids
        return ids - set(asked) | set(await self.storage.read(queries.ids_in_orgs, asked, orgs))

    @contextlib.asynccontextmanager
    async def _room_for(self, ids: Collection[str]) -> AsyncIterator[None]:
        """Let commands that read much from the store have it in memory one after the other.

        Raises
        ------
        TooLarge
            If it is too much even for one.
        """
        size = await self._weigh(ids) if len(ids) > 1 else 0
        if size > BORROWED_BYTES:
            raise TooLarge(
                f"The {len(ids):,} jobs that are named take more than {format_kib(BORROWED_BYTES / 1024)} of memory.",
                "Name fewer at once, or send what is large in jobs as blobs.",
            )
        async with self._much if size > MUCH_BYTES else contextlib.nullcontext():
            yield

    async def _borrow(self, ids: Iterable[str]) -> Borrowed:
        """Return those of the jobs that may not be in memory at the command's turn: ended ones, and parked ones.

        An ended one in memory is held until then: to remember others of the jobs may put it out, and it never changes.
        """
        wanted = set(ids)
        known = {job_id: entry for job_id in wanted if (entry := self._index.get(job_id)) is not None}
        ended = {job_id: entry for job_id, entry in known.items() if entry.job.state.ended}
        asked = [job_id for job_id in wanted - known.keys() if is_id(job_id)]
        borrowed = Borrowed(ended, self._index.moment, frozenset(known.keys() - ended.keys()))
        if not asked:
            return borrowed
        found = await self.storage.read(waiting.placed_by_id, asked)
        highs, log_seqs = await self.storage.read(queries.positions, [one.job.id for one in found if one.job.attempt])
        borrowed.absent = frozenset(asked) - {one.job.id for one in found}
        for one in found:
            job = one.job
            entry = borrowed.entries[job.id] = Entry(job, one.order, one.rank, size=size_of(one))
            restore_positions(entry, highs.get(job.id, {}), log_seqs.get(job.id, 0))
            if job.state.ended and self._index.get(job.id) is None:
                self._index.remember(entry)
        return borrowed

    async def _decide(self, ids: Iterable[str], command: Command) -> Any:
        """Run a command that may look at the jobs `ids`, wherever they are kept."""
        wanted = set(ids)
        while True:
            async with self._room_for(wanted):
                borrowed = await self._borrow(wanted)

                def decide(turn: Turn, borrowed: Borrowed = borrowed) -> Any:
                    turn.borrow(borrowed)
                    return command(turn)

                try:
                    return await self._commits.run(decide)
                except LookAgain as error:
                    wanted.update(error.details.get("ids", ()))

    def _shown(self, entry: Entry, *, alone: bool = False, reader: Principal | None = None) -> Job:
        job = entry.job
        if job.state is JobState.PENDING:
            return msgspec.structs.replace(job, reason=self._desk.why_waiting(entry, in_line=alone, reader=reader))
        if job.state is JobState.RUNNING and self._index.leases.is_revoked(job.id, job.attempt):
            return msgspec.structs.replace(job, reason=why_running(job.worker_id or ""))
        return job

    def _present(self, row: Job) -> Job:
        entry = self._index.get(row.id)
        if entry is None:
            entry = Entry(self._index.unfolded.get(row.id, row), row.event_seq)
        return self._shown(entry)

    # What passes with time

    def start_lease_cleanup(self) -> None:
        """Expire leases in the background from now on; harmless when it runs already."""
        self._cleanup.start()

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

    @property
    def clock(self) -> Clock:
        """The queue's clock."""
        return self._clock

    def ids_in_memory(self) -> set[str]:
        """Return the jobs that live in memory, and those whose end the store's table does not show yet."""
        return {*self._index.live, *self._index.unfolded}

    def forget_keys(self, before: float) -> None:
        """Forget the idempotency keys that were taken before `before`, seconds since the epoch."""
        self._keys_since = before
        self._index.keys.forget(before)

    async def fold(self) -> None:
        """Bring the jobs table of the store up to date now, for who reads it with SQL."""
        await self.open()
        await self._folder.fold()

    def tick(self) -> None:
        """Offer the jobs whose back-off is over to the workers; the queue's own timer calls this."""
        self._timer = None
        self._index.due()
        self._serve()

    def _serve_all(self) -> None:
        """Let all waiting requests look again, after a pause or a limit changed."""
        self._desk.serve_all()
        self._serve()

    def _serve(self) -> None:
        if not self._is_open:
            return
        self._desk.serve()
        self._refill.nudge()
        self._folder.nudge()
        delayed = self._index.delayed
        if delayed and (self._timer is None or delayed[0][0] < self._timer_at):
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = delayed[0][0]
            pause = max(0.0, self._timer_at - self._clock.time())
            self._timer = asyncio.get_running_loop().call_later(pause, self.tick)
