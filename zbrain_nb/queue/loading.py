"""Fills the index from the store when the queue opens, and folds the index back into the jobs table."""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

import msgspec

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.protocol import WorkerInfo
from zbrain_nb.queue.index import Entry, Index
from zbrain_nb.store import queries
from zbrain_nb.store.rows import folded_row
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)

#: Jobs folded in one statement: between two, the writer commits.
FOLD_CHUNK = 1_000
FOLD_PAUSE_SECS = 1.0


async def load(storage: Storage, index: Index) -> dict[str, WorkerInfo]:
    """Bring the live jobs into `index`, each running one with a full term of grace.

    Returns
    -------
    dict of str to WorkerInfo
        The workers that registered before.
    """
    jobs = await storage.read(queries.live_jobs)
    highs, log_seqs = await storage.read(queries.positions, [job.id for job in jobs if job.attempt])
    parents = {parent for job in jobs if job.state is JobState.PENDING for parent in job.spec.after}
    ended = {job.id for job in jobs if job.state.ended}
    live = {job.id for job in jobs} - ended
    for job in jobs:
        entry = Entry(job, job.event_seq)
        restore_positions(entry, highs.get(job.id, {}), log_seqs.get(job.id, 0))
        if job.state.ended:
            index.remember(entry)
            index.unfolded[job.id] = job
            continue
        index.live[job.id] = entry
        if job.state is JobState.RUNNING:
            index.leases.grant(job.id, job.worker_id or "", job.attempt)
            continue
        if job.state is JobState.PENDING and job.spec.after:
            entry.blockers = {parent for parent in job.spec.after if parent in live}
            for parent in entry.blockers:
                index.add_child(parent, job.id)
        if not entry.blockers:
            index.line_up(entry)
    if jobs:
        log.info("Jobs were found in the store.", extra={"live": len(live), "parents": len(parents)})
    index.spare_collector()
    known = [msgspec.json.decode(text, type=WorkerInfo) for text in await storage.read(queries.workers)]
    return {info.id: info for info in known}


def restore_positions(entry: Entry, highs: dict[int, int], log_seq: int) -> None:
    """Set how far the workers of a job and its log had come."""
    attempt = entry.job.attempt
    entry.high = highs.get(attempt, 0)
    entry.past = {past: high for past, high in highs.items() if past != attempt}
    entry.log_seq = log_seq


class Folder:
    """Shows in the jobs table, in bulk and a little later, what became of jobs.

    Parameters
    ----------
    storage, index
        The queue's.
    """

    def __init__(self, storage: Storage, index: Index) -> None:
        self._storage = storage
        self._index = index
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False
        self._refused: dict[str, Job] = {}

    def nudge(self) -> None:
        """Fold in a while, if there is something to fold."""
        if self._has_work() and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._fold_later())

    async def _fold_later(self) -> None:
        while self._has_work():
            await asyncio.sleep(FOLD_PAUSE_SECS)
            try:
                await self.fold()
                self._is_failing = False
            except ZBrainError as error:
                if not self._is_failing:
                    log.warning("Jobs could not be folded; every change tries again.", extra={"why": str(error)})
                self._is_failing = True
                return

    def _has_work(self) -> bool:
        return len(self._index.unfolded) > len(self._refused)

    async def fold(self) -> None:
        """Fold all there is now; a job whose row is refused stays in memory and is tried again when it changes.

        What changes meanwhile waits for the next time: else a busy queue would fold for ever, a few jobs at a time.
        """
        unfolded = self._index.unfolded
        left = len(unfolded)
        while left > 0 and (
            chunk := list(
                islice((job for job in unfolded.values() if self._refused.get(job.id) is not job), FOLD_CHUNK)
            )
        ):
            left -= len(chunk)
            refused = await self._write(chunk)
            for job in chunk:
                if job.id in refused:
                    self._refused[job.id] = job
                elif unfolded.get(job.id) is job:
                    del unfolded[job.id]
                    self._refused.pop(job.id, None)

    async def _write(self, chunk: list[Job]) -> set[str]:
        return await self._storage.write(lambda database: database.fold([folded_row(job) for job in chunk]))

    async def stop(self) -> None:
        """Cancel what is planned and fold all there is; what the store refuses now, the next start folds."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        try:
            await self.fold()
        except ZBrainError as error:
            log.warning("Jobs could not be folded; the next start tries again.", extra={"why": str(error)})
