"""Fills the windows of lanes from the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.queue.index import Entry, Index
from zbrain_nb.queue.lanes import Lane
from zbrain_nb.store import waiting
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)
#: Until a lane is tried again that the store could not read.
RETRY_SECS = 0.5


class Refill:
    """Reads parked jobs into the windows that run low, one read a lane at a time.

    Parameters
    ----------
    storage, index
        The queue's.
    filled : callable
        Called when a window got jobs: waiting requests may be served now.
    """

    def __init__(self, storage: Storage, index: Index, filled: Callable[[], None]) -> None:
        self._storage = storage
        self._index = index
        self._filled = filled
        self._tasks: set[asyncio.Task[None]] = set()

    def nudge(self) -> None:
        """Begin to fill the lanes that are hungry."""
        hungry = self._index.ready.hungry
        while hungry:
            lane, _ = hungry.popitem()
            if lane.is_known and lane.is_hungry(self._index.ready.window_size):
                lane.arrived = []
                task = asyncio.get_running_loop().create_task(self._fill(lane))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fill(self, lane: Lane) -> None:
        while True:
            try:
                if await self._read(lane):
                    break
            except Exception:
                log.exception("The waiting jobs of a lane could not be taken up; it is tried again.")
            await asyncio.sleep(RETRY_SECS)
        self._index.ready.look_again(lane)
        self._filled()

    async def _read(self, lane: Lane) -> bool:
        """Fill once; return False if the store could not be read."""
        index, size = self._index, self._index.ready.window_size
        epoch, seen_seq, unfolded = lane.epoch, index.applied_seq, set(index.unfolded)
        assert lane.bound is not None, "a hungry lane has parked jobs"
        try:
            rows = await self._storage.read(waiting.page, lane.text, *lane.bound, size)
        except ZBrainError as error:
            log.warning("Waiting jobs could not be read; it is tried again.", extra={"why": str(error)})
            return False
        arrived, lane.arrived = lane.arrived or [], None
        if epoch != lane.epoch or index.forgotten_seq > seen_seq:
            return True  # out of date: if the lane is still hungry it says so again
        bound = (rows[-1].rank, rows[-1].order) if len(rows) == size else None
        for job, rank, order, _ in rows:
            if job.id not in unfolded and order <= index.applied_seq:  # else its commit is not taken over yet
                index.unpark(Entry(job, order, rank, lane))
        for entry in arrived:
            if bound is None or entry.place <= bound:
                index.unpark(entry)
        if bound is None:
            index.ready.empty_store(lane)
        else:
            lane.bound = bound
        if len(lane.window) > 2 * size:
            index.spill(lane)
        return True
