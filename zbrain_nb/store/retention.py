"""What retention and the collection of blobs ask of the database: who still needs a row, or a blob."""

from __future__ import annotations

from collections.abc import Iterable

import duckdb
import msgspec

from zbrain_nb.store.segments import CARRIED, MAX_CARRIED, Segment
from zbrain_nb.store.texts import batches, is_apart, texts, texts_of

_LIVE = "SELECT id FROM jobs WHERE state IN ('pending', 'running', 'retrying')"
_PARENTS = (
    "SELECT unnest(from_json(json_extract(spec, '$.after'), '[\"VARCHAR\"]'))::UUID FROM jobs "
    "WHERE state IN ('pending', 'running', 'retrying') AND contains(spec, '\"after\":[\"')"
)
_NAMES = "regexp_extract_all({column}, '[0-9a-f]{{64}}')"
#: Columns in which blobs are named, as JSON. Any 64 hexadecimal digits count: a blob too many is kept, none too few.
_NAMING = {"jobs": ("spec", "fields"), "transitions": ("data",)}


class _Dependent(msgspec.Struct):
    """What is read of a long spec."""

    after: list[str] = []


_decode = msgspec.json.Decoder(_Dependent).decode


def needed_jobs(cursor: duckdb.DuckDBPyConnection, segment: Segment, in_memory: Iterable[str]) -> list[str] | None:
    """Return the jobs of a segment whose rows have to be carried over when it is dropped.

    Those that have not ended, their parents, and those that the queue holds in memory. The table must have been
    folded.

    Parameters
    ----------
    in_memory : iterable of str
        Ids of jobs that live, whatever the table says.

    Returns
    -------
    list of str or None
        None if so many rows would have to be carried over that the segment had better stay.
    """
    if segment.kind == "audit":
        return []
    column = "id" if segment.kind == "jobs" else "job_id"
    parents, wanted = "", list(in_memory)
    if segment.kind == "jobs":
        parents = f"OR {column} IN ({_PARENTS})"
        wanted += _parents_in_long_specs(cursor)
    rows = cursor.execute(
        f"SELECT DISTINCT {column}::VARCHAR FROM {segment.table} WHERE {column} IN ({_LIVE}) "
        f"OR {column} IN (SELECT unnest(?::UUID[])) {parents} LIMIT {MAX_CARRIED + 1}",
        [wanted],
    ).fetchall()
    ids = [job_id for (job_id,) in rows]
    if len(ids) > MAX_CARRIED:
        return None
    if ids and segment.kind != "jobs":
        carried = CARRIED[segment.kind].format(table=segment.table)
        count = cursor.execute(f"SELECT count(*) FROM ({carried})", [ids]).fetchone()
        if count is None or count[0] > MAX_CARRIED:
            return None
    return ids


def _parents_in_long_specs(cursor: duckdb.DuckDBPyConnection) -> set[str]:
    """Return the parents of jobs that have not ended whose specs lie apart.

    Specs never change, and none goes while retention, which alone drops segments, asks: each statement may be short.
    """
    references = cursor.execute(
        f"SELECT spec FROM jobs WHERE id IN ({_LIVE}) AND {is_apart('spec')} ORDER BY event_seq"
    ).fetchall()
    return {
        parent
        for some in batches(reference for (reference,) in references)
        for text in texts(cursor, "jobs", some).values()
        for parent in _decode(text).after
    }


def blobs_named(cursor: duckdb.DuckDBPyConnection, segment: Segment, names: list[str]) -> set[str]:
    """Return those of the blobs that rows of the segment name."""
    found: set[str] = set()
    columns = _NAMING.get(segment.kind, ())
    places = [(segment.table, column) for column in columns]
    for table, column in [*places, (texts_of(segment.table), "text")] if columns else ():
        rows = cursor.execute(
            f"SELECT DISTINCT name FROM (SELECT unnest({_NAMES.format(column=column)}) AS name FROM {table}) "
            "WHERE name IN (SELECT unnest(?))",
            [names],
        ).fetchall()
        found |= {name for (name,) in rows}
    return found
