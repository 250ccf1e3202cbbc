"""How many bytes the rows of each org's and owner's jobs take, for `StoredBytes`: specs, outputs, all that happened.

Counted from the tables once, and then commit by commit; again when retention has dropped some. Log lines are not
counted: how fast they come has a limit of its own. Nor is anything of who holds the data directory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from zbrain_nb.store.grants import Charge
from zbrain_nb.store.rowsizes import row_sizes
from zbrain_nb.store.storage import Storage

if TYPE_CHECKING:
    from zbrain_nb.queue.turn import Turn

Sizes = Counter[tuple[str, str]]


class RowBytes:
    """The counts.

    Parameters
    ----------
    account : str
        Who holds the data directory.

    Attributes
    ----------
    is_counting : bool
        Whether they hold; nothing is counted before `count`.
    """

    def __init__(self, account: str) -> None:
        self._account = account
        self.is_counting = False
        self._turn = asyncio.Lock()
        # Both are changed in the writer's thread alone, so that no commit is missed or counted twice.
        self._sizes: Sizes = Counter()
        self._since: Sizes = Counter()

    def used(self, of: str, name: str) -> int:
        """Return how many bytes the rows of the ``org`` or ``owner`` of that name take."""
        return self._sizes[of, name]

    async def count(self, storage: Storage) -> None:
        """Count what the tables hold, while others may commit."""
        async with self._turn:
            # Nothing comes between these two: what has a number by now is written before, all else after `_begin`.
            seq = storage.last_seq
            await storage.write(lambda _: self._begin())
            found: Sizes = Counter()
            self._add(found, await storage.read(row_sizes, seq))
            await storage.write(lambda _: self._replace(found))

    def _begin(self) -> None:
        self._since, self.is_counting = Counter(), True

    def _replace(self, found: Sizes) -> None:
        self._sizes = found + self._since

    def take(self, turns: Sequence[Turn]) -> None:
        """Count what a commit has written; called in the writer's thread."""
        if not self.is_counting:
            return
        for turn in turns:
            charges = [(row[2], row[3], _size(row[6])) for row in turn.jobs]
            for _, job_id, org_id, _, _, _, data, _ in turn.transitions:
                charges.append((org_id, turn.entries[job_id].job.owner, _size(data)))
            self._add(self._sizes, charges)
            self._add(self._since, charges)

    def _add(self, sizes: Sizes, charges: Iterable[Charge]) -> None:
        for org_id, owner, size in charges:
            if owner != self._account:
                sizes["org", org_id] += size
                sizes["owner", owner] += size


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
