"""Lanes: the waiting jobs that a worker may not tell apart, in order, the first of them in memory.

A lane holds the jobs of one kind, org, owner, need of resources, concurrency group and limit of that. Its order
never changes while jobs wait: the *rank* of a job is the time of its submit, put back by `AGING_SECS` for each point
of priority. So a higher priority goes first, and whoever waits long enough overtakes it all the same.

Only the head of a lane, its *window*, is in memory. What lies behind is *parked*: its rows are in the store
alone, and the window is filled from there when it runs low (`refill.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from zbrain_nb.model.job import Job, Resources

if TYPE_CHECKING:
    from zbrain_nb.queue.index import Entry

#: One point of priority is worth so much waiting.
AGING_SECS = 3600.0
_AGING_MICROS = round(AGING_SECS * 1e6)

#: One owner's jobs that have not ended are in so many lanes at most.
MAX_LANES_EACH = 1_000

#: ``(rank, order)``: where a job stands in its lane; `order` is the ``event_seq`` of its submit.
Place = tuple[int, int]


class LaneKey(NamedTuple):
    """What the jobs of a lane have in common."""

    kind: str
    org_id: str
    owner: str
    resources: Resources
    group: str | None
    limit: int = 1

    @classmethod
    def of(cls, job: Job) -> LaneKey:
        """Return the key of the lane in which `job` waits."""
        spec = job.spec
        kind, group, limit = spec.worker.partition(":")[0], spec.concurrency_group, spec.concurrency_limit
        return cls(kind, job.org_id, job.owner, spec.resources, group, limit)

    def as_text(self) -> str:
        """Return it as the store keeps it; a limit of 1 is left out, as it was before there were others."""
        need = self.resources
        parts = [self.kind, self.org_id, self.owner, float(need.cpus), need.memory_mb, need.gpus, self.group]
        return msgspec.json.encode(parts if self.limit == 1 else [*parts, self.limit]).decode()

    @classmethod
    def from_text(cls, text: str) -> LaneKey:
        """Read what `as_text` wrote."""
        kind, org_id, owner, cpus, memory_mb, gpus, group, *limit = msgspec.json.decode(text)
        return cls(kind, org_id, owner, Resources(cpus, memory_mb, gpus), group, *limit)


def rank_of(micros: int, priority: int) -> int:
    """Return the rank of a job submitted at `micros` (since the epoch); the smaller goes first."""
    return micros - priority * _AGING_MICROS


def base_of(rank: int, priority: int) -> int:
    """Return the time, in microseconds since the epoch, of which `rank_of` made a rank."""
    return rank + priority * _AGING_MICROS


class Account:
    """Counts the jobs of an org, an owner or a concurrency group.

    Attributes
    ----------
    name : str
        Of which.
    waiting, running : int
        How many jobs have not ended, without and with an attempt under way.
    lanes : int
        How many lanes count here.
    held : dict of Lane to None
        Lanes that are passed over until fewer run here.
    kept : int
        About how many bytes those that wait take beside `JOB_BYTES` each, if they cannot be parked.
    begun : int
        The same of those that run or are tried again.
    first : int
        The same of the largest of each lane that could be parked: it may be the lane's first.
    """

    __slots__ = ("begun", "first", "held", "kept", "lanes", "name", "running", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting = 0
        self.running = 0
        self.lanes = 0
        self.held: dict[Lane, None] = {}
        self.kept = 0
        self.begun = 0
        self.first = 0


class Lane:
    """One lane.

    Attributes
    ----------
    window : list
        A heap of ``(rank, order, job id)``; jobs that moved on stay in it until they come to its head.
    parked : int
        How many waiting jobs lie in the store alone.
    bound : Place or None
        Every parked job stands behind it, and every other that could be parked before or at it. Holds while
        jobs are parked.
    arrived : list of Entry or None
        While the window is filled from the store: jobs that were parked meanwhile.
    epoch : int
        Grows when jobs left the window for the store: what was read before is out of date.
    listed_at : Place or None
        Under which place the lane stands among the lanes that can be served; None if it does not.
    members, running : int
        Jobs of the lane that have not ended, wherever they are, and those with an attempt under way.
    held : int
        About how many bytes its jobs in memory take that could be parked.
    again : dict of str to None
        Jobs in the window that have been tried before, unless one was let go next.
    largest : int
        About how many bytes the largest of these took that is known, beside `JOB_BYTES`.
    """

    __slots__ = (
        "again", "arrived", "bound", "epoch", "group", "held", "is_known", "key", "largest", "listed_at", "members",
        "names", "org", "owner", "parked", "running", "text", "window",
    )  # fmt: skip
    window: list[tuple[int, int, str]]
    arrived: list[Entry] | None

    def __init__(self, key: LaneKey, org: Account, owner: Account, group: Account | None) -> None:
        for account in (org, owner, group):
            if account is not None:
                account.lanes += 1
        self.key = key
        self.text = key.as_text()
        self.names = key.kind, key.org_id, key.owner, key.group, key.limit
        self.org, self.owner, self.group = org, owner, group
        self.window = []
        self.again: dict[str, None] = {}
        self.parked = 0
        self.bound: Place | None = None
        self.arrived = None
        self.epoch = 0
        self.listed_at: Place | None = None
        self.members = self.running = self.held = self.largest = 0
        self.is_known = True

    def note_size(self, size: int) -> None:
        """Count what a job takes beside `JOB_BYTES` that comes to the lane, if none before it took as much."""
        if size > self.largest:
            self.owner.first += size - self.largest
            self.largest = size

    def admits(self, place: Place, *, has_room: bool) -> bool:
        """Whether a new job at `place` belongs into the window, which may have room for it, not among the parked."""
        if not self.parked:
            if has_room or not self.window:
                return True
            self.bound = max(self.window)[:2]
        assert self.bound is not None, "parked jobs have a bound"
        return place <= self.bound

    def park(self, entry: Entry) -> None:
        """Count a job that is in the store alone from now on."""
        self.parked += 1
        if self.arrived is not None:
            self.arrived.append(entry)

    def head(self) -> Place | None:
        """Return the first place of the window, unless parked jobs may stand before it."""
        if not self.window:
            return None
        place = self.window[0][:2]
        return None if self.parked and self.bound is not None and place > self.bound else place

    def before(self, place: Place) -> Iterator[str]:
        """Yield the ids of the jobs in the window that stand before `place`, in no order.

        In a heap nothing stands before what it is below, so that none of the others is looked at but their topmost.
        """
        window, todo = self.window, [0]
        while todo:
            at = todo.pop()
            if at < len(window) and window[at] < place:
                yield window[at][2]
                todo += (2 * at + 1, 2 * at + 2)

    def push(self, place: Place, job_id: str) -> None:
        """Add a job to the window."""
        heapq.heappush(self.window, (*place, job_id))
