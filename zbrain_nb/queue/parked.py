"""The lease requests that wait for a job, found by whose jobs they take: a commit wakes those that it concerns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import count

from zbrain_nb.queue.branches import Want
from zbrain_nb.queue.lanes import Lane, LaneKey
from zbrain_nb.queue.leases import Waiter

#: Kind, and the owner or the org whose jobs alone are wanted.
_Key = tuple[str, str | None, str | None]


class Parked:
    """The waiting requests; iterated over in the order in which they came."""

    def __init__(self) -> None:
        self._numbers = count()
        self._all: dict[Waiter, int] = {}
        self._by_key: defaultdict[_Key, dict[Waiter, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(list(self._all))

    def add(self, waiter: Waiter) -> None:
        """Take one in."""
        self._all[waiter] = next(self._numbers)
        for key in _keys(waiter.want):
            self._by_key[key][waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Let one go; harmless if it does not wait."""
        if self._all.pop(waiter, None) is None:
            return
        for key in _keys(waiter.want):
            del self._by_key[key][waiter]
            if not self._by_key[key]:
                del self._by_key[key]

    def wanting(self, lanes: list[Lane]) -> list[Waiter]:
        """Return those to which jobs of the lanes may go by kind, org and owner, in the order in which they came."""
        found: set[Waiter] = set()
        for lane in lanes:
            for key in _keys_of(lane.key):
                found.update(self._by_key.get(key, ()))
        return sorted(found, key=self._all.__getitem__)


def _keys(want: Want) -> list[_Key]:
    if want.owner is not None:
        return [(kind, want.owner, None) for kind in want.kinds]
    return [(kind, None, org) for kind in want.kinds for org in ((None,) if want.orgs is None else want.orgs)]


def _keys_of(key: LaneKey) -> tuple[_Key, ...]:
    return (key.kind, key.owner, None), (key.kind, None, key.org_id), (key.kind, None, None)
