"""The one connection that writes: appends of batches, folding, checkpoints. Used by the writer thread alone."""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import duckdb

from zbrain_nb.model.errors import Unavailable, ZBrainError
from zbrain_nb.store.grants import Charge, Grant, add_grants, forget_grants
from zbrain_nb.store.opening import open_connection, wal_of
from zbrain_nb.store.refusals import conflict, disk_floor, is_full, is_too_much, unavailable
from zbrain_nb.store.room import Room
from zbrain_nb.store.rows import FOLDED, Change, Layout
from zbrain_nb.store.schema import COLUMNS, KINDS
from zbrain_nb.store.segments import Segment, Segments, roll_back
from zbrain_nb.store.texts import FIELDS, PIECES, Piece, set_aside, texts_of

log = logging.getLogger(__name__)

#: A checkpoint stops the writer for some 5 ms a MB; seldom and long would be felt more than often and short.
CHECKPOINT_BYTES = 8 * 1024 * 1024
#: Until a checkpoint that failed, for want of space or because of a reader, is tried again.
CHECKPOINT_PAUSE_SECS = 1.0
#: A checkpoint is made if so many times the log's size is free.
CHECKPOINT_ROOM = 2
#: Until a database that DuckDB gave up is opened again, if that failed.
REVIVAL_PAUSE_SECS = 1.0
#: Until a segment that could not be opened is tried again.
SEGMENT_PAUSE_SECS = 5.0

#: Raised for what one row holds, by DuckDB or on the way to it.
_REFUSED = (duckdb.ConstraintException, duckdb.DataError, OverflowError, TypeError, ValueError)

_FOLD = """
UPDATE {table} AS jobs SET folded_seq = incoming.folded_seq, state = incoming.state, attempt = incoming.attempt,
    started_at = make_timestamp(incoming.started_at), finished_at = make_timestamp(incoming.finished_at),
    worker_id = incoming.worker_id, exit_code = incoming.exit_code, reason = incoming.reason,
    fields = incoming.fields
FROM incoming WHERE jobs.id = incoming.id::UUID
"""
_UNFOLD_TEXTS = f"DELETE FROM {{table}} WHERE number = {FIELDS} AND job_id IN (SELECT id::UUID FROM incoming)"


class Database:
    """An open database.

    Parameters
    ----------
    path : Path or None
        The file; None is a database in memory.
    room : Room, optional
        Of the disk; the database asks it, and takes its ballast, before it fails for want of space.
    """

    def __init__(self, path: Path | None, room: Room | None = None) -> None:
        self._connection = open_connection(path)
        self._segments = Segments(self._connection)
        self._room = room or Room(None)
        self._path = path
        self._wal = wal_of(path) if path else None
        self._no_segment_before = 0.0
        self._in_doubt: list[Change] = []
        self._no_checkpoint_before = 0.0
        self._memory_step = 0
        self._no_revival_before = 0.0
        self._is_failing = False
        self._is_invalid = False
        self._cursors: WeakSet[duckdb.DuckDBPyConnection] = WeakSet()
        self._handing_out = threading.Lock()
        #: Grows when the database was opened again: cursors of before are closed.
        self.generation = 0

    @property
    def oldest_seq(self) -> int:
        """The first ``event_seq`` from which on no event was dropped."""
        return self._segments.oldest_seq

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a further cursor on the same database, for a reader; any thread may ask."""
        with self._handing_out:
            cursor = self._connection.cursor()
            self._cursors.add(cursor)
        return cursor

    @property
    def is_invalid(self) -> bool:
        """Whether DuckDB gave the database up and it has to be opened again."""
        return self._is_invalid

    def note_failure(self, error: BaseException) -> None:
        """Log the first failure of an episode, and note whether DuckDB gave the database up."""
        if isinstance(error, duckdb.FatalException):
            self._is_invalid = True
        if isinstance(error, duckdb.Error) and not self._is_failing:
            self._is_failing = True
            log.error("The store cannot write; callers are told until it can again.", extra={"why": str(error)})

    def _note_success(self) -> None:
        if self._is_failing:
            self._is_failing = False
            log.warning("The store writes again.")

    def revive_if_invalid(self) -> None:
        """Open the database again if DuckDB gave it up, as after a checkpoint that found no space.

        What was committed stands in the write-ahead log. Every cursor has to go first: while one is left, DuckDB
        hands out the same invalid database.
        """
        if not self._is_invalid or self._path is None or time.monotonic() < self._no_revival_before:
            return
        self._no_revival_before = time.monotonic() + REVIVAL_PAUSE_SECS
        with self._handing_out:
            for connection in [*self._cursors, self._connection]:
                with contextlib.suppress(duckdb.Error):
                    connection.close()
            self.generation += 1
            try:
                self._connection = open_connection(self._path, may_set_aside=False, memory_step=self._memory_step)
                self._segments = Segments(self._connection)
                self._undo_doubtful()
            except (duckdb.Error, ZBrainError) as error:
                log.debug("The database cannot be opened again yet.", extra={"why": str(error)})
                return
        self._is_invalid = False
        log.warning("The database was opened again after DuckDB had given it up.", extra={"database": str(self._path)})

    def _undo_doubtful(self) -> None:
        """Take back what was answered as failed when DuckDB gave the database up, and is durable after all."""
        for kind in KINDS:
            layout = self._segments.layouts[kind]
            seqs = [seq for change in self._in_doubt for seq in layout.event_seqs(getattr(change, kind))]
            if seqs:
                for table in (layout.table, self._segments.texts[kind].table):
                    self._connection.execute(
                        f"DELETE FROM {table} WHERE event_seq IN (SELECT unnest(?::BIGINT[]))", [seqs]
                    )
        self._in_doubt = []

    def append(self, changes: Sequence[Change]) -> list[ZBrainError | None]:
        """Write `changes` in one transaction; if a row is refused, find the guilty and write the others.

        While the disk is nearly full, changes that bring jobs are refused.

        Returns
        -------
        list of ZBrainError or None
            For each change, in order, None if it is durable now, else why it is not.
        """
        outcomes: list[ZBrainError | None] = [None] * len(changes)
        some: Sequence[int] = range(len(changes))
        tainted: set[str] = set()
        if self._room.is_low():
            some = self._refuse_jobs(changes, some, outcomes, tainted, None)
        self._append_some(changes, some, outcomes, tainted)
        return outcomes

    @staticmethod
    def _refuse_jobs(
        changes: Sequence[Change],
        some: Sequence[int],
        outcomes: list[ZBrainError | None],
        tainted: set[str],
        cause: duckdb.Error | None,
    ) -> list[int]:
        """Refuse the changes that bring jobs, for there is no room; return the others."""
        others = []
        for i in some:
            if changes[i].jobs:
                outcomes[i] = disk_floor(cause)
                tainted.update(changes[i].keys)
            else:
                others.append(i)
        return others

    def _append_some(
        self, changes: Sequence[Change], some: Sequence[int], outcomes: list[ZBrainError | None], tainted: set[str]
    ) -> None:
        some = [i for i in some if not self._is_tainted(changes[i], i, outcomes, tainted)] if tainted else some
        if not some:
            return
        try:
            self._transact([changes[i] for i in some])
            self._note_success()
            return
        except _REFUSED as error:
            refused = error
        except duckdb.Error as error:
            self.note_failure(error)
            if isinstance(error, duckdb.FatalException):
                self._in_doubt += [changes[i] for i in some]
                self.revive_if_invalid()
            if is_full(error):
                some = self._refuse_jobs(changes, some, outcomes, tainted, error)
                if some and self._room.release():
                    self._append_some(changes, some, outcomes, tainted)
                    return
            for i in some:
                outcomes[i] = unavailable(error)
                tainted.update(changes[i].keys)
            return
        if len(some) == 1:
            outcomes[some[0]] = conflict(refused)
            tainted.update(changes[some[0]].keys)
            return
        middle = len(some) // 2
        self._append_some(changes, some[:middle], outcomes, tainted)
        self._append_some(changes, some[middle:], outcomes, tainted)

    @staticmethod
    def _is_tainted(change: Change, index: int, outcomes: list[ZBrainError | None], tainted: set[str]) -> bool:
        if tainted.isdisjoint(change.keys):
            return False
        outcomes[index] = Unavailable("What this builds on could not be written.", "Try again.")
        tainted.update(change.keys)
        return True

    def _transact(self, changes: Sequence[Change]) -> None:
        layouts = self._segments.layouts
        if len(changes) == 1:
            rows = {kind: getattr(changes[0], kind) for kind in KINDS}
        else:
            rows = {kind: [row for change in changes for row in getattr(change, kind)] for kind in KINDS}
        if rows["jobs"]:
            self._refuse_taken(rows["jobs"])
        parts: list[tuple[Layout, Sequence[Any]]] = []
        for kind in KINDS:
            short, pieces = set_aside(kind, rows[kind])
            parts += [(layouts[kind], short)] if short else []
            parts += [(self._segments.texts[kind], pieces)] if pieces else []
        if len(parts) == 1:
            self._insert(*parts[0])
        elif parts:
            self._in_transaction(parts)
        for kind in KINDS:
            self._segments.note(kind, sum(map(len, rows[kind])) if kind == "logs" else len(rows[kind]))

    def _refuse_taken(self, jobs: list[tuple[Any, ...]]) -> None:
        """Refuse ids that older segments hold; the open one has an index that does."""
        last = self._segments.last_old_id
        if not last or (len(jobs) == 1 and jobs[0][0] > last):
            return
        old = [row[0] for row in jobs if row[0] <= last]
        if not old:
            return
        taken = self._connection.execute(
            "SELECT id::VARCHAR FROM jobs WHERE id IN (SELECT unnest(?::UUID[])) LIMIT 1", [old]
        ).fetchone()
        if taken is not None:
            raise duckdb.ConstraintException(f"The id {taken[0]} is taken.")

    def _in_transaction(self, parts: Iterable[tuple[Layout, Sequence[Any]]]) -> None:
        self._connection.execute("BEGIN")
        try:
            for layout, rows in parts:
                self._insert(layout, rows)
            self._connection.execute("COMMIT")
        except BaseException:  # whatever it was: an open transaction would swallow what is written next
            roll_back(self._connection)
            raise

    def _insert(self, layout: Layout, rows: Sequence[Any]) -> None:
        one = layout.single(rows)
        if one is not None:
            self._connection.execute(*one)
            return
        statement, incoming = layout.as_table(rows)  # DuckDB finds `incoming` by its name
        self._connection.execute(statement)
        del incoming

    def fold(self, rows: list[tuple[Any, ...]]) -> set[str]:
        """Show in the jobs table what became of jobs (`rows.folded_row`); return the ids whose rows are refused."""
        if not rows:
            return set()
        left = len(rows)
        try:
            short, pieces = set_aside("folded", rows)
            for segment in reversed(self._segments.all["jobs"]):  # most jobs that change are young
                left -= self._fold_into(segment.table, short, pieces)
                if left == 0:
                    break
        except _REFUSED as error:
            if len(rows) == 1:
                log.error("What became of a job cannot be folded.", extra={"job_id": rows[0][0], "why": str(error)})
                return {rows[0][0]}
            middle = len(rows) // 2
            return self.fold(rows[:middle]) | self.fold(rows[middle:])
        return set()

    def _fold_into(self, table: str, rows: Sequence[tuple[Any, ...]], pieces: Sequence[Piece]) -> int:
        """Fold what concerns the jobs of one segment; return how many they are."""
        connection, apart = self._connection, texts_of(table)
        connection.execute("BEGIN")
        try:
            _, incoming = FOLDED.as_table(rows)  # DuckDB finds `incoming` by its name
            found = connection.execute(_FOLD.format(table=table)).fetchone()
            count = found[0] if found else 0
            if count:
                connection.execute(_UNFOLD_TEXTS.format(table=apart))
                if pieces:
                    statement, incoming = PIECES.of(apart).as_table(pieces)
                    connection.execute(f"{statement} WHERE job_id::UUID IN (SELECT id FROM {table})")
            connection.execute("COMMIT")
            del incoming
        except BaseException:
            roll_back(connection)
            raise
        return count

    def append_audit(
        self, rows: Sequence[tuple[Any, ...]], change: Callable[[duckdb.DuckDBPyConnection], None] | None = None
    ) -> None:
        """Append rows (in the order of `AUDIT`) to the audit, together with the `change` that they speak of."""
        connection = self._connection
        connection.execute("BEGIN")
        try:
            if change is not None:
                change(connection)
            if rows:
                self._insert(self._segments.layouts["audit"], list(rows))
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise
        self._segments.note("audit", len(rows))

    def save_meta(self, key: str, value: str | None) -> None:
        """Keep a value under `key`, or forget it."""
        if value is None:
            self._connection.execute("DELETE FROM meta WHERE key = ?", [key])
        else:
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [key, value])

    def save_worker(self, worker_id: str, info: str, forgotten: Collection[str] = ()) -> None:
        """Keep what is known of a worker, as JSON, and not what is known of the `forgotten` ones."""
        self.forget_workers(forgotten)
        self._connection.execute("INSERT OR REPLACE INTO workers VALUES (?, ?)", [worker_id, info])

    def forget_workers(self, ids: Collection[str]) -> None:
        """Remove what is known of these workers."""
        if ids:
            self._connection.execute("DELETE FROM workers WHERE list_contains(?::VARCHAR[], id)", [list(ids)])

    def save_grants(self, grants: Mapping[Grant, int]) -> list[Charge]:
        """Let owners name blobs; return what that adds to what they store (see `add_grants`)."""
        return add_grants(self._connection, grants)

    def forget_grants(self, names: Collection[str]) -> list[Charge]:
        """Remove all grants of these blobs; return what owners store less by that."""
        return forget_grants(self._connection, names)

    def open_segments(self, kinds: Iterable[str], now: float) -> None:
        """Close the segments of these kinds that are appended to, if they have rows, and open the next ones."""
        kinds = [kind for kind in kinds if not self._segments.is_empty(kind)]
        if kinds:
            self._segments.open_next(kinds, now)

    def drop_segment(self, segment: Segment, job_ids: list[str]) -> None:
        """Drop a closed segment, but carry over the rows of these jobs (see `Segments.drop`)."""
        self._segments.drop(segment, job_ids)

    def tend(self) -> None:
        """Do between two tasks what is due: open a segment, checkpoint."""
        if self._is_invalid:
            return
        full = [kind for kind in COLUMNS if self._segments.is_full(kind)]
        if full and time.monotonic() >= self._no_segment_before:
            try:
                self._segments.open_next(full, time.time())
            except duckdb.Error as error:
                self._no_segment_before = time.monotonic() + SEGMENT_PAUSE_SECS
                self.note_failure(error)
        self._checkpoint_if_due()

    def _checkpoint_if_due(self) -> None:
        if self._wal is None:
            return
        try:
            grown = self._wal.stat().st_size
        except FileNotFoundError:
            return
        if grown < CHECKPOINT_BYTES or time.monotonic() < self._no_checkpoint_before:
            return
        if shutil.disk_usage(self._wal.parent).free < CHECKPOINT_ROOM * grown:  # DuckDB would give up the database
            self._no_checkpoint_before = time.monotonic() + CHECKPOINT_PAUSE_SECS
            return
        try:
            self._connection.execute("CHECKPOINT")
        except duckdb.Error as error:
            self._no_checkpoint_before = time.monotonic() + CHECKPOINT_PAUSE_SECS
            if isinstance(error, duckdb.FatalException):
                self._memory_step += is_too_much(error)
                self.note_failure(error)
                self.revive_if_invalid()
                return
            log.warning("A checkpoint has to wait.", extra={"why": str(error), "wal_bytes": grown})

    def close(self) -> None:
        """Checkpoint and close; the write-ahead log is kept when the checkpoint fails."""
        try:
            if self._wal is not None:
                self._connection.execute("CHECKPOINT")
        except duckdb.Error as error:
            log.warning("The last checkpoint failed; the next start replays the log.", extra={"why": str(error)})
        self._connection.close()
        self._room.close()
