"""The history as tables: what `client.sql` can ask, and what ``GET history`` sends. Server and client read it here.

Types are DuckDB's. Times are in UTC. No column holds a secret, the value of an environment variable, a pickle, or a
tag of zbrain's own.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Literal

import msgspec

from zbrain_nb.model.checks import check_org_id
from zbrain_nb.model.errors import InvalidSpec

#: Metadata of the stream's schema: a `Mark` as JSON.
MARK = b"zbrain.mark"
#: What ends an Arrow IPC stream: one without it was cut off.
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
MEDIA_TYPE = "application/vnd.apache.arrow.stream"

#: The keys of `TABLES`.
TableName = Literal["jobs", "attempts", "events", "logs"]
_TEXTS, _TAGS = "VARCHAR[]", "MAP(VARCHAR, VARCHAR)"


class Column(msgspec.Struct, frozen=True):
    """One column: its type in DuckDB, and what it says."""

    type: str
    text: str


class Table(msgspec.Struct, frozen=True):
    """One table.

    Attributes
    ----------
    text : str
        What a row is.
    key : tuple of str
        Columns that tell its rows apart; of two rows with the same key, the later one holds.
    time : str
        The column by which `since` is meant.
    grows_only : bool
        Whether its rows never change.
    columns : dict of str to Column
        In order.
    """

    text: str
    key: tuple[str, ...]
    time: str
    grows_only: bool
    columns: dict[str, Column]


_JOB_ID = Column("VARCHAR", "id of the job")
_ORG_ID = Column("VARCHAR", "org that the job belongs to")
_SEQ = "number of the event (event_seq)"

TABLES = {
    "jobs": Table(
        "one row a job, as it is now",
        ("id",),
        "created_at",
        False,
        {
            "id": _JOB_ID,
            "name": Column("VARCHAR", "its name, else the head of what it runs"),
            "state": Column("VARCHAR", "pending, running, succeeded, failed, retrying or canceled"),
            "owner": Column("VARCHAR", "who submitted it"),
            "org_id": _ORG_ID,
            "created_at": Column("TIMESTAMP", "when it was submitted"),
            "started_at": Column("TIMESTAMP", "when its last attempt started"),
            "finished_at": Column("TIMESTAMP", "when it ended"),
            "attempt": Column("INTEGER", "its last attempt; 0 before the first"),
            "failures": Column("INTEGER", "how many attempts failed"),
            "losses": Column("INTEGER", "how many attempts vanished with their worker"),
            "worker_id": Column("VARCHAR", "who ran the last attempt"),
            "exit_code": Column("INTEGER", "of the last attempt; negative is a signal"),
            "peak_memory_mb": Column("DOUBLE", "the most memory that the last attempt took, in MiB, if it is known"),
            "cpu_secs": Column("DOUBLE", "CPU time of the last attempt's processes, if it is known"),
            "reason": Column("VARCHAR", "why it failed, was canceled or tries again"),
            "error_name": Column("VARCHAR", "class of the exception, such as ValueError"),
            "error_text": Column("VARCHAR", "what the exception said"),
            "progress": Column("DOUBLE", "from 0 to 1, as last told"),
            "kind": Column("VARCHAR", "what it runs: cmd, code or function"),
            "cmd": Column(_TEXTS, "the command and its arguments"),
            "code": Column("VARCHAR", "source of the cell"),
            "cwd": Column("VARCHAR", "folder that it runs in"),
            "env": Column(_TEXTS, "names of its environment variables; their values are not shown"),
            "tags": Column(_TAGS, "labels that people gave"),
            "priority": Column("BIGINT", "higher runs first"),
            "timeout_secs": Column("DOUBLE", "how long an attempt may run"),
            "max_retries": Column("INTEGER", "how often a failed attempt is tried again"),
            "cpus": Column("DOUBLE", "CPU cores that it asks for"),
            "memory_mb": Column("BIGINT", "memory that it asks for, in MiB"),
            "gpus": Column("INTEGER", "GPUs that it asks for"),
            "worker": Column("VARCHAR", "kind of worker that it is for"),
            "kernel": Column("VARCHAR", "interpreter that it asks for"),
            "artifacts": Column("INTEGER", "how many files it keeps"),
            "artifact_bytes": Column("BIGINT", "their size together"),
            "retry_of": Column("VARCHAR", "the job that it repeats"),
            "cancel_requested_at": Column("TIMESTAMP", "when a cancel was asked for"),
            "canceled_by": Column("VARCHAR", "by whom"),
            "event_seq": Column("BIGINT", f"{_SEQ} that changed it last"),
        },
    ),
    "attempts": Table(
        "one row an attempt: a job is leased to a worker, until that ends",
        ("job_id", "attempt"),
        "leased_at",
        False,
        {
            "job_id": _JOB_ID,
            "attempt": Column("INTEGER", "1, 2, ..."),
            "org_id": _ORG_ID,
            "worker_id": Column("VARCHAR", "who ran it"),
            "leased_at": Column("TIMESTAMP", "when the worker got it"),
            "started_at": Column("TIMESTAMP", "when its process ran"),
            "ended_at": Column("TIMESTAMP", "when it ended; null while it runs"),
            "outcome": Column("VARCHAR", "running, succeeded, failed, canceled, lost, or returned (never begun)"),
            "exit_code": Column("INTEGER", "of its process; negative is a signal"),
            "peak_memory_mb": Column("DOUBLE", "the most memory that its processes took, in MiB, if it is known"),
            "cpu_secs": Column("DOUBLE", "CPU time of all its processes, if it is known"),
            "reason": Column("VARCHAR", "why it ended so"),
            "error_name": Column("VARCHAR", "class of the exception"),
            "event_seq": Column("BIGINT", f"{_SEQ} that changed it last"),
        },
    ),
    "events": Table(
        "one row for each change of a job, from its submit on",
        ("event_seq",),
        "ts",
        True,
        {
            "event_seq": Column("BIGINT", _SEQ),
            "ts": Column("TIMESTAMP", "when"),
            "kind": Column("VARCHAR", "job_submitted, job_leased, job_started, job_completed, job_failed, ..."),
            "job_id": _JOB_ID,
            "attempt": Column("INTEGER", "of which attempt; 0 before the first"),
            "org_id": _ORG_ID,
            "state": Column("VARCHAR", "the job's new state, if it changed"),
            "worker_id": Column("VARCHAR", "of a job_leased: to whom"),
            "exit_code": Column("INTEGER", "of an end"),
            "reason": Column("VARCHAR", "of an end or a back-off"),
            "progress": Column("DOUBLE", "of a job_progressed, from 0 to 1"),
        },
    ),
    "logs": Table(
        "one row a line of a job's log",
        ("job_id", "log_seq"),
        "ts",
        True,
        {
            "job_id": _JOB_ID,
            "log_seq": Column("BIGINT", "0, 1, ... over all attempts of the job"),
            "attempt": Column("INTEGER", "which attempt wrote it"),
            "stream": Column("VARCHAR", "stdout, stderr or system"),
            "ts": Column("TIMESTAMP", "when it was written"),
            "line": Column("VARCHAR", "the text"),
            "event_seq": Column("BIGINT", f"{_SEQ} that brought it"),
        },
    ),
}


class Mark(msgspec.Struct, frozen=True):
    """How far a stream reaches: what is new or changed since comes with ``after=upto``.

    Attributes
    ----------
    upto : int
        The last ``event_seq`` that is in it.
    epoch : str
        Changes when rows were dropped, or when the queue began anew: then `upto` holds no more.
    """

    upto: int
    epoch: str


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows and columns are wanted; None lets every row pass.

    Parameters
    ----------
    table : str
        One of `TABLES`.
    columns : tuple of str
        Of the table, in order; empty is all.
    since : datetime or None
        Rows from this time on (see `Table.time`).
    after : int or None
        Rows that were added or changed behind this ``event_seq``.
    epoch : str or None
        Of the `Mark` from which `after` was taken; if that does not hold any more, all rows are sent.
    org_id, job_id : str or None
        Rows of this org, of this job.
    limit : int or None
        The newest rows only, at most so many.

    Raises
    ------
    InvalidSpec
        If there is no such table or column, with those that exist; or if `org_id` or `job_id` cannot be one.
    """

    table: str
    columns: tuple[str, ...] = ()
    since: dt.datetime | None = None
    after: int | None = None
    epoch: str | None = None
    org_id: str | None = None
    job_id: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        table = TABLES.get(self.table)
        if table is None:
            raise InvalidSpec(
                f"There is no table {self.table[:40]!r} of history.", f"It has {', '.join(TABLES)}.", field="table"
            )
        unknown = next((name for name in self.columns if name not in table.columns), None)
        if unknown is not None:
            raise InvalidSpec(
                f"The table {self.table} has no column {unknown[:40]!r}.",
                f"It has {', '.join(table.columns)}.",
                field="columns",
            )
        if self.org_id is not None:
            check_org_id("org", self.org_id)
        if self.job_id is not None:
            try:
                msgspec.structs.force_setattr(self, "job_id", str(uuid.UUID(self.job_id)))
            except ValueError:
                raise InvalidSpec(f"{self.job_id[:40]!r} is no job's id.", "Give all of it.", field="job") from None
        msgspec.structs.force_setattr(self, "columns", tuple(dict.fromkeys(self.columns)) or tuple(table.columns))
