"""Branches: the lanes of one kind in one org that have something to give; and what a worker wants of them.

`ready.py` keeps them and says whose turn it is.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable

import msgspec

from zbrain_nb.model.job import Resources
from zbrain_nb.queue.lanes import Lane

#: So many heads may lie about before they are looked through.
SPARE_HEADS = 64


class Want(msgspec.Struct, kw_only=True):
    """What a worker takes.

    Attributes
    ----------
    kinds : frozenset of str
        Kinds of jobs.
    orgs : frozenset of str or None
        Of these orgs only; None is any.
    owner : str or None
        Of this person only; None is any.
    cpus, memory_mb, gpus : float or None
        What is free; None is no limit.
    without : collection of str
        Nothing of these persons, as they are when it is looked at.
    only_calls : bool
        Nothing but plain calls (`JobSpec.is_plain_call`).
    only_rerunnable : bool
        Nothing but jobs that are run again when they are lost (`JobSpec.reruns_if_lost`).
    """

    kinds: frozenset[str]
    orgs: frozenset[str] | None = None
    owner: str | None = None
    cpus: float | None = None
    memory_mb: float | None = None
    gpus: float | None = None
    without: Collection[str] = frozenset()
    only_calls: bool = False
    only_rerunnable: bool = False

    @classmethod
    def of(cls, kinds: Iterable[str], orgs: frozenset[str] | None, owner: str | None, free: Resources | None) -> Want:
        """Return a want for what is `free`; None is no limit."""
        want = cls(kinds=frozenset(kinds), orgs=orgs, owner=owner)
        if free is not None:
            want.cpus, want.memory_mb, want.gpus = free.cpus, free.memory_mb, free.gpus
        return want

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
            orgs=self.orgs,
            owner=self.owner,
            cpus=None if self.cpus is None else self.cpus - need.cpus,
            memory_mb=None if self.memory_mb is None else self.memory_mb - (need.memory_mb or 0),
            gpus=None if self.gpus is None else self.gpus - need.gpus,
            without=self.without,
        )


class Branch:
    """The lanes of one kind in one org that have something to give.

    Attributes
    ----------
    heads : list
        A heap, first heads first; a lane that is listed elsewhere by now, or not at all, stays in it for a while.
    by_owner : dict of str to dict of Lane to None
        The lanes that are listed, for workers that take one person's jobs alone.
    needs : Counter of Resources
        What they need.
    """

    __slots__ = ("by_owner", "heads", "listed", "needs")

    def __init__(self) -> None:
        self.heads: list[tuple[int, int, int, Lane]] = []
        self.by_owner: dict[str, dict[Lane, None]] = {}
        self.listed = 0
        self.needs: Counter[Resources] = Counter()

    def add(self, lane: Lane) -> None:
        """Count a lane in that is listed from now on."""
        self.listed += 1
        self.needs[lane.key.resources] += 1
        self.by_owner.setdefault(lane.key.owner, {})[lane] = None

    def remove(self, lane: Lane) -> None:
        """Count a lane out that is not listed any more."""
        self.listed -= 1
        need, owner = lane.key.resources, lane.key.owner
        self.needs[need] -= 1
        if self.needs[need] <= 0:
            del self.needs[need]
        del self.by_owner[owner][lane]
        if not self.by_owner[owner]:
            del self.by_owner[owner]

    def heads_of(self, owner: str) -> list[tuple[int, int, int, Lane]]:
        """Return a heap like `heads` of one owner's lanes, made anew: most often these are few."""
        lanes = enumerate(self.by_owner.get(owner, ()))
        heads = [(*lane.listed_at, n, lane) for n, lane in lanes if lane.listed_at is not None]
        heapq.heapify(heads)
        return heads

    def sweep(self) -> None:
        """Drop what is listed elsewhere from the heap: where each worker serves one person, nobody comes by it."""
        if len(self.heads) > 2 * self.listed + SPARE_HEADS:
            self.heads[:] = [head for head in self.heads if head[3].listed_at == head[:2]]
            heapq.heapify(self.heads)

    def may_fit(self, want: Want) -> bool:
        """Whether some lane has what is wanted."""
        if want.owner is None and not want.without:
            return any(want.fits(need) for need in self.needs)
        owners = self.by_owner.keys() if want.owner is None else {want.owner}
        return any(
            want.fits(lane.key.resources)
            for owner in owners
            if owner not in want.without
            for lane in self.by_owner.get(owner, ())
        )
