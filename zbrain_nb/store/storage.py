"""`Storage`: the database as the rest of the process sees it, one writer thread and a few readers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import duckdb

from zbrain_nb.model.errors import InvalidSpec, ZBrainError
from zbrain_nb.model.events import LogEntry, LogStream
from zbrain_nb.model.ids import new_id
from zbrain_nb.model.job import Job, JobArtifact
from zbrain_nb.store import queries
from zbrain_nb.store.database import Database
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.refusals import unavailable
from zbrain_nb.store.room import Room
from zbrain_nb.store.rows import Change, encode, folded_row, job_row
from zbrain_nb.store.writer import Done, Task, Writer

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

READERS = 2


class Storage:
    """The durable side of a queue.

    The database is opened when it is first used, or by `open`. All changes go through one thread; readers have
    cursors and threads of their own. A `Storage` may be used from one event loop after another.

    Parameters
    ----------
    path : path
        A folder, in which ``zbrain.duckdb`` is used, or a file ending in ``.duckdb``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        place = Path(path).expanduser().absolute()
        self.path: Path | None = place if place.suffix == ".duckdb" else place / "zbrain.duckdb"
        #: What the disk still takes.
        self.room = Room(self.path.parent, self.path.with_suffix(".ballast"))
        self._set_closed()
        self._opening = threading.Lock()

    @classmethod
    def in_memory(cls) -> Storage:
        """Return a storage that keeps nothing on disk, for tests and trials."""
        storage = cls(Path("unused.duckdb"))
        storage.path = None
        storage.room = Room(None)
        return storage

    def _set_closed(self) -> None:
        self._writer: Writer | None = None
        self._readers: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self._cursors: list[duckdb.DuckDBPyConnection] = []
        self._last_seq = 0

    @property
    def is_open(self) -> bool:
        """Whether the database is open."""
        return self._writer is not None

    async def open(self) -> None:
        """Open the database; harmless when it is open.

        Raises
        ------
        Unavailable
            If another process has it open.
        ZBrainError
            If it cannot be opened at all. A damaged one is set aside instead, and the log says so.
        """
        if self._writer is None:
            await asyncio.to_thread(self._open)

    def _open(self) -> None:
        with self._opening:
            if self._writer is not None:
                return
            writer = Writer(self.path, self.room)
            database = writer.start()
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="zbrain-reader")
            self._last_seq = queries.last_seq(database.cursor())
            self._writer = writer

    async def close(self) -> None:
        """Finish what is queued, checkpoint and close; harmless when it is closed."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._opening:
            writer, readers, cursors = self._writer, self._readers, self._cursors
            self._set_closed()
        if readers is not None:
            readers.shutdown()
        for cursor in cursors:
            cursor.close()
        if writer is not None:
            writer.stop()

    def next_seq(self) -> int:
        """Return the next ``event_seq``; numbers of failed commits are not given again."""
        self._last_seq += 1
        return self._last_seq

    @property
    def last_seq(self) -> int:
        """The last ``event_seq`` that was given."""
        return self._last_seq

    @property
    def oldest_event_seq(self) -> int:
        """The first ``event_seq`` from which on events are whole: who asks for earlier ones has to begin anew."""
        database = self._writer.database if self._writer is not None else None
        return 1 if database is None else database.oldest_seq

    def put(self, task: Task, done: Done) -> None:
        """Hand `task` to the writer thread; `done(result, error)` is called there. The storage must be open."""
        if self._writer is None:
            raise ZBrainError("The storage is closed.")
        self._writer.put(task, done)

    def append(self, changes: Sequence[Change], done: Done) -> None:
        """Write `changes` in one transaction; `done` gets `Database.append`'s outcomes, in the writer thread."""
        self.put(lambda database: database.append(changes), done)

    async def write(self, task: Callable[[Database], R]) -> R:
        """Run `task` in the writer thread and return its result.

        Raises
        ------
        Unavailable
            If the database refused.
        """
        await self.open()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def answer(result: R, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(unavailable(error) if isinstance(error, duckdb.Error) else error)

        self.put(task, lambda result, error: _call_if_running(loop, answer, result, error))
        return await future

    async def read(self, query: Callable[Concatenate[queries.Cursor, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one of `queries` in a reader's thread and return its result.

        Raises
        ------
        Unavailable
            If the database refused.
        """
        await self.open()

        def run() -> R:
            try:
                return query(self._cursor(), *args, **kwargs)
            except duckdb.Error as error:
                if isinstance(error, duckdb.OutOfMemoryException):
                    name = getattr(query, "__qualname__", str(query))
                    log.error("A query of the store needs more memory than it may take.", extra={"query": name})
                raise unavailable(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    def _cursor(self) -> queries.Cursor:
        database = self._writer.database if self._writer is not None else None
        if database is None:
            raise ZBrainError("The storage is closed.")
        cursor: queries.Cursor | None = getattr(self._local, "cursor", None)
        if cursor is None or self._local.generation != database.generation:
            self._local.generation = database.generation
            cursor = self._local.cursor = database.cursor()
            self._cursors.append(cursor)
        return cursor

    async def commit(self, changes: Sequence[Change]) -> None:
        """Write `changes` durably.

        Raises
        ------
        ZBrainError
            The first that a change met; the others are written.
        """
        for error in await self.write(lambda database: database.append(changes)):
            if error is not None:
                raise error

    # The plain storage interface, for tools that work without a queue. A running queue does not notice.

    async def save_job(self, job: Job) -> None:
        """Keep `job`: a new one, or what became of one kept before."""
        await self.save_jobs([job])

    async def save_jobs(self, jobs: Iterable[Job]) -> None:
        """Keep several jobs at once (see `save_job`)."""
        await self.open()
        wanted = {job.id: job for job in jobs}
        known = await self.read(queries.jobs_by_id, list(wanted))
        change = Change()
        change.jobs = [job_row(job, self.next_seq()) for job in wanted.values() if job.id not in known]
        await self.commit([change])
        rows = [folded_row(job) for job in wanted.values()]
        refused = await self.write(lambda database: database.fold(rows))
        if refused:
            raise InvalidSpec(f"Jobs hold what cannot be stored: {', '.join(sorted(refused))}.")

    async def get_job(self, job_id: str) -> Job | None:
        """Return the job, or None if there is none of this id."""
        return (await self.get_jobs([job_id])).get(job_id)

    async def get_jobs(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Return those of the jobs that exist, by id."""
        return await self.read(queries.jobs_by_id, [job_id for job_id in job_ids if is_id(job_id)])

    async def append_log(self, job_id: str, entry: LogEntry) -> None:
        """Append a line to the job's log."""
        await self.append_logs(job_id, [entry])

    async def append_logs(self, job_id: str, entries: Iterable[LogEntry]) -> None:
        """Append lines to the job's log."""
        await self.open()
        change = Change()
        seq = self.next_seq()
        change.logs = [_as_lines(job_id, entry, seq) for entry in entries]
        await self.commit([change])

    async def save_artifacts(self, job_id: str, artifacts: Iterable[JobArtifact]) -> None:
        """Set the list of files kept with the job."""
        await self.save_artifacts_of({job_id: artifacts})

    async def save_artifacts_of(self, artifacts: dict[str, Iterable[JobArtifact]]) -> None:
        """Set the lists of files kept with several jobs, by job id."""
        change = Change()
        for job_id, job in (await self.get_jobs(artifacts)).items():
            seq = self.next_seq()
            patch = {"artifacts": list(artifacts[job_id]), "event_seq": seq}
            now = round(job.created_at.timestamp() * 1e6)
            data = encode(patch).decode()
            change.transitions.append((seq, job_id, job.org_id, job.attempt, "job_progressed", now, data, None))
        await self.commit([change])


def _as_lines(job_id: str, entry: LogEntry, seq: int) -> Lines:
    stream, micros, text = LogStream(entry.stream), round(entry.ts * 1e6), entry.line
    return Lines(job_id, entry.seq, entry.attempt, None, seq, (stream,), (micros,), (text,), len(text))


def is_id(text: object) -> bool:
    """Whether `text` has the form of a job id; anything else is asked of no table."""
    return type(text) is str and len(text) == _ID_LENGTH and text.count("-") == 4 and set(text) <= _ID_DIGITS


_ID_LENGTH = len(new_id())
_ID_DIGITS = frozenset("0123456789abcdef-")


def _call_if_running(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed, nobody waits for the answer any more
        loop.call_soon_threadsafe(call, *args)
