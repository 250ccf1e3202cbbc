"""Fills the index from the store when the queue opens, and folds the index back into the jobs table."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from typing import Any

import msgspec

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.protocol import WorkerInfo
from zbrain_nb.queue.index import Entry, Index, left_bytes
from zbrain_nb.queue.lanes import LaneKey, Place, base_of
from zbrain_nb.queue.memory import window_bytes_for
from zbrain_nb.queue.pauses import read_pauses
from zbrain_nb.queue.quotas import read_quotas
from zbrain_nb.queue.ready import window_for
from zbrain_nb.queue.roster import LISTED_SECS
from zbrain_nb.store import queries, waiting
from zbrain_nb.store.database import Database
from zbrain_nb.store.footprint import extra_bytes
from zbrain_nb.store.rows import encode, folded_row
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)

#: Jobs folded in one statement: between two, the writer commits. Most of its time goes by whatever the number
#: (measured beside a million jobs: 16 ms for 900, little less for 100), so that seldom and many is felt least.
FOLD_CHUNK = 4_000
#: The same of what their rows say: the database holds all that one statement writes in its memory.
FOLD_CHUNK_BYTES = 16 * 1024 * 1024
FOLD_PAUSE_SECS = 4.0
#: Ended jobs that take so much are folded at once: until then they are in memory.
FOLD_BYTES = 32 * 1024 * 1024


async def load(storage: Storage, index: Index, now: float) -> dict[str, WorkerInfo]:
    """Bring what has not ended into `index`, each running job with a full term of grace; forget workers of long ago.

    Parameters
    ----------
    storage, index : Storage, Index
        From where, and into what.
    now : float
        Seconds since the epoch.

    Returns
    -------
    dict of str to WorkerInfo
        The workers that registered before.
    """
    folded_seq = int(await storage.read(waiting.meta, waiting.FOLDED_SEQ) or 0)
    found = await storage.read(waiting.snapshot, folded_seq, window_for, window_bytes_for)
    index.applied_seq = storage.last_seq
    if found.last is not None and found.last.rank is not None:
        index.last_base = base_of(found.last.rank, found.last.job.spec.priority)
    pending: list[Job] = []
    for part in found.slices:
        pending += await _load_slice(storage, index, part)
    if found.slices and not index.unfolded:
        await _save_folded(storage, index.applied_seq)
    for one in found.windows:
        index.restore(_entry(index, one))
    _restore_parked(index, found)
    await _restore_blockers(storage, index, pending)
    if index.live:
        log.info("Jobs were found in the store.", extra={"live": len(index.live), "parked": index.ready.parked})
    index.spare_collector()
    index.ready.paused.update(await read_pauses(storage))
    for org_id, quota in (await read_quotas(storage)).items():
        index.ready.quotas.replace(org_id, quota)
    known = [msgspec.json.decode(text, type=WorkerInfo) for text in await storage.read(queries.workers)]
    old = {info.id for info in known if now - info.seen_at > LISTED_SECS and not index.leases.held_by(info.id)}
    if old:
        await storage.write(lambda database: database.forget_workers(old))
    return {info.id: info for info in known if info.id not in old}


async def _load_slice(storage: Storage, index: Index, part: waiting.Slice) -> list[Job]:
    """Bring jobs into the index, but for the end of those that have ended: that is folded. Return those pending."""
    found = await storage.read(waiting.jobs_of, part)
    refused = await _fold_ended(storage, [one.job for one in found if one.job.state.ended])
    highs, log_seqs = await storage.read(queries.positions, [one.job.id for one in found if one.job.attempt])
    for one in found:
        job, entry = one.job, _entry(index, one)
        restore_positions(entry, highs.get(job.id, {}), log_seqs.get(job.id, 0))
        if job.state.ended:
            if job.id in refused:
                index.unfolded[job.id] = job
            index.remember(entry)
            continue
        if job.state is not JobState.PENDING:  # its row may not say so yet
            index.unfolded[job.id] = job
        index.restore(entry)
    return [one.job for one in found if one.job.state is JobState.PENDING]


async def _fold_ended(storage: Storage, ended: list[Job]) -> set[str]:
    """Fold the ends of jobs, as many as there may be; return the ids of those that were not."""
    try:
        return await storage.write(lambda database: database.fold([folded_row(job) for job in ended]))
    except ZBrainError as error:  # a full disk is no reason not to start
        log.warning("Jobs could not be folded; it is tried again.", extra={"why": str(error)})
        return {job.id for job in ended}


async def _save_folded(storage: Storage, upto: int) -> None:
    """Keep up to which ``event_seq`` the jobs table is up to date, so that the next start looks at less."""
    try:
        await storage.write(lambda database: database.save_meta(waiting.FOLDED_SEQ, str(upto)))
    except ZBrainError as error:
        log.warning("How far jobs are folded could not be kept.", extra={"why": str(error)})


def _entry(index: Index, one: waiting.Placed) -> Entry:
    job = one.job
    return Entry(job, one.order, one.rank, None if job.state.ended else index.ready.lane(job), size=size_of(one))


def _restore_parked(index: Index, found: waiting.Snapshot) -> None:
    loaded: dict[str | None, list[Place]] = defaultdict(list)
    for one in found.windows:
        loaded[one.lane].append((one.rank, one.order))
    for text, jobs in found.lanes.items():
        parked = jobs - len(loaded[text])
        if parked > 0:
            lane = index.ready.lanes[LaneKey.from_text(text)]
            index.ready.park_stored(lane, parked, max(loaded[text]))
            index.ready.count(lane, parked, 0)


async def _restore_blockers(storage: Storage, index: Index, jobs: list[Job]) -> None:
    """Let jobs wait for those of their parents that have not ended; some of these may be parked."""
    unknown = {parent for job in jobs for parent in job.spec.after} - index.live.keys()
    parents = await storage.read(queries.jobs_by_id, list(unknown))
    waited_for = index.live.keys() | {parent.id for parent in parents.values() if not parent.state.ended}
    for job in jobs:
        entry = index.live[job.id]
        entry.blockers = waited_for.intersection(job.spec.after)
        for parent in entry.blockers:
            index.add_child(parent, job.id)
        if not entry.blockers:
            index.line_up(entry)


def size_of(one: waiting.Placed) -> int:
    """Return about how much memory a job takes, with what it left."""
    job = one.job
    if not job.state.ended:
        return one.size + left_bytes(job)
    return one.size + extra_bytes(encode([job.error, job.output, job.variables, job.artifacts]))


def restore_positions(entry: Entry, highs: dict[int, int], log_seq: int) -> None:
    """Set how far the workers of a job and its log had come."""
    attempt = entry.job.attempt
    entry.high = highs.get(attempt, 0)
    entry.past = {past: high for past, high in highs.items() if past != attempt}
    entry.log_seq = log_seq


def _first_rows(jobs: list[Job]) -> list[tuple[Any, ...]]:
    """Return the rows of the first of the jobs, as many as one statement shall write."""
    rows, room = list[tuple[Any, ...]](), FOLD_CHUNK_BYTES
    for job in jobs:
        row = folded_row(job)
        room -= len(row[-1].encode())
        if rows and room < 0:
            break
        rows.append(row)
    return rows


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
        self._folding = asyncio.Lock()
        self._is_much = asyncio.Event()
        self._refused: dict[str, Job] = {}

    def nudge(self) -> None:
        """Fold in a while, if there is something to fold; soon, if it takes much memory."""
        if self._has_work() and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._fold_later())
        if self._index.unfolded_bytes > FOLD_BYTES:
            self._is_much.set()

    async def _fold_later(self) -> None:
        while self._has_work():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_much.wait(), FOLD_PAUSE_SECS)
            self._is_much.clear()
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
        async with self._folding:  # two at once could write an older state over a newer one
            await self._fold_all()

    async def _fold_all(self) -> None:
        unfolded, upto = self._index.unfolded, self._index.applied_seq
        self._index.unfolded_bytes = 0
        jobs = [job for job in unfolded.values() if self._refused.get(job.id) is not job]
        start = 0
        while start < len(jobs):
            number, refused = await self._write(jobs[start : start + FOLD_CHUNK])
            chunk, start = jobs[start : start + number], start + number
            for job in chunk:
                if job.id in refused:
                    self._refused[job.id] = job
                elif unfolded.get(job.id) is job:
                    del unfolded[job.id]
                    self._refused.pop(job.id, None)
        if jobs and not self._refused:
            await self._storage.write(lambda database: database.save_meta(waiting.FOLDED_SEQ, str(upto)))

    async def _write(self, jobs: list[Job]) -> tuple[int, set[str]]:
        """Fold the first of the jobs, as many as one write takes; return how many, and the ids that were refused."""

        def fold(database: Database) -> tuple[int, set[str]]:
            rows = _first_rows(jobs)
            return len(rows), database.fold(rows)

        return await self._storage.write(fold)

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
