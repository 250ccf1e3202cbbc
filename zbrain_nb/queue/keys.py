"""Idempotency keys: the latest in memory, and of all others enough to know that one is new.

Almost every key is new, and asking the store for it costs a millisecond. So of each key that the store has, 64
bits of a hash are in memory, in sorted runs: 8 bytes a key. One that is in no run is new; one that is may be a
stranger's with the same hash, so the store is asked.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from math import inf

from zbrain_nb.store.segments import id_time

#: Owner and idempotency key.
KeyOf = tuple[str, str]
#: The job first submitted under a key, and the hash of its payload.
FirstOf = tuple[str, str]

#: Keys kept whole.
RECENT_KEYS = 20_000
#: Runs shorter than this are merged with the next: there are never many to look through.
MERGED_KEYS = 100_000


def fingerprint(key: KeyOf) -> int:
    """Return 64 bits of a key's hash, the same that `queries.key_fingerprints` computes in the store."""
    return int.from_bytes(hashlib.md5(f"{key[0]}\0{key[1]}".encode(), usedforsecurity=False).digest()[8:], "little")


class Keys:
    """The idempotency keys of all jobs."""

    def __init__(self) -> None:
        self._recent: OrderedDict[KeyOf, FirstOf] = OrderedDict()
        self._runs: list[tuple[float, array[int]]] = []
        self._is_complete = False

    def get(self, key: KeyOf) -> FirstOf | None:
        """Return who took a key of late."""
        return self._recent.get(key)

    def may_be_stored(self, key: KeyOf) -> bool:
        """Whether the store may know more of a key than `get` does."""
        if not self._is_complete:
            return True
        wanted = fingerprint(key)
        for _, run in self._runs:
            at = bisect_left(run, wanted)
            if at < len(run) and run[at] == wanted:
                return True
        return False

    def add_stored(self, run: array[int]) -> None:
        """Take in the fingerprints of all keys that the store had when the queue opened, sorted."""
        self._runs.insert(0, (inf, run))
        self._is_complete = True

    def remember(self, firsts: Iterable[tuple[KeyOf, FirstOf]]) -> None:
        """Keep keys that were committed."""
        self._recent.update(firsts)
        while len(self._recent) > 2 * RECENT_KEYS:
            old = [self._recent.popitem(last=False) for _ in range(RECENT_KEYS)]
            latest = max(id_time(job_id) for _, (job_id, _) in old)
            self._runs.append((latest, array("Q", sorted(fingerprint(key) for key, _ in old))))
            if len(self._runs) > 2 and max(len(self._runs[-1][1]), len(self._runs[-2][1])) < MERGED_KEYS:
                (_, one), (_, other) = self._runs.pop(), self._runs.pop()
                self._runs.append((latest, array("Q", sorted(one + other))))

    def forget(self, before: float) -> None:
        """Forget the keys of jobs that were made before `before`, seconds since the epoch."""
        while self._recent and id_time(next(iter(self._recent.values()))[0]) < before:
            self._recent.popitem(last=False)
        self._runs = [(latest, run) for latest, run in self._runs if latest >= before]
