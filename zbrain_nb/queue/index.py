"""The jobs that are in memory, as they were committed, and what hangs on them.

All jobs are that run, that are tried again, or that wait for other jobs; of those that could run at once, the
windows of their lanes (`lanes.py`).
"""

from __future__ import annotations

import gc
import heapq
from collections import OrderedDict
from collections.abc import Iterable
from copy import copy

import msgspec

from zbrain_nb.model.job import Job, JobState
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.keys import Keys
from zbrain_nb.queue.lanes import Lane, Place
from zbrain_nb.queue.leases import Leases
from zbrain_nb.queue.moments import Moment
from zbrain_nb.queue.quotas import QuotaBook
from zbrain_nb.queue.ready import ReadyQueues
from zbrain_nb.queue.stored import StoredBytes
from zbrain_nb.store.footprint import JOB_BYTES, extra_bytes
from zbrain_nb.store.rows import encode

#: Ended jobs that are kept in memory, for those who ask at once; and about how much they take, together and each.
RECENT = 2_000
RECENT_BYTES, MOST_RECENT_BYTES_EACH = 64 * 1024 * 1024, 8 * 1024 * 1024
#: See `Index.spare_collector`.
FREEZE_STEP = 5_000


class Entry(msgspec.Struct, gc=False):
    """A job with what the queue keeps beside it. Copied, not changed, once it is in the index.

    Attributes
    ----------
    job : Job
        The snapshot that callers get.
    order : int
        ``event_seq`` of the submit.
    rank : int
        The place in its lane, before `order`.
    lane : Lane or None
        Where it waits or was leased from; None for a job that ended.
    blockers : set of str
        Jobs of `JobSpec.after` that have not ended. The one thing that changes in place.
    high : int
        The highest ``worker_seq`` of the current attempt.
    log_seq : int
        The next number of the job's log.
    past : dict of int to int
        The highest ``worker_seq`` of earlier attempts.
    size : int
        About how many bytes of memory it takes.
    """

    job: Job
    order: int
    rank: int = 0
    lane: Lane | None = None
    blockers: set[str] | frozenset[str] = frozenset()
    high: int = 0
    log_seq: int = 0
    past: dict[int, int] = {}
    size: int = JOB_BYTES

    def copy(self) -> Entry:
        """Return a copy to change."""
        return copy(self)

    @property
    def place(self) -> Place:
        """Where it stands in its lane."""
        return self.rank, self.order

    def is_ready(self, now: float) -> bool:
        """Whether a worker could take it."""
        job = self.job
        if job.state is JobState.PENDING:
            return not self.blockers
        return job.state is JobState.RETRYING and (job.not_before is None or job.not_before.timestamp() <= now)

    def may_park(self) -> bool:
        """Whether the store alone could keep it: nothing is known of it that its row does not say."""
        return self.job.state is JobState.PENDING and not self.job.attempt and not self.job.spec.after


def left_bytes(job: Job) -> int:
    """Return about how much memory it takes what a job's last attempt left, of one that has not ended."""
    left = (job.artifacts, job.variables, job.error, job.reason)
    return extra_bytes(encode(left)) if any(left) else 0


class Index:
    """What is known without asking the store.

    Attributes
    ----------
    live : dict of str to Entry
        Jobs in memory that have not ended.
    recent : dict of str to Entry
        The last that ended.
    unfolded : dict of str to Job
        Jobs whose row in the store does not show their present state yet.
    unfolded_bytes : int
        About what those take that have ended since folding began last.
    stored : StoredBytes
        How many bytes who stores.
    keys : Keys
        Idempotency keys.
    children : dict of str to list of str
        Who waits for a job that has not ended.
    applied_seq : int
        The last ``event_seq`` that was taken over.
    moment : Moment
        From which on it is noted who ends and leaves the memory: for who reads from now on.
    """

    def __init__(self, clock: Clock, quotas: QuotaBook, stored: StoredBytes) -> None:
        self._clock = clock
        self.stored = stored
        self.live: dict[str, Entry] = {}
        self.recent: OrderedDict[str, Entry] = OrderedDict()
        self.unfolded: dict[str, Job] = {}
        self.unfolded_bytes = 0
        self.keys = Keys()
        self.children: dict[str, list[str]] = {}
        self.ready = ReadyQueues(quotas)
        self.delayed: list[tuple[float, str]] = []
        self.leases = Leases(clock)
        self.applied_seq = 0
        self.moment = Moment()
        self.last_base = 0
        self._recent_bytes = 0
        self._freeze_at = FREEZE_STEP

    def get(self, job_id: str) -> Entry | None:
        """Return the job, if it is live and in memory, or ended of late."""
        return self.live.get(job_id) or self.recent.get(job_id)

    def rank_base(self, now: float) -> int:
        """Return the time from which ranks are counted, in microseconds; it never goes back."""
        self.last_base = max(self.last_base, round(now * 1e6))
        return self.last_base

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
            self.applied_seq = max(self.applied_seq, job.event_seq)
            old = self.live.get(job.id)
            if old is None and job.state is JobState.PENDING:
                self._add(entry)
            else:
                self._replace(old, entry)

    def _add(self, entry: Entry) -> None:
        """Take over a new job: into memory, or only into the count of those that are parked."""
        lane, ready = self._known_lane(entry), self.ready
        ready.count(lane, 1, 0)
        place = entry.place
        if entry.job.spec.after:
            self.live[entry.job.id] = entry
            self._weigh(lane, entry, 1)
            if not entry.blockers:
                ready.push(lane, place, entry.job.id)
        elif ready.admits(lane, place, entry.size):
            self.live[entry.job.id] = entry
            self._weigh(lane, entry, 1)
            ready.push(lane, place, entry.job.id)
            if ready.is_overfull(lane):
                self.spill(lane)
        else:
            ready.park(lane, entry)

    def _known_lane(self, entry: Entry) -> Lane:
        """Return the entry's lane; one that was forgotten while the entry was decided is made again."""
        lane = entry.lane
        if lane is None or not lane.is_known:
            lane = entry.lane = self.ready.lane(entry.job)
        return lane

    def restore(self, entry: Entry) -> None:
        """Take over a live job from the store; one that waits for others is lined up by who knows their states."""
        job, lane = entry.job, self._known_lane(entry)
        runs = job.state is JobState.RUNNING
        self.live[job.id] = entry
        self.ready.count(lane, not runs, runs)
        self._weigh(lane, entry, 1)
        if runs:  # and its worker was told so, as far as anybody knows by now
            self.leases.grant(job.id, job.worker_id or "", job.attempt, answers=1)
        elif job.state is JobState.RETRYING or not job.spec.after:
            self.line_up(entry)

    def _weigh(self, lane: Lane, entry: Entry, sign: int) -> None:
        """Count what a job takes that is in memory, or (-1) was."""
        if entry.may_park():
            self.ready.memory.hold(lane, sign * entry.size)
        elif size := sign * (entry.size - JOB_BYTES):
            if entry.job.state is not JobState.RUNNING:
                self.ready.memory.keep(lane, size)
            if entry.job.attempt:
                self.ready.begin(lane, size)

    def spill(self, lane: Lane) -> None:
        """Leave the far end of a window that grew too long to the store."""
        # A job may stand in it twice, lined up again after a commit failed: parked at the bound it would never be read.
        lane.window = sorted(set(lane.window))
        size = self._fitting(lane)
        kept, rest = lane.window[:size], lane.window[size:]
        bound = kept[-1][:2]
        lane.bound = bound if lane.bound is None else min(lane.bound, bound)
        lane.epoch += 1
        for rank, order, job_id in rest:
            entry = self.live.get(job_id)
            if entry is None:
                continue
            if entry.may_park():
                del self.live[job_id]
                self.ready.memory.hold(lane, -entry.size)
                self.ready.park(lane, entry)
            else:
                kept.append((rank, order, job_id))
        lane.window = kept

    def _fitting(self, lane: Lane) -> int:
        """Return how many of a sorted window stay: of those that take much, half."""
        most = self.ready.window_size
        if not self.ready.memory.is_heavy(lane):
            return most
        free = lane.held // 2
        for number, (_, _, job_id) in enumerate(lane.window[:most]):
            entry = self.live.get(job_id)
            free -= entry.size if entry is not None and entry.may_park() else 0
            if free < 0 and number:
                return number
        return most

    def unpark(self, entry: Entry) -> bool:
        """Take a parked job into its window, unless it is known already or has ended; return whether it was taken."""
        job_id = entry.job.id
        if job_id in self.live or job_id in self.recent or job_id in self.unfolded:
            return False
        lane = self._known_lane(entry)
        self.live[job_id] = entry
        self.ready.memory.hold(lane, entry.size)
        self.ready.unpark(lane)
        lane.push(entry.place, job_id)
        return True

    def _replace(self, old: Entry | None, entry: Entry) -> None:
        job = entry.job
        state = job.state
        lane = self._known_lane(entry)
        was = old.job.state if old is not None else JobState.PENDING
        if old is None:
            if job.spec.after:  # it was refused as it came, for a parent that had failed
                self.ready.count(lane, 1, 0)
            else:
                self.ready.unpark(lane)
        self._count(lane, was, state)
        if old is not None:
            self._weigh(lane, old, -1)
            lane.again.pop(job.id, None)
        if state.ended:
            self.live.pop(job.id, None)
            entry.lane = None
            self.remember(entry)
            self.unfolded[job.id] = job
            self.unfolded_bytes += entry.size
            self.leases.release(job.id)
            self._unblock_children(job.id)
            return
        self.live[job.id] = entry
        self._weigh(lane, entry, 1)
        if was is state and old is not None and old.job.attempt == job.attempt:
            if job.cancel_requested_at is not None and job.worker_id is not None:
                self.leases.canceling.add(job.worker_id)
            return
        self.unfolded[job.id] = job
        if state is JobState.RUNNING:
            self.leases.grant(job.id, job.worker_id or "", job.attempt)
        else:
            self.leases.release(job.id)
            self.line_up(entry)

    def _count(self, lane: Lane, was: JobState, state: JobState) -> None:
        ran, runs = was is JobState.RUNNING, state is JobState.RUNNING
        waited, waits = not ran and not was.ended, not runs and not state.ended
        if ran != runs or waited != waits:
            self.ready.count(lane, waits - waited, runs - ran)

    def line_up(self, entry: Entry) -> None:
        """Put a waiting job where a lease or the clock will find it."""
        job = entry.job
        if entry.is_ready(self._clock.time()):
            lane = self._known_lane(entry)
            self.ready.push(lane, entry.place, job.id)
            if job.attempt:
                lane.again[job.id] = None
        elif job.state is JobState.RETRYING and job.not_before is not None:
            heapq.heappush(self.delayed, (job.not_before.timestamp(), job.id))

    def remember(self, entry: Entry) -> None:
        """Keep an ended job for a while, unless it takes the room of many."""
        job_id = entry.job.id
        before = self.recent.pop(job_id, None)
        self._recent_bytes -= before.size if before is not None else 0
        if entry.size > MOST_RECENT_BYTES_EACH:
            self.moment = self.moment.pass_on(job_id)
            return
        self.recent[job_id] = entry
        self._recent_bytes += entry.size
        while len(self.recent) > RECENT or self._recent_bytes > RECENT_BYTES:
            oldest_id, oldest = self.recent.popitem(last=False)
            self._recent_bytes -= oldest.size
            self.moment = self.moment.pass_on(oldest_id)

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
                self.line_up(entry)
                found.append(entry)
        return found
