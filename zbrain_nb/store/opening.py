"""How a database is opened: fresh, as it was left, brought up to date, or set aside when it cannot be read."""

from __future__ import annotations

import datetime as dt
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import duckdb

from zbrain_nb.model.errors import Unavailable, ZBrainError
from zbrain_nb.store.schema import prepare

log = logging.getLogger(__name__)

#: DuckDB would take 80 % of the machine, beside the jobs that need it.
MEMORY_LIMIT = "128MB"
#: What the database may take, and what when that is not enough. It reads and checkpoints two thousand adjacent rows at
#: once, in which versions before 11 left long texts (see `zbrain_nb.store.texts`). The last is DuckDB's own limit.
_MEMORY_STEPS = (f"SET memory_limit = '{MEMORY_LIMIT}'", "SET memory_limit = '1GB'", "RESET memory_limit")
#: The writer checkpoints between batches; DuckDB itself, in the middle of a commit, never does.
NO_AUTOMATIC_CHECKPOINT = "1TB"
#: Holds from the very opening on, which replays the write-ahead log.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"checkpoint_threshold": NO_AUTOMATIC_CHECKPOINT}
#: How DuckDB says that the disk takes no more: no reason to take the database for damaged.
NO_ROOM = ("No space left", "Disk quota exceeded", "File too large", "Could not write file")
#: Names of set-aside files begin with the database's and this.
ASIDE = ".unreadable-"
#: What the machine says when it is in trouble, not the file: nothing is moved for that.
_PASSING = (
    "Cannot open file",
    "Too many open files",
    "Input/output error",
    "Stale file handle",
    "Cannot allocate memory",
    "Operation not permitted",
    "Read-only file system",
    "Permission denied",
)
#: What a queue cannot start without, of a segment of jobs and of the pieces of their long texts.
_NEEDED = (
    "max(id), max(event_seq), max(strlen(spec)), max(state), max(strlen(fields)), max(folded_seq), max(org_id), "
    "max(owner), max(strlen(name)), max(attempt)"
)
_NEEDED_TEXTS = "max(job_id), max(event_seq), max(number), max(part), max(strlen(text))"
_HINT = "Keep these files until you have repaired or given up what they hold; blobs are not collected meanwhile."


def open_connection(
    path: Path | None, *, may_set_aside: bool = True, memory_step: int = 0
) -> duckdb.DuckDBPyConnection:
    """Open the database at `path` (None is one in memory) with its tables and settings.

    `memory_step` is how often it had too little memory before.

    One that cannot be read is set aside and a new one made, unless `may_set_aside` is false. If only its
    write-ahead log cannot be read, only that is set aside, with a copy of the database.

    Raises
    ------
    Unavailable
        If another process has it open.
    ZBrainError
        If a newer version of zbrain_nb or DuckDB wrote it, or the file may not be read.
    """
    if path is None:
        return _open(None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZBrainError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
    if not may_set_aside:
        return _open(path, memory_step)
    try:
        return _open_whole(path)
    except duckdb.Error as error:
        _raise_if_whole(path, error)
        why = str(error)
    return _open_without_wal(path, why) or _open_anew(path, why)


def _open_whole(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a database and say so if DuckDB took the end of its log for cut off, and dropped it without a word."""
    wal = wal_of(path)
    size = wal.stat().st_size if wal.exists() else 0
    kept = path.with_name(f"{path.name}.torn.wal")
    fresh = kept.with_name(f"{kept.name}.new")
    try:
        if size:
            shutil.copyfile(wal, fresh)
    except OSError as error:
        log.warning("The write-ahead log could not be copied before it is replayed.", extra={"why": str(error)})
    try:
        connection = _open(path)
        if size and (dropped := _dropped_bytes(connection, wal, size)):
            if fresh.exists():
                fresh.replace(kept)
            log.warning(
                "The end of the write-ahead log was not whole and was dropped: a commit cut off by a kill, which "
                "nobody was told of, or damage to the disk. The log is kept as it was, until the next such case.",
                extra={"log": str(kept), "dropped_bytes": dropped},
            )
    finally:
        fresh.unlink(missing_ok=True)
    return connection


def _dropped_bytes(connection: duckdb.DuckDBPyConnection, wal: Path, size: int) -> int:
    """Return by how much the log shrank when DuckDB first appended to it: what it could not replay is cut off then."""
    try:
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('opened_at', ?)", [str(time.time())])
    except duckdb.Error as error:
        if not any(sign in str(error) for sign in NO_ROOM):
            raise
        return 0  # a full disk is no reason not to start
    return max(0, size - wal.stat().st_size)


def set_aside_files(path: Path | None) -> list[Path]:
    """Return what was set aside of the database at `path` and still lies there."""
    return [] if path is None else sorted(path.parent.glob(f"{path.name}{ASIDE}*"))


def _open(path: Path | None, memory_step: int = 0) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:" if path is None else str(path), config=_CONFIG)
    try:
        connection.execute("SET autoinstall_known_extensions = false")
        # Handing parts of a statement to other threads costs a small commit 15 % of its time; readers have their own.
        connection.execute("SET threads = 1")
        # Merging row groups would win little, for rows are hardly deleted, and made some checkpoints last 0.4 s.
        connection.execute("SET max_vacuum_tasks = 0")
        _update_and_probe(connection, path, _MEMORY_STEPS[memory_step:] or _MEMORY_STEPS[-1:])
    except BaseException:
        connection.close()
        raise
    return connection


def _update_and_probe(connection: duckdb.DuckDBPyConnection, path: Path | None, memory_steps: Sequence[str]) -> None:
    """Bring a database up to date and see that it can be read, with the first of the steps that is enough."""
    connection.execute(memory_steps[0])
    try:
        prepare(connection, path, time.time())
        if path is not None:
            probe(connection)
    except duckdb.OutOfMemoryException as error:
        if len(memory_steps) == 1:
            raise
        log.warning("The database takes more memory, for jobs with much text.", extra={"why": str(error)})
        _update_and_probe(connection, path, memory_steps[1:])


def probe(connection: duckdb.DuckDBPyConnection) -> None:
    """Read what a queue cannot start without, so that a damaged page shows now and not in the middle of a commit.

    DuckDB checks a block when it reads it. Logs and transitions are too many; a damaged page there is said to who
    reads it.
    """
    for (table,) in connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall():
        if table.startswith("jobs_"):
            connection.execute(
                f"SELECT {_NEEDED_TEXTS if table.endswith('_texts') else _NEEDED} FROM {table}"
            ).fetchall()
        elif not table.startswith(("transitions_", "logs_")):
            connection.execute(f"SELECT max(COLUMNS(*)) FROM {table}").fetchall()


def _raise_if_whole(path: Path, error: duckdb.Error) -> None:
    """Translate what does not mean that the file is damaged."""
    text = str(error)
    if "lock on file" in text:
        raise Unavailable(
            f"Another process has the database {path} open.", "One host serves a data directory."
        ) from error
    is_foreign = "newer version" in text or isinstance(error, duckdb.OutOfMemoryException)
    if is_foreign or any(sign in text for sign in (*NO_ROOM, *_PASSING)):
        raise ZBrainError(f"The database {path} cannot be opened: {text.splitlines()[0]}") from error


def _open_without_wal(path: Path, why: str) -> duckdb.DuckDBPyConnection | None:
    """Try the database as its last checkpoint left it; None if that does not help either."""
    wal = wal_of(path)
    if not path.exists() or not wal.exists():
        return None
    aside = _aside(path)
    checkpoint = _when(path)
    wal.rename(wal_of(aside))
    try:
        _check_readable(path)
    except duckdb.Error:
        wal_of(aside).rename(wal)
        return None
    try:
        shutil.copyfile(path, aside)  # what the log belongs to, before anything is written
    except OSError as error:
        aside.unlink(missing_ok=True)
        log.warning("The database could not be copied beside its unreadable log.", extra={"why": str(error)})
    log.error(
        "The write-ahead log of the database could not be read and was set aside: what was committed after the last "
        "checkpoint is lost. The database goes on from there.",
        extra={
            "database": str(path),
            "lost_since": checkpoint,
            "set_aside": [str(file) for file in (aside, wal_of(aside)) if file.exists()],
            "why": why,
            "hint": _HINT,
        },
    )
    return _open(path)


def _check_readable(path: Path) -> None:
    with duckdb.connect(str(path), config=_CONFIG) as connection:
        probe(connection)


def _open_anew(path: Path, why: str) -> duckdb.DuckDBPyConnection:
    aside = _aside(path)
    moved = [aside]
    written, size = _when(path), path.stat().st_size
    path.rename(aside)
    wal = wal_of(path)
    if wal.exists():
        moved.append(wal_of(aside))
        wal.rename(moved[-1])
    log.error(
        "The database could not be opened and was set aside; its jobs and logs are missing until it is repaired. "
        "The queue begins anew, empty.",
        extra={
            "database": str(path),
            "last_checkpoint": written,
            "size_bytes": size,
            "set_aside": [str(file) for file in moved],
            "why": why,
            "hint": _HINT,
        },
    )
    return _open(path)


def wal_of(path: Path) -> Path:
    """Return where the write-ahead log of a database lies."""
    return path.with_name(path.name + ".wal")


def _aside(path: Path) -> Path:
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return path.with_name(f"{path.name}{ASIDE}{stamp}")


def _when(path: Path) -> str:
    return dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC).isoformat(timespec="seconds")
