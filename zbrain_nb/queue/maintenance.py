"""What passes with time: rows that are old go with their segments, blobs that no job names go, backups are made.

Everything runs in slices: each question in a reader's thread, each change as one task of the writer, files in a
thread. One thing at a time: a backup finds every blob that its jobs name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import islice
from pathlib import Path

from zbrain_nb.model.errors import Unavailable, ZBrainError
from zbrain_nb.model.settings import Lifetimes
from zbrain_nb.queue.background import Background
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.core import QueueCore
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.backup import copy_blobs, start_backup
from zbrain_nb.store.opening import set_aside_files
from zbrain_nb.store.retention import blobs_named, needed_jobs
from zbrain_nb.store.schema import COLUMNS
from zbrain_nb.store.segments import Segment, read_segments
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)

#: Between two looks at the age of segments.
ROWS_PAUSE_SECS = 60.0
#: Between two collections of blobs.
BLOBS_PAUSE_SECS = 3600.0
#: A segment is closed after this part of its rows' life time, which they may outlive by as much.
PARTS = 12
#: Blobs looked up at a time.
BLOBS_SLICE = 10_000
#: An upload that was not touched for so long was left behind by a crash.
ABANDONED_SECS = 86_400.0
#: Segments go in this order: what hangs on jobs goes before them.
_ORDER = ("audit", "logs", "transitions", "jobs")


class Maintenance:
    """Retention, collection of blobs, and backups.

    Parameters
    ----------
    storage, artifacts : Storage, ArtifactStore
        What is looked after.
    keep : Lifetimes
        How long.
    living : callable
        Returns the ids of the jobs that are in memory and have not ended, or whose end the table does not show yet.
    fold : callable
        Brings the jobs table up to date.
    forget_grants : callable
        Removes the grants of blobs that are gone.
    forget_keys : callable
        Gets the time (seconds since the epoch) before which idempotency keys are to be forgotten in memory.
    recount : callable, optional
        Counts anew what the rows take; some are gone.
    clock : Clock
        For tests.
    """

    def __init__(
        self,
        storage: Storage,
        artifacts: ArtifactStore,
        keep: Lifetimes,
        *,
        living: Callable[[], Collection[str]],
        fold: Callable[[], Awaitable[None]],
        forget_grants: Callable[[], Awaitable[None]],
        forget_keys: Callable[[float], None] = lambda before: None,
        recount: Callable[[], Awaitable[None]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._storage = storage
        self._artifacts = artifacts
        self._keep = keep
        self._living = living
        self._fold = fold
        self._forget_grants = forget_grants
        self._forget_keys = forget_keys
        self._recount = recount
        self._clock = clock or Clock()
        self._passing = Background(self._run)
        self._turn = asyncio.Lock()
        self._backups: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()

    @classmethod
    def of(cls, queue: QueueCore, keep: Lifetimes) -> Maintenance:
        """Return the maintenance of a queue."""
        return cls(
            queue.storage,
            queue.artifacts,
            keep,
            living=queue.ids_in_memory,
            fold=queue.fold,
            forget_grants=queue.grants.forget_gone,
            forget_keys=queue.forget_keys,
            recount=partial(queue.stored.count_rows, queue.storage),
            clock=queue.clock,
        )

    def start(self) -> None:
        """Do in the background from now on what is due; harmless when it runs already."""
        self._forget_keys(self._clock.time() - self._keep.keys_secs)
        self._passing.start()

    async def stop(self) -> None:
        """End that, and give up backups under way; harmless when nothing runs."""
        await self._passing.stop()
        for backup in self._backups:
            backup.cancel()
        await asyncio.gather(*self._backups, return_exceptions=True)

    async def _run(self) -> None:
        blobs_at = self._clock.monotonic() + BLOBS_PAUSE_SECS
        while True:
            await asyncio.sleep(ROWS_PAUSE_SECS)
            try:
                await self.retire_rows()
                if self._clock.monotonic() >= blobs_at:
                    blobs_at = self._clock.monotonic() + BLOBS_PAUSE_SECS
                    await self.collect_blobs()
            except (ZBrainError, OSError) as error:
                log.warning("What is old could not be removed; it is tried again.", extra={"why": str(error)})

    async def retire_rows(self) -> list[Segment]:
        """Close segments that are old enough, and drop those whose rows outlived their time.

        What living jobs need is carried over. A segment of which that is too much stays for now.

        Returns
        -------
        list of Segment
            Those that were dropped.

        Raises
        ------
        ZBrainError
            If the store refused.
        """
        async with self._turn:
            now = self._clock.time()
            self._forget_keys(now - self._keep.keys_secs)
            segments = await self._storage.read(read_segments)
            ripe = [
                s.kind for s in segments if s.closed_at is None and now - s.opened_at > self._keep.of(s.kind) / PARTS
            ]
            if ripe:
                await self._storage.write(lambda database: database.open_segments(ripe, now))
            old = [s for s in segments if s.closed_at is not None and now - s.closed_at > self._keep.of(s.kind)]
            if not old:
                return []
            await self._fold()
            in_order = sorted(old, key=lambda s: (_ORDER.index(s.kind), s.number))
            dropped = [segment for segment in in_order if await self._drop(segment)]
            if dropped and self._recount is not None:
                await self._recount()
            return dropped

    async def _drop(self, segment: Segment) -> bool:
        # A job of a closed segment that does not live now never will: what is asked here holds when it is dropped.
        needed = await self._storage.read(needed_jobs, segment, self._living())
        if needed is None:
            if segment.table not in self._told:
                log.warning("A segment stays, for many jobs in it have not ended.", extra={"segment": segment.table})
                self._told.add(segment.table)
            return False
        await self._storage.write(lambda database: database.drop_segment(segment, needed))
        log.info("A segment was dropped.", extra={"segment": segment.table, "carried_jobs": len(needed)})
        return True

    async def collect_blobs(self) -> int:
        """Remove the blobs that no job names and nobody has relied on for their life time; return how many.

        Raises
        ------
        ZBrainError
            If the store refused; nothing that a job names was removed.
        """
        aside = set_aside_files(self._storage.path)
        if aside:
            if str(aside[0]) not in self._told:
                log.warning("Blobs are kept while a set-aside database lies here.", extra={"file": str(aside[0])})
                self._told.add(str(aside[0]))
            return 0
        async with self._turn:
            now = self._clock.time()
            before = now - self._keep.blobs_secs
            removed = await asyncio.to_thread(self._artifacts.remove_abandoned, min(before, now - ABANDONED_SECS))
            found = self._artifacts.old(before)
            while names := await asyncio.to_thread(lambda: list(islice(found, BLOBS_SLICE))):
                named: set[str] = set()
                for segment in await self._storage.read(read_segments):
                    named |= await self._storage.read(blobs_named, segment, names)
                unnamed = [name for name in names if name not in named]
                removed += await asyncio.to_thread(self._artifacts.remove_old, unnamed, before)
            await self._forget_grants()
            if removed:
                log.info("Blobs that no job names were removed.", extra={"removed": removed})
            return removed

    async def back_up(self, to: Path) -> None:
        """Copy database and blobs, as they stand, to a new data directory; the queue works on meanwhile.

        What was acknowledged before the call is in it.

        Parameters
        ----------
        to : Path
            Absolute; must not exist, or be an empty folder. It appears when it is whole.

        Raises
        ------
        ZBrainError
            If it exists, or cannot be written.
        """
        task = asyncio.get_running_loop().create_task(self._back_up(to))
        self._backups.add(task)
        task.add_done_callback(self._backups.discard)
        try:
            await task
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("The host ends; the backup was given up.", "Make it again.") from None
            raise

    async def _back_up(self, to: Path) -> None:
        async with self._turn:
            backup = await asyncio.to_thread(start_backup, to, self._storage.path)
            try:
                # The open segments are copied last, in one transaction: let it be short.
                now = self._clock.time()
                await self._storage.write(lambda database: database.open_segments(COLUMNS, now))
                while await self._storage.read(backup.copy_next):
                    pass
                await asyncio.to_thread(copy_blobs, self._artifacts, backup.folder)
                await asyncio.to_thread(backup.finish)
            except BaseException:
                with contextlib.suppress(ZBrainError):  # a database that was opened again has let go by itself
                    await self._storage.read(backup.detach)
                await asyncio.to_thread(backup.abandon)
                raise
            log.info("A backup was made.", extra={"to": str(to)})
