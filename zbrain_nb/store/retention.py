"""What retention and the collection of blobs ask of the database: who still needs a row, or a blob."""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from zbrain_nb.store.segments import CARRIED, MAX_CARRIED, Segment
from zbrain_nb.store.texts import SPEC, texts_of

_LIVE = "SELECT id FROM jobs WHERE state IN ('pending', 'running', 'retrying')"
_PARENTS = (
    "SELECT unnest(from_json(json_extract(spec, '$.after'), '[\"VARCHAR\"]'))::UUID FROM jobs "
    "WHERE state IN ('pending', 'running', 'retrying') AND contains(spec, '\"after\":[\"') "
    # of a long spec any id counts: a row too many is carried over, none too few
    "UNION SELECT unnest(regexp_extract_all(text, '[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}'))"
    f"::UUID FROM jobs_texts WHERE number = {SPEC} AND job_id IN ({_LIVE})"
)
_NAMES = "regexp_extract_all({column}, '[0-9a-f]{{64}}')"
#: Columns in which blobs are named, as JSON. Any 64 hexadecimal digits count: a blob too many is kept, none too few.
_NAMING = {"jobs": ("spec", "fields"), "transitions": ("data",)}


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
    parents = f"OR {column} IN ({_PARENTS})" if segment.kind == "jobs" else ""
    rows = cursor.execute(
        f"SELECT DISTINCT {column}::VARCHAR FROM {segment.table} WHERE {column} IN ({_LIVE}) "
        f"OR {column} IN (SELECT unnest(?::UUID[])) {parents} LIMIT {MAX_CARRIED + 1}",
        [list(in_memory)],
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
