"""The live jobs in memory, as they were committed, and what hangs on them."""

from __future__ import annotations

import gc
import heapq
from collections import OrderedDict
from collections.abc import Iterable
from copy import copy

import msgspec

from zbrain_nb.model.job import Job, JobState
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.leases import Leases
from zbrain_nb.queue.ready import ReadyQueues

#: Ended jobs that are kept in memory, for those who ask at once.
RECENT = 2_000
#: Idempotency keys kept in memory; older ones are asked of the store.
KEYS = 100_000
#: See `Index.spare_collector`.
FREEZE_STEP = 5_000


#: Owner and idempotency key.
KeyOf = tuple[str, str]
#: The job first submitted under a key, and the hash of its payload.
FirstOf = tuple[str, str]


class Entry(msgspec.Struct, gc=False):
    """A job with what the queue keeps beside it. Copied, not changed, once it is in the index.

    Attributes
    ----------
    job : Job
        The snapshot that callers get.
    order : int
        ``event_seq`` of the submit: the place in line.
    blockers : set of str
        Jobs of `JobSpec.after` that have not ended. The one thing that changes in place.
    high : int
        The highest ``worker_seq`` of the current attempt.
    log_seq : int
        The next number of the job's log.
    past : dict of int to int
        The highest ``worker_seq`` of earlier attempts.
    """

    job: Job
    order: int
    blockers: set[str] | frozenset[str] = frozenset()
    high: int = 0
    log_seq: int = 0
    past: dict[int, int] = {}

    def copy(self) -> Entry:
        """Return a copy to change."""
        return copy(self)

    def is_ready(self, now: float) -> bool:
        """Whether a worker could take it."""
        job = self.job
        if job.state is JobState.PENDING:
            return not self.blockers
        return job.state is JobState.RETRYING and (job.not_before is None or job.not_before.timestamp() <= now)


class Index:
    """What is known without asking the store.

    Attributes
    ----------
    live : dict of str to Entry
        Jobs that have not ended.
    recent : dict of str to Entry
        The last that ended.
    unfolded : dict of str to Job
        Jobs whose row in the store does not show their present state yet.
    keys : dict of (owner, key) to (job id, payload hash)
        Idempotency keys of late.
    children : dict of str to list of str
        Who waits for a live job.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.live: dict[str, Entry] = {}
        self.recent: OrderedDict[str, Entry] = OrderedDict()
        self.unfolded: dict[str, Job] = {}
        self.keys: OrderedDict[KeyOf, FirstOf] = OrderedDict()
        self.children: dict[str, list[str]] = {}
        self.ready = ReadyQueues()
        self.delayed: list[tuple[float, str]] = []
        self.leases = Leases(clock)
        self._freeze_at = FREEZE_STEP

    def get(self, job_id: str) -> Entry | None:
        """Return the job, if it is live or ended of late."""
        return self.live.get(job_id) or self.recent.get(job_id)

    def spare_collector(self) -> None:
        """Keep the garbage collector from walking many waiting jobs again and again (measured: 18 µs a submit).

        What waits is no garbage: each few thousand are looked at once and then set apart. They are freed as
        usual when their last reference goes.
        """
        waiting = len(self.live)
        if waiting >= self._freeze_at and gc.isenabled():
            gc.collect()
            gc.freeze()
            self._freeze_at = waiting + FREEZE_STEP
        elif waiting < self._freeze_at - 2 * FREEZE_STEP:
            self._freeze_at = waiting + FREEZE_STEP

    def apply(self, entries: Iterable[Entry]) -> None:
        """Take over jobs as they were committed."""
        for entry in entries:
            job = entry.job
            old = self.live.get(job.id)
            if old is None and job.state is JobState.PENDING:
                self.live[job.id] = entry
                if not entry.blockers:
                    self.ready.push(job, entry.order)
            else:
                self._replace(old, entry)

    def _replace(self, old: Entry | None, entry: Entry) -> None:
        job = entry.job
        state = job.state
        if state.ended:
            self.live.pop(job.id, None)
            self.remember(entry)
            self.unfolded[job.id] = job
            self.leases.release(job.id)
            self._unblock_children(job.id)
            return
        self.live[job.id] = entry
        if old is not None and old.job.state is state and old.job.attempt == job.attempt:
            return
        self.unfolded[job.id] = job
        if state is JobState.RUNNING:
            self.leases.grant(job.id, job.worker_id or "", job.attempt)
        else:
            self.leases.release(job.id)
            self.line_up(entry)

    def line_up(self, entry: Entry) -> None:
        """Put a waiting job where a lease or the clock will find it."""
        job = entry.job
        if entry.is_ready(self._clock.time()):
            self.ready.push(job, entry.order)
        elif job.state is JobState.RETRYING and job.not_before is not None:
            heapq.heappush(self.delayed, (job.not_before.timestamp(), job.id))

    def remember(self, entry: Entry) -> None:
        """Keep an ended job for a while."""
        self.recent[entry.job.id] = entry
        self.recent.move_to_end(entry.job.id)
        if len(self.recent) > RECENT:
            self.recent.popitem(last=False)

    def remember_keys(self, firsts: Iterable[tuple[KeyOf, FirstOf]]) -> None:
        """Keep idempotency keys for a while."""
        self.keys.update(firsts)
        while len(self.keys) > KEYS:
            self.keys.popitem(last=False)

    def add_child(self, parent_id: str, child_id: str) -> None:
        """Note that `child_id` waits for `parent_id`."""
        self.children.setdefault(parent_id, []).append(child_id)

    def _unblock_children(self, job_id: str) -> None:
        for child_id in self.children.pop(job_id, ()):
            child = self.live.get(child_id)
            if child is not None and job_id in child.blockers:
                assert isinstance(child.blockers, set)
                child.blockers.discard(job_id)
                self.line_up(child)

    def due(self) -> list[Entry]:
        """Move jobs whose back-off is over into the ready queues; return them."""
        now = self._clock.time()
        found = []
        while self.delayed and self.delayed[0][0] <= now:
            entry = self.live.get(heapq.heappop(self.delayed)[1])
            if entry is not None and entry.job.state is JobState.RETRYING and entry.is_ready(now):
                self.ready.push(entry.job, entry.order)
                found.append(entry)
        return found
