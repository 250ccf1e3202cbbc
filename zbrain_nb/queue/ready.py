"""Which jobs could run now, in the order in which they should.

Jobs of one kind, org and need of resources form a lane; within a lane, and between lanes, the higher priority
goes first, then the earlier submit. A need that fits nowhere therefore holds up its own lane only.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

import msgspec

from zbrain_nb.model.job import Job, Resources

_Lane = tuple[str, str, Resources]


class Want(msgspec.Struct, kw_only=True):
    """What a worker takes.

    Attributes
    ----------
    kinds : frozenset of str
        Kinds of jobs.
    org_id : str or None
        Of this org only; None is any.
    cpus, memory_mb, gpus : float or None
        What is free; None is no limit.
    """

    kinds: frozenset[str]
    org_id: str | None = None
    cpus: float | None = None
    memory_mb: float | None = None
    gpus: float | None = None

    @classmethod
    def of(cls, kinds: Iterable[str], org_id: str | None, free: Resources | None) -> Want:
        """Return a want for what is `free`; None is no limit."""
        if free is None:
            return cls(kinds=frozenset(kinds), org_id=org_id)
        return cls(kinds=frozenset(kinds), org_id=org_id, cpus=free.cpus, memory_mb=free.memory_mb, gpus=free.gpus)

    def fits(self, need: Resources) -> bool:
        """Whether `need` fits into what is free."""
        return (
            (self.cpus is None or need.cpus <= self.cpus)
            and (self.gpus is None or need.gpus <= self.gpus)
            and (self.memory_mb is None or (need.memory_mb or 0) <= self.memory_mb)
        )

    def less(self, need: Resources) -> Want:
        """Return what is free when `need` was given away."""
        return Want(
            kinds=self.kinds,
            org_id=self.org_id,
            cpus=None if self.cpus is None else self.cpus - need.cpus,
            memory_mb=None if self.memory_mb is None else self.memory_mb - (need.memory_mb or 0),
            gpus=None if self.gpus is None else self.gpus - need.gpus,
        )


class ReadyQueues:
    """The lanes. A job that was leased or canceled stays in its lane until it comes to the head."""

    def __init__(self) -> None:
        self._lanes: dict[_Lane, list[tuple[int, int, str]]] = {}

    def push(self, job: Job, order: int) -> None:
        """Add a job; `order` grows with the time of submit."""
        spec = job.spec
        lane = (spec.kind, job.org_id, spec.resources)
        heap = self._lanes.get(lane)
        if heap is None:
            heap = self._lanes[lane] = []
        heapq.heappush(heap, (-spec.priority, order, job.id))

    def may_fit(self, want: Want) -> bool:
        """Whether some lane has what is wanted; its jobs may turn out to be gone."""
        return any(self._serves(lane, want) for lane in self._lanes)

    def take(self, want: Want, is_ready: Callable[[str], bool]) -> str | None:
        """Remove and return the id of the first job that is wanted and still ready, or None."""
        best: list[tuple[int, int, str]] | None = None
        for lane in [lane for lane in self._lanes if self._serves(lane, want)]:
            heap = self._lanes[lane]
            while heap and not is_ready(heap[0][2]):
                heapq.heappop(heap)
            if not heap:
                del self._lanes[lane]
            elif best is None or heap[0] < best[0]:
                best = heap
        return heapq.heappop(best)[2] if best else None

    @staticmethod
    def _serves(lane: _Lane, want: Want) -> bool:
        kind, org_id, need = lane
        return kind in want.kinds and want.org_id in (None, org_id) and want.fits(need)
