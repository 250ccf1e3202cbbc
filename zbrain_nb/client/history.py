"""`History`: SQL over the history, run in the caller's own process, in a DuckDB of its own.

What a query names is fetched as Arrow and kept; the next query fetches only what was added or changed since. Beside
the store this module alone imports duckdb: nobody's SQL runs in the server.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import duckdb
import msgspec
from arro3.core import RecordBatchReader
from arro3.io import read_ipc_stream

from zbrain_nb.client.naming import Params, job_wanted, tables_named
from zbrain_nb.client.spooling import Spool
from zbrain_nb.model.errors import QueryError
from zbrain_nb.model.history import MARK, TABLES, HistoryQuery, Mark

#: Fetches the stream of a query, whole, as a file that is read from its beginning.
Fetch = Callable[[HistoryQuery], Spool]
Since = dt.datetime | dt.timedelta | None

_CONFIG: dict[str, str | bool | int | float | list[str]] = {"python_enable_replacements": "false"}


_EXPLAIN = "EXPLAIN "
#: All times are in UTC: DuckDB's own functions would give the time of the machine's zone.
_CLOCK = """
CREATE MACRO now() AS make_timestamp(epoch_us(transaction_timestamp()));
CREATE MACRO get_current_timestamp() AS now();
CREATE MACRO today() AS now()::DATE;
CREATE MACRO current_date() AS now()::DATE;
"""


class _Kept(msgspec.Struct):
    """What is here of a table: columns, from which time on, and how far it reaches."""

    columns: tuple[str, ...]
    since: dt.datetime | None
    mark: Mark

    def holds(self, columns: tuple[str, ...], since: dt.datetime | None) -> bool:
        """Whether these columns are here, of all rows since then."""
        return set(columns) <= set(self.columns) and (self.since is None or (since is not None and since >= self.since))


class History:
    """The caller's copy of the history, as far as he asked for it.

    Parameters
    ----------
    fetch : callable
        Asks the server.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._shape = duckdb.connect(":memory:", config=_CONFIG)
        self._shape.execute(
            _CLOCK + "".join(_create(name, name, tuple(table.columns)) for name, table in TABLES.items())
        )
        self._data = duckdb.connect(":memory:", config=_CONFIG)
        self._data.execute(f"{_CLOCK} CREATE SCHEMA kept; CREATE SCHEMA fetched")

    def sql(self, query: str, params: Params = None, since: Since = None) -> Any:
        """Answer a query (see `Client.sql`)."""
        with self._lock:
            tree, describes = self._parse(query, params)
            if describes:
                return _answer(self._shape, query, params)
            start = _start(since)
            job_id = job_wanted(tree, params)
            for name, columns in tables_named(tree, query).items():
                self._provide(name, columns, start, job_id if name == "logs" else None)
            return _answer(self._data, query, params)

    def _parse(self, query: str, params: Params) -> tuple[dict[str, Any], bool]:
        """Return the query's tree, and whether it asks for the shape of tables alone.

        It is bound to tables of the same shape without rows, so that an error is found before anything is fetched.
        """
        try:
            statements = self._shape.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError("One query is answered at a time, a SELECT.", f"The tables are {', '.join(TABLES)}.")
            ((text,),) = self._shape.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
            self._shape.execute(f"{_EXPLAIN}{query}", params).fetchall()
        except duckdb.Error as error:
            raise _query_error(error) from error
        tree: dict[str, Any] = msgspec.json.decode(text)
        if tree["error"]:
            raise QueryError(f"DuckDB cannot take it apart: {tree['error_message']}.", "Say it in a simpler way.")
        source = tree["statements"][0]["node"].get("from_table") or {}
        return tree, source.get("type") == "SHOW_REF" and source.get("show_type") != "SUMMARY"

    def _provide(self, name: str, columns: tuple[str, ...], since: dt.datetime | None, job_id: str | None) -> None:
        """Let the view `name` show these columns as they are now, of rows since `since`."""
        table = TABLES[name]
        columns = _joined(table.key, columns, (table.time,) if since else ())
        kept = self._kept.get(name)
        if kept is not None and kept.holds(columns, since):
            self._refresh(name, kept)
        elif job_id is not None:  # one job's log is soon fetched, and all logs may be long
            with self._fetch(HistoryQuery(table=name, columns=columns, since=since, job_id=job_id)) as file:
                self._fill(f"fetched.{name}", name, columns, _open(file)[0])
            self._show(name, f"fetched.{name}", since)
            return
        elif kept is None:
            self._keep(name, columns, since)
        else:
            from_then = min(since, kept.since) if since and kept.since else None
            self._keep(name, _joined(kept.columns, columns), from_then)
        self._show(name, f"kept.{name}", since)

    def _keep(self, name: str, columns: tuple[str, ...], since: dt.datetime | None) -> None:
        with self._fetch(HistoryQuery(table=name, columns=columns, since=since)) as file:
            rows, mark = _open(file)
            self._kept.pop(name, None)  # until it is whole
            self._fill(f"kept.{name}", name, columns, rows)
        self._kept[name] = _Kept(columns, since, mark)

    def _refresh(self, name: str, kept: _Kept) -> None:
        """Fetch what was added or changed; if what is here holds no more, that is all."""
        last = kept.mark
        query = HistoryQuery(table=name, columns=kept.columns, since=kept.since, after=last.upto, epoch=last.epoch)
        with self._fetch(query) as file:
            rows, mark = _open(file)
            self._kept.pop(name)
            if mark.epoch == last.epoch:
                self._merge(name, kept.columns, rows)
            else:
                self._fill(f"kept.{name}", name, kept.columns, rows)
        self._kept[name] = _Kept(kept.columns, kept.since, mark)

    def _fill(self, table: str, name: str, columns: tuple[str, ...], rows: RecordBatchReader) -> None:
        """Make `table` anew, of these rows."""
        self._data.execute(f"DROP TABLE IF EXISTS {table} CASCADE; {_create(table, name, columns)}")
        self._data.register("incoming", rows)
        self._data.execute(f"INSERT INTO {table} FROM incoming")
        self._data.unregister("incoming")

    def _merge(self, name: str, columns: tuple[str, ...], rows: RecordBatchReader) -> None:
        """Add rows to what is kept, in the place of those with the same key."""
        table = TABLES[name]
        self._fill("fetched.changes", name, columns, rows)
        same = " AND ".join(f"old.{column} = new.{column}" for column in table.key)
        self._data.execute("BEGIN")
        try:
            if not table.grows_only:
                self._data.execute(f"DELETE FROM kept.{name} AS old USING fetched.changes AS new WHERE {same}")
            self._data.execute(f"INSERT INTO kept.{name} FROM fetched.changes")
            self._data.execute("COMMIT")
        except BaseException:  # an interrupt too: else the next query would run in this transaction
            with contextlib.suppress(duckdb.TransactionException):  # a COMMIT that failed has ended it
                self._data.execute("ROLLBACK")
            raise

    def _show(self, name: str, table: str, since: dt.datetime | None) -> None:
        where = (
            "" if since is None else f"WHERE {TABLES[name].time} >= make_timestamp({round(since.timestamp() * 1e6)})"
        )
        self._data.execute(f"CREATE OR REPLACE VIEW {name} AS FROM {table} {where}")


def _start(since: Since) -> dt.datetime | None:
    """Return from when on rows are wanted."""
    if since is None:
        return None
    if isinstance(since, dt.timedelta):
        return dt.datetime.now(dt.UTC) - since
    if not isinstance(since, dt.datetime):
        raise TypeError(f"since must be a datetime or a timedelta, not {since!r:.40}.")
    return since.astimezone(dt.UTC) if since.tzinfo else since.replace(tzinfo=dt.UTC)


def _create(table: str, name: str, columns: tuple[str, ...]) -> str:
    shape = ", ".join(f"{column} {TABLES[name].columns[column].type}" for column in columns)
    return f"CREATE TABLE {table} ({shape});"


def _joined(*some: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in some for name in names))


def _open(file: Spool) -> tuple[RecordBatchReader, Mark]:
    rows = read_ipc_stream(file)
    return rows, msgspec.json.decode(rows.schema.metadata[MARK], type=Mark)


def _answer(connection: duckdb.DuckDBPyConnection, query: str, params: Params) -> Any:
    try:
        connection.execute(query, params)
        if importlib.util.find_spec("pandas") is not None:
            return connection.df()
        names = [column[0] for column in connection.description or []]
        return [dict(zip(names, row, strict=True)) for row in connection.fetchall()]
    except duckdb.Error as error:
        raise _query_error(error) from error


def _query_error(error: duckdb.Error) -> QueryError:
    said, start = str(error).strip().splitlines(), f"LINE 1: {_EXPLAIN}"
    for n, line in enumerate(said):
        if line.startswith(start):
            said[n] = line.replace(_EXPLAIN, "", 1)
            said[n + 1 :] = [mark[len(_EXPLAIN) :] for mark in said[n + 1 : n + 2]]
            break
    hint = f"The tables are {', '.join(TABLES)}; `describe jobs` shows the columns of one."
    return QueryError("\n".join([*said, ""]), hint)
