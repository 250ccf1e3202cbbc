"""The history as Arrow: the columns of `zbrain_nb.model.history` as SQL, read page by page.

A page is a range of keys that holds a bounded number of rows and bytes. Each is read by short statements of its own,
so that no transaction lasts while a slow reader takes what was read, and memory is that of one page. Keys never
change, not even when rows are carried from a segment that is dropped: each row stands on exactly one page. Keys are
``event_seq``, and of attempts, which are made of several events, the time in the job's id. Newest pages come first.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any

import duckdb
import msgspec
from arro3.core import Array, DataType, Table
from arro3.io import write_ipc_stream

from zbrain_nb.model.history import END_OF_STREAM, MARK, TABLES, HistoryQuery, Mark
from zbrain_nb.store.queries import in_orgs
from zbrain_nb.store.texts import bytes_of, is_apart, one_view, texts

Cursor = duckdb.DuckDBPyConnection

MAX_ROWS = 16_384
MAX_BYTES = 4 * 1024 * 1024
#: How many keys the first page spans.
FIRST_SPAN = 16_384

_ENDINGS = "'job_completed', 'job_failed', 'job_canceled', 'job_retrying'"
#: What is read of the JSON in each column, in one go: every function that parses it again would do so in memory of its
#: own, for two thousand rows at once.
_SHAPES = {
    "spec": """{"cmd": ["VARCHAR"], "code": "VARCHAR", "cwd": "VARCHAR", "worker": "VARCHAR", "kernel": "VARCHAR",
        "priority": "BIGINT", "timeout_secs": "DOUBLE", "max_retries": "INTEGER", "env": "MAP(VARCHAR, VARCHAR)",
        "tags": "MAP(VARCHAR, VARCHAR)", "resources": {"cpus": "DOUBLE", "memory_mb": "BIGINT", "gpus": "INTEGER"}}""",
    "fields": """{"peak_memory_mb": "DOUBLE", "cpu_secs": "DOUBLE", "failures": "INTEGER",
        "losses": "INTEGER", "progress": {"fraction": "DOUBLE"},
        "artifacts": [{"size": "BIGINT"}], "error": {"ename": "VARCHAR", "evalue": "VARCHAR"},
        "canceled_by": "VARCHAR", "cancel_requested_at": "VARCHAR"}""",
    "data": """{"worker_id": "VARCHAR", "state": "VARCHAR", "reason": "VARCHAR", "exit_code": "INTEGER",
        "peak_memory_mb": "DOUBLE", "cpu_secs": "DOUBLE", "failures": "INTEGER", "losses": "INTEGER",
        "progress": {"fraction": "DOUBLE"}, "error": {"ename": "VARCHAR"}}""",
}
_OF_SPEC = {
    **{name: f"spec.{name}" for name in ("cmd", "code", "cwd", "worker", "kernel", "priority")},
    **{name: f"spec.{name}" for name in ("timeout_secs", "max_retries")},
    **{name: f"spec.resources.{name}" for name in ("cpus", "memory_mb", "gpus")},
    "kind": "CASE WHEN spec.cmd IS NOT NULL THEN 'cmd' WHEN spec.code IS NOT NULL THEN 'code' ELSE 'function' END",
    "env": "map_keys(spec.env)",
    "tags": "map_from_entries(list_filter(map_entries(spec.tags), lambda tag: NOT starts_with(tag.key, 'zbrain.')))",
}
_OF_FIELDS = {
    **{name: f"fields.{name}" for name in ("peak_memory_mb", "cpu_secs")},
    "failures": "coalesce(fields.failures, 0)",
    "losses": "coalesce(fields.losses, 0)",
    "progress": "fields.progress.fraction",
    "artifacts": "coalesce(len(fields.artifacts), 0)",
    "artifact_bytes": "coalesce(list_sum(list_transform(fields.artifacts, lambda one: one.size)), 0)",
    "error_name": "fields.error.ename",
    "error_text": "fields.error.evalue",
    "cancel_requested_at": "fields.cancel_requested_at",
    "canceled_by": "fields.canceled_by",
}
_OF_EVENT = {
    **{name: f"data.{name}" for name in ("worker_id", "state", "reason", "exit_code")},
    "progress": "data.progress.fraction",
}
_OF_ENDING = {
    **{name: f"data.{name}" for name in ("exit_code", "peak_memory_mb", "cpu_secs", "reason")},
    "error_name": "data.error.ename",
    "outcome": """CASE WHEN ending IS NULL THEN 'running' WHEN data.losses IS NOT NULL THEN 'lost'
        WHEN ending = 'job_completed' THEN 'succeeded' WHEN ending = 'job_canceled' THEN 'canceled'
        WHEN ending = 'job_failed' OR data.failures IS NOT NULL THEN 'failed' ELSE 'returned' END""",
}


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """How a table of the history is read.

    Attributes
    ----------
    kinds : tuple of str
        The kinds of segments that it is made of.
    rows : str
        A query whose rows are narrowed by ``{where}`` and ``{since}``.
    weighed : str
        A query of the same narrowing whose rows are counted, and their long columns measured; empty is `rows`.
    changed, time, job : str
        What the filters `after`, `since` and `job_id` are compared with.
    order : str
        Newest first.
    bulk : dict of str to dict
        Columns of `rows` that may be long, and how columns of the history are made of them (see `_SHAPES`); all
        others stand in `rows` by their own name.
    pages_by_id : bool
        Whether pages are ranges of job ids, not of ``event_seq``.
    """

    kinds: tuple[str, ...]
    rows: str
    weighed: str = ""
    changed: str = "event_seq"
    time: str = "ts"
    job: str = "job_id"
    order: str
    bulk: dict[str, dict[str, str]]
    pages_by_id: bool = False


_SOURCES = {
    "jobs": _Source(
        kinds=("jobs",),
        rows="SELECT * REPLACE (coalesce(folded_seq, event_seq) AS event_seq) FROM jobs WHERE {where} AND {since}",
        changed="coalesce(folded_seq, event_seq)",
        time="created_at",
        job="id",
        order="id DESC",
        bulk={"spec": _OF_SPEC, "fields": _OF_FIELDS},
    ),
    # The first event that ends an attempt is its end: what is canceled while it waits to be tried again had ended.
    "attempts": _Source(
        kinds=("transitions",),
        rows=f"""SELECT * FROM (SELECT job_id, attempt, org_id, max(event_seq) AS event_seq,
            max(data->>'$.worker_id') FILTER (kind = 'job_leased') AS worker_id,
            min(ts) FILTER (kind = 'job_leased') AS leased_at, min(ts) FILTER (kind = 'job_started') AS started_at,
            arg_min(ts, event_seq) FILTER (kind IN ({_ENDINGS})) AS ended_at,
            arg_min(kind, event_seq) FILTER (kind IN ({_ENDINGS})) AS ending,
            arg_min(data, event_seq) FILTER (kind IN ({_ENDINGS})) AS data
            FROM transitions WHERE attempt > 0 AND kind IN ('job_leased', 'job_started', {_ENDINGS}) AND {{where}}
            GROUP BY job_id, attempt, org_id) WHERE {{since}}""",
        weighed=f"SELECT data FROM transitions WHERE attempt > 0 AND kind IN ('job_leased', {_ENDINGS}) AND {{where}}",
        time="leased_at",
        order="job_id DESC, attempt DESC",
        bulk={"data": _OF_ENDING},
        pages_by_id=True,
    ),
    "events": _Source(
        kinds=("jobs", "transitions"),
        rows="""SELECT * FROM (
            SELECT event_seq, ts, kind, job_id, attempt, org_id, CASE WHEN kind <> 'job_displayed' THEN data END AS data
            FROM transitions WHERE kind <> 'noted' UNION ALL
            SELECT event_seq, created_at, 'job_submitted', id, 0, org_id, '{{"state":"pending"}}' FROM jobs
            ) WHERE {where} AND {since}""",
        order="event_seq DESC",
        bulk={"data": _OF_EVENT},
    ),
    "logs": _Source(
        kinds=("logs",),
        rows="SELECT * FROM logs WHERE {where} AND {since}",
        order="event_seq DESC, log_seq DESC",
        bulk={"line": {"line": "line"}},
    ),
}


class HistoryPages:
    """Reads the rows that a query wants; each method takes a reader's cursor and may block.

    Parameters
    ----------
    wanted : HistoryQuery
        Which.
    upto : int
        The last ``event_seq`` that is known to be committed with all before it, and folded.
    token : str
        Names the queue; while it lives and drops nothing, what was read once is known.
    orgs : collection of str or None
        Only rows of these orgs (in place of the one that `wanted` may name); None is all.
    """

    def __init__(self, wanted: HistoryQuery, upto: int, token: str, orgs: Collection[str] | None) -> None:
        self._wanted = wanted
        self._upto = upto
        self._token = token
        self._orgs = orgs
        self._source = _SOURCES[wanted.table]
        self._since = "true"
        if wanted.since is not None:
            self._since = f"{self._source.time} >= make_timestamp({round(wanted.since.timestamp() * 1e6):d})"
        self._left = wanted.limit
        self._span = FIRST_SPAN

    def begin(self, cursor: Cursor) -> bytes:
        """Return the head of the stream: its schema, with a `Mark`."""
        epoch = self._epoch(cursor)
        after = self._wanted.after if self._wanted.epoch in (None, epoch) else None
        self._filter, self._values = self._filters(after)
        self._bottom, self._top = self._bounds(cursor, after)
        none = self._rows(cursor, "false", "LIMIT 0")
        mark = msgspec.json.encode(Mark(self._upto, epoch))
        self._schema = none.schema.with_metadata({MARK: mark})  # one entry: of several, each page had its own order
        self._head = self._encode(none)
        return self._head

    def next(self, cursor: Cursor) -> bytes | None:
        """Return the next page's part of the stream, or None behind the last."""
        while self._top > self._bottom and self._left != 0:
            low = max(self._bottom, self._top - self._span)
            page = self._page(low, self._top)
            with one_view(cursor):
                rows, size, has_references = self._weigh(cursor, page)
                is_too_much = (rows > MAX_ROWS or size > MAX_BYTES) and self._top - low > 1
                taken = self._take(cursor, page, has_references) if rows and not is_too_much else None
            if is_too_much:
                self._span = (self._top - low) // 2
                continue
            self._top = low
            if rows < MAX_ROWS // 4 and size < MAX_BYTES // 4:
                self._span *= 2
            if taken is not None:
                return self._encode(taken).removeprefix(self._head)
        return None

    def _epoch(self, cursor: Cursor) -> str:
        """Return what changes with each segment that is dropped, were it not the oldest, and not with a new one."""
        found = cursor.execute(
            "SELECT max(number) - count(*) FROM segments WHERE kind IN (SELECT unnest(?)) GROUP BY kind ORDER BY kind",
            [list(self._source.kinds)],
        ).fetchall()
        return ".".join([self._token, *(str(number) for (number,) in found)])

    def _filters(self, after: int | None) -> tuple[str, list[str]]:
        """Return the condition on all rows, and its values."""
        wanted, source = self._wanted, self._source
        parts, values = ["true"], []
        if wanted.job_id is not None:
            parts.append(f"{source.job} = ?::UUID")
            values.append(wanted.job_id)
        if self._orgs is not None:
            mine = in_orgs(self._orgs)
            parts.append(f"job_id IN (SELECT id FROM jobs WHERE {mine})" if wanted.table == "logs" else mine)
            values += self._orgs
        if after is not None and source.pages_by_id:
            parts.append(f"job_id IN (SELECT job_id FROM transitions WHERE event_seq > {after:d})")
        elif after is not None:
            parts.append(f"{source.changed} > {after:d}")
        if source.pages_by_id and wanted.since is not None:  # no event of an attempt is older than its lease
            parts.append(f"ts >= make_timestamp({round(wanted.since.timestamp() * 1e6):d})")
        return " AND ".join(parts), values

    def _bounds(self, cursor: Cursor, after: int | None) -> tuple[int, int]:
        """Return the least key, and the one behind the greatest."""
        if not self._source.pages_by_id:
            return after + 1 if after is not None and TABLES[self._wanted.table].grows_only else 0, self._upto + 1
        (low, high) = _row(
            cursor,
            f"SELECT min(job_id)::VARCHAR, max(job_id)::VARCHAR FROM transitions WHERE {self._filter}",
            self._values,
        )
        return (0, 0) if low is None else (_millis(low), _millis(high) + 1)

    def _page(self, low: int, high: int) -> str:
        if self._source.pages_by_id:
            span = f"job_id >= '{_first_id(low)}'::UUID AND job_id < '{_first_id(high)}'::UUID"
        else:
            span = f"event_seq >= {low:d} AND event_seq < {high:d}"
        return f"{span} AND {self._filter}"

    def _weigh(self, cursor: Cursor, page: str) -> tuple[int, int, bool]:
        """Return how many rows a page has, how long their wanted texts are, and whether any of these lies apart."""
        rows = (self._source.weighed or self._source.rows).format(where=page, since=self._since)
        (count,) = _row(cursor, f"SELECT count(*) FROM ({rows})", self._values)
        if not self._bulk or not 0 < count <= MAX_ROWS:
            return count, 0, False
        lengths = " + ".join(f"coalesce(sum({bytes_of(column)}), 0)" for column in self._bulk)
        apart = " OR ".join(f"coalesce(bool_or({is_apart(column)}), false)" for column in self._bulk)
        size, has_references = _row(cursor, f"SELECT {lengths}, {apart} FROM ({rows})", self._values)
        return count, int(size), has_references

    def _take(self, cursor: Cursor, page: str, has_references: bool) -> Table:
        tail = "" if self._left is None else f"LIMIT {self._left:d}"
        table = self._rows(cursor, page, tail, self._texts(cursor, page) if has_references else None)
        if self._left is not None:
            self._left -= table.num_rows
        return table

    def _texts(self, cursor: Cursor, page: str) -> dict[str, str]:
        """Return the texts of a page that lie apart, by what refers to them."""
        rows = self._source.rows.format(where=page, since=self._since)
        found: set[str] = set()
        for column in self._bulk:
            query = f"SELECT {column} FROM ({rows}) WHERE {is_apart(column)}"
            found.update(reference for (reference,) in cursor.execute(query, self._values).fetchall())
        return texts(cursor, self._source.kinds[-1], found)

    @property
    def _bulk(self) -> list[str]:
        """The long columns of which something is wanted."""
        wanted = set(self._wanted.columns)
        return [column for column, made in self._source.bulk.items() if not wanted.isdisjoint(made)]

    def _rows(self, cursor: Cursor, where: str, tail: str, apart: Mapping[str, str] | None = None) -> Table:
        types = TABLES[self._wanted.table].columns
        made = {name: how for columns in self._source.bulk.values() for name, how in columns.items()}
        chosen = ", ".join(f"({made.get(name, name)})::{types[name].type} AS {name}" for name in self._wanted.columns)
        read = [
            f"from_json({column}, '{_SHAPES[column]}') AS {column}" for column in self._source.bulk if column in _SHAPES
        ]
        rows = self._source.rows.format(where=where, since=self._since)
        texts_apart = None
        if apart:
            columns = [Array(list(some), DataType.string()) for some in (apart.keys(), apart.values())]
            texts_apart = Table.from_arrays(columns, names=["reference", "text"])  # DuckDB finds it by its name
            put = [
                f"coalesce((SELECT text FROM texts_apart WHERE reference = {name}), {name}) AS {name}"
                for name in self._bulk
            ]
            rows = f"SELECT * REPLACE ({', '.join(put)}) FROM ({rows})"
        rows = f"SELECT * REPLACE ({', '.join(read)}) FROM ({rows})" if read else rows
        values = self._values if where != "false" else []
        query = f"SELECT {chosen} FROM ({rows}) ORDER BY {self._source.order} {tail}"
        table = Table.from_arrow(cursor.sql(query, params=values))
        del texts_apart
        return table

    def _encode(self, table: Table) -> bytes:
        """Return a table as an Arrow IPC stream, without what ends it."""
        buffer = io.BytesIO()
        write_ipc_stream(table.with_schema(self._schema), buffer, compression=None)
        return buffer.getvalue().removesuffix(END_OF_STREAM)


def _row(cursor: Cursor, query: str, values: list[str]) -> tuple[Any, ...]:
    """Return the one row of an aggregate."""
    (row,) = cursor.execute(query, values).fetchall()  # `fetchone` would leave the result, and its transaction, open
    return row


def _first_id(millis: int) -> str:
    """Return the least UUID that bears this time."""
    text = f"{millis:012x}"
    return f"{text[:8]}-{text[8:]}-0000-0000-000000000000"


def _millis(job_id: str) -> int:
    """Return the time in an id (UUIDv7), in milliseconds since the epoch."""
    return int(job_id[:8] + job_id[9:13], 16)
