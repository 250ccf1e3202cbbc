"""The tables, and how a database is opened: fresh, as it was left, or set aside when it cannot be read."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path

import duckdb

from zbrain_nb.model.errors import Unavailable, ZBrainError

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
#: DuckDB would take 80 % of the machine, beside the jobs that need it.
MEMORY_LIMIT = "1GB"
#: The writer checkpoints between batches; DuckDB itself, in the middle of a commit, never does.
NO_AUTOMATIC_CHECKPOINT = "1TB"
#: Holds from the very opening on, which replays the write-ahead log.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {"checkpoint_threshold": NO_AUTOMATIC_CHECKPOINT}
#: How DuckDB says that the disk takes no more: no reason to take the database for damaged.
NO_ROOM = ("No space left", "Disk quota exceeded", "File too large", "Could not write file")

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);

-- One row per submit, appended; `lane` and `rank` are its place in line, and null if it waits for other jobs.
-- The columns from `state` on are folded in later, for lists and history.
CREATE TABLE IF NOT EXISTS jobs (
    id UUID PRIMARY KEY,
    event_seq BIGINT NOT NULL,
    org_id VARCHAR NOT NULL,
    owner VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    spec VARCHAR NOT NULL,
    idempotency_key VARCHAR,
    payload_hash VARCHAR,
    retry_of UUID,
    lane VARCHAR,
    rank BIGINT,
    state VARCHAR NOT NULL DEFAULT 'pending',
    attempt INTEGER NOT NULL DEFAULT 0,
    started_at TIMESTAMP,
    finished_at TIMESTAMP,
    worker_id VARCHAR,
    exit_code INTEGER,
    reason VARCHAR,
    fields VARCHAR,
    folded_seq BIGINT
);

-- Everything that happened to jobs after their submit; `data` is a JSON patch of the job's fields.
CREATE TABLE IF NOT EXISTS transitions (
    event_seq BIGINT NOT NULL,
    job_id UUID NOT NULL,
    org_id VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL,
    data VARCHAR NOT NULL,
    worker_seq BIGINT
);

CREATE TABLE IF NOT EXISTS logs (
    job_id UUID NOT NULL,
    log_seq BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    worker_seq BIGINT,
    event_seq BIGINT NOT NULL,
    stream VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL,
    line VARCHAR NOT NULL
);

-- Where each worker keeps its spools, so that a lock on one is found before the worker reports again.
CREATE TABLE IF NOT EXISTS workers (id VARCHAR PRIMARY KEY, info VARCHAR NOT NULL);
"""


def open_connection(path: Path | None, *, may_set_aside: bool = True) -> duckdb.DuckDBPyConnection:
    """Open the database at `path` (None is one in memory) with its tables and settings.

    One that cannot be read is set aside and a new one made, unless `may_set_aside` is false.

    Raises
    ------
    Unavailable
        If another process has it open.
    ZBrainError
        If a newer version of zbrain_nb or DuckDB wrote it, or the file may not be read.
    """
    connection = _connect(path, may_set_aside)
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    connection.execute(_TABLES)
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", [str(SCHEMA_VERSION)])
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    if row is None or int(row[0]) > SCHEMA_VERSION:
        connection.close()
        raise ZBrainError(
            f"The database {path} was written by a newer zbrain_nb.", "Upgrade zbrain_nb, or use another ZDB_DATA."
        )
    return connection


def _connect(path: Path | None, may_set_aside: bool) -> duckdb.DuckDBPyConnection:
    if path is None:
        return duckdb.connect(":memory:", config=_CONFIG)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZBrainError(f"The folder {path.parent} cannot be made: {error.strerror}.") from error
    try:
        return duckdb.connect(str(path), config=_CONFIG)
    except duckdb.Error as error:
        text = str(error)
        if "lock" in text:
            raise Unavailable(
                f"Another process has the database {path} open.", "One host serves a data directory."
            ) from error
        if "Permission denied" in text or "newer version" in text or any(sign in text for sign in NO_ROOM):
            raise ZBrainError(f"The database {path} cannot be opened: {text.splitlines()[0]}") from error
        if not may_set_aside:
            raise
        _set_aside(path, text)
    return duckdb.connect(str(path), config=_CONFIG)


def _set_aside(path: Path, why: str) -> None:
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.unreadable-{stamp}")
    moved = [aside]
    path.rename(aside)
    wal = path.with_name(path.name + ".wal")
    if wal.exists():
        moved.append(aside.with_name(aside.name + ".wal"))
        wal.rename(moved[-1])
    log.error(
        "The database could not be opened and was set aside; its jobs and logs are missing until it is repaired.",
        extra={"database": str(path), "set_aside": [str(file) for file in moved], "why": why},
    )
