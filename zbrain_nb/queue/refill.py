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
#: What the jobs may take that are read at once.
PAGE_BYTES = 4 * 1024 * 1024
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
            if lane.is_known and self._index.ready.is_hungry(lane):
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
        index, ready = self._index, self._index.ready
        size, most_bytes = ready.window_size, min(PAGE_BYTES, ready.memory.room(lane))
        epoch, moment, unfolded = lane.epoch, index.moment, set(index.unfolded)
        assert lane.bound is not None, "a hungry lane has parked jobs"
        try:
            rows, is_cut = await self._storage.read(waiting.page, lane.text, *lane.bound, size, most_bytes)
        except ZBrainError as error:
            log.warning("Waiting jobs could not be read; it is tried again.", extra={"why": str(error)})
            return False
        arrived, lane.arrived = lane.arrived or [], None
        if epoch != lane.epoch:
            return True  # out of date: if the lane is still hungry it says so again
        moved = unfolded | moment.gone_since()
        bound = (rows[-1].rank, rows[-1].order) if is_cut else None
        for job, rank, order, _, job_bytes in rows:
            if job.id not in moved and order <= index.applied_seq:  # else its commit is not taken over yet
                index.unpark(Entry(job, order, rank, lane, size=job_bytes))
        for entry in arrived:
            if entry.job.id not in moved and (bound is None or entry.place <= bound):
                index.unpark(entry)
        if bound is None:
            ready.empty_store(lane)
        else:
            lane.bound = bound
        # What was read fits by its bytes, or is the first: left to the store again, it would be read for ever.
        if len(lane.window) > 2 * size or (arrived and ready.is_overfull(lane)):
            index.spill(lane)
        return True
