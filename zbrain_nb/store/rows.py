"""What is written: the columns of each table, and `Change`, the rows that are written all or not at all.

Rows are plain tuples in the order of their layout, because a submit makes one and fifty thousand submits a
second make a difference. Ids travel as text and times as whole microseconds since the epoch; the statements
turn both into DuckDB's own types.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
from arro3.core import Array, DataType, Table

from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.job import Job
from zbrain_nb.store.footprint import extra_bytes_of_spec
from zbrain_nb.store.lines import Lines, as_columns

EPOCH = dt.datetime(1970, 1, 1)
TEXT, INT, UUID, TIME = "{}", "{}", "{}::UUID", "make_timestamp({})"
_TYPES = {TEXT: DataType.string(), UUID: DataType.string(), TIME: DataType.int64()}

_encode = msgspec.json.Encoder().encode


def encode(value: Any) -> bytes:
    """Return `value` as JSON.

    Raises
    ------
    InvalidSpec
        If it holds what JSON cannot say: foreign objects, text that is none, or a nesting too deep.
    """
    try:
        return _encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidSpec(f"A value cannot be written as JSON: {error}.") from error


class Change:
    """Rows of one caller: all of them are committed, or none.

    Attributes
    ----------
    touched : list of str
        Ids of further jobs that the change rests on (see `keys`).
    keys : list of str
        Ids of the jobs that the change reads or writes. When a change fails, later changes of the same batch
        that share a key fail with it, for they were decided on what it said.
    jobs, transitions : list of tuple
        Rows in the order of `JOBS` and `TRANSITIONS`.
    logs : list of Lines
        Lines of logs.
    """

    __slots__ = ("jobs", "logs", "touched", "transitions")
    touched: list[str]
    jobs: list[tuple[Any, ...]]
    transitions: list[tuple[Any, ...]]
    logs: list[Lines]

    def __init__(self) -> None:
        self.touched, self.jobs, self.transitions, self.logs = [], [], [], []

    @property
    def keys(self) -> list[str]:
        """Ids of the jobs that the change reads or writes."""
        return self.touched

    @property
    def chars(self) -> int:
        """How long the texts are that the rows hold, about: what has a bound of its own is left out."""
        specs = sum([len(row[_SPEC]) for row in self.jobs])
        return specs + sum([len(row[_DATA]) for row in self.transitions]) + sum([x.text_chars for x in self.logs])


class Layout:
    """The columns that an insert into one table fills, and the statements that do it.

    Parameters
    ----------
    table : str
        Its name.
    columns : dict of str to tuple
        By name: how the value is turned into its SQL type, and the type of the Arrow column.
    rare : int
        How many of the last columns are left out of a batch in which they, and all behind them, are None.
    """

    def __init__(self, table: str, columns: dict[str, tuple[str, DataType]], rare: int = 0) -> None:
        self.table = table
        self._columns = columns
        self.names = list(columns)
        self._types = [kind for _, kind in columns.values()]
        self._rare = rare
        self._usual = len(columns) - rare
        self._times = [n for n, (form, _) in enumerate(columns.values()) if form == TIME]
        self._insert_one, self._insert_many = {}, {}
        for width in range(self._usual, len(columns) + 1):
            some = list(columns.items())[:width]
            chosen = ", ".join(form.format(name) for name, (form, _) in some)
            into = ", ".join(name for name, _ in some)
            # each column, and each cast, of a row that is written alone costs some 20 µs
            self._insert_one[width] = f"INSERT INTO {table} ({into}) VALUES ({', '.join('?' * width)})"
            self._insert_many[width] = f"INSERT INTO {table} ({into}) SELECT {chosen} FROM incoming"

    def row(self, rows: Sequence[Any]) -> tuple[Any, ...] | None:
        """Return the one row of `rows`, or None if they are more."""
        return rows[0] if len(rows) == 1 else None

    def single(self, rows: Sequence[Any]) -> tuple[str, list[Any]] | None:
        """Return the statement that inserts `rows` if they are but one row, and its values, else None."""
        row = self.row(rows)
        if row is None:
            return None
        width = len(row)
        while width > self._usual and row[width - 1] is None:
            width -= 1
        values = list(row[:width])
        for n in self._times:
            if n < width and values[n] is not None:
                values[n] = EPOCH + dt.timedelta(microseconds=values[n])
        return self._insert_one[width], values

    def columns(self, rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """Return `rows` column by column."""
        return list(zip(*rows, strict=True))

    def of(self, table: str) -> Layout:
        """Return the same for another table of these columns."""
        return type(self)(table, self._columns, self._rare)

    def event_seqs(self, rows: list[Any]) -> list[int]:
        """Return the ``event_seq`` of each of `rows`."""
        at = self.names.index("event_seq")
        return [row[at] for row in rows]

    def as_table(self, rows: Sequence[Any]) -> tuple[str, Table]:
        """Return the statement that inserts `rows` from a table named ``incoming``, and that table."""
        columns = self.columns(rows)
        width = len(columns)
        while width > self._usual and columns[width - 1].count(None) == len(rows):
            width -= 1
        arrays = [Array(columns[i], self._types[i]) for i in range(width)]
        return self._insert_many[width], Table.from_arrays(arrays, names=self.names[:width])


class LogLayout(Layout):
    """A layout whose rows come as `Lines`, many in one."""

    def row(self, rows: Sequence[Any]) -> tuple[Any, ...] | None:
        """Return the one line of `rows`, or None if they hold more."""
        return rows[0].row() if len(rows) == 1 and len(rows[0]) == 1 else None

    def columns(self, rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
        """Return all lines column by column."""
        return as_columns(rows)

    def event_seqs(self, rows: list[Any]) -> list[int]:
        """Return the ``event_seq`` of each of `rows`."""
        return [lines.event_seq for lines in rows]


_TEXT, _INT = (TEXT, DataType.string()), (INT, DataType.int64())
_UUID, _TIME = (UUID, DataType.string()), (TIME, DataType.int64())

JOBS = Layout(
    "jobs",
    {
        "id": _UUID,
        "event_seq": _INT,
        "org_id": _TEXT,
        "owner": _TEXT,
        "name": _TEXT,
        "created_at": _TIME,
        "spec": _TEXT,
        "lane": _TEXT,
        "rank": _INT,
        "extra_bytes": _INT,
        "idempotency_key": _TEXT,
        "payload_hash": _TEXT,
        "retry_of": _UUID,
        "cache_key": _TEXT,
        "tags": _TEXT,
    },
    rare=6,
)
TRANSITIONS = Layout(
    "transitions",
    {
        "event_seq": _INT,
        "job_id": _UUID,
        "org_id": _TEXT,
        "attempt": _INT,
        "kind": _TEXT,
        "ts": _TIME,
        "data": _TEXT,
        "worker_seq": _INT,
    },
)
LOGS = LogLayout(
    "logs",
    {
        "job_id": _UUID,
        "log_seq": _INT,
        "attempt": _INT,
        "worker_seq": _INT,
        "event_seq": _INT,
        "stream": _TEXT,
        "ts": _TIME,
        "line": _TEXT,
    },
)
_SPEC, _DATA = JOBS.names.index("spec"), TRANSITIONS.names.index("data")
AUDIT = Layout(
    "audit",
    {
        "seq": _INT,
        "ts": _TIME,
        "who": _TEXT,
        "credential": _TEXT,
        "token_id": _TEXT,
        "address": _TEXT,
        "verb": _TEXT,
        "object_kind": _TEXT,
        "object_id": _TEXT,
        "org_id": _TEXT,
        "outcome": _TEXT,
        "reason": _TEXT,
        "count": _INT,
    },
)
FOLDED = Layout(
    "folded",
    {
        "id": _UUID,
        "folded_seq": _INT,
        "state": _TEXT,
        "attempt": _INT,
        "started_at": _TIME,
        "finished_at": _TIME,
        "worker_id": _TEXT,
        "exit_code": _INT,
        "reason": _TEXT,
        "fields": _TEXT,
    },
)

_FOLDED_FIELDS = (
    "state",
    "attempt",
    "started_at",
    "finished_at",
    "worker_id",
    "exit_code",
    "peak_memory_mb",
    "cpu_secs",
    "error",
    "output",
    "result",
    "variables",
    "artifacts",
    "progress",
    "reason",
    "failures",
    "losses",
    "not_before",
    "cancel_requested_at",
    "canceled_by",
    "event_seq",
)


def micros(when: dt.datetime | None) -> int | None:
    """Return `when` as whole microseconds since the epoch."""
    return None if when is None else round(when.timestamp() * 1e6)


def job_row(
    job: Job,
    event_seq: int,
    payload_hash: str | None = None,
    spec: bytes | None = None,
    lane: str | None = None,
    rank: int | None = None,
) -> tuple[Any, ...]:
    """Return the row of a submit, in the order of `JOBS`; `spec` is the encoded spec, if it is at hand."""
    text = spec or encode(job.spec)
    return (
        job.id,
        event_seq,
        job.org_id,
        job.owner,
        job.spec.title,
        round(job.created_at.timestamp() * 1e6),
        text.decode(),
        lane,
        rank,
        extra_bytes_of_spec(text) or None,
        job.spec.idempotency_key,
        payload_hash,
        job.retry_of,
        job.spec.cache_key,
        encode(job.spec.tags).decode() if job.spec.tags else None,
    )


def folded_row(job: Job) -> tuple[Any, ...]:
    """Return what the row of a job shows of its later life, in the order of `FOLDED`."""
    fields = {name: getattr(job, name) for name in _FOLDED_FIELDS}
    code = job.exit_code
    if code is not None and not -(2**31) <= code < 2**31:
        code = None  # written before such codes were refused; one row shall not keep all others from being folded
    return (
        job.id,
        job.event_seq,
        str(job.state),
        job.attempt,
        micros(job.started_at),
        micros(job.finished_at),
        job.worker_id,
        code,
        job.reason,
        encode({name: value for name, value in fields.items() if value is not None}).decode(),
    )
