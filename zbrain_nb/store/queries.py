"""Every question that is asked of the database; each function takes a reader's cursor and may block.

Times are read as microseconds since the epoch, so that no time zone of the machine plays a part.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import duckdb
import msgspec

from zbrain_nb.model.amounts import WIDE_BYTES
from zbrain_nb.model.events import LOG_PAGE_BYTES, LogEntry, LogStream
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.model.transitions import read_patch
from zbrain_nb.store.footprint import JOB_BYTES
from zbrain_nb.store.texts import bytes_of, fetch_whole, is_apart

Cursor = duckdb.DuckDBPyConnection

#: Kinds of transitions that change no field of the job.
WITHOUT_PATCH = ("job_displayed", "noted")
JOB_COLUMNS = (
    "id::VARCHAR, event_seq, org_id, owner, epoch_us(created_at), spec, retry_of::VARCHAR, fields, "
    "coalesce(folded_seq, event_seq)"
)
#: How long the texts are that are read of a job.
JOB_BYTES_READ = f"{bytes_of('spec')} + coalesce({bytes_of('fields')}, 0)"
#: Places in `JOB_COLUMNS` of the texts that may be long.
LONG_COLUMNS = (5, 7)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_decode_spec = msgspec.json.Decoder(JobSpec).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def make_job(row: tuple[Any, ...]) -> Job:
    """Return the job of a row of `JOB_COLUMNS`, as it was last folded."""
    job_id, event_seq, org_id, owner, created, spec, retry_of, fields, _ = row
    job = Job(
        _decode_spec(spec),
        id=job_id,
        owner=owner,
        org_id=org_id,
        created_at=_EPOCH + dt.timedelta(microseconds=created),
        retry_of=retry_of,
        event_seq=event_seq,
    )
    return msgspec.structs.replace(job, **read_patch(_decode(fields))) if fields else job


def job_rows(cursor: Cursor, where: str, values: list[Any], more: str = "") -> list[tuple[Any, ...]]:
    """Return the rows of `JOB_COLUMNS`, and columns `more`, of the jobs for which a condition holds."""
    query = f"SELECT {JOB_COLUMNS}{more} FROM jobs WHERE {where}"
    return fetch_whole(cursor, "jobs", query, values, *LONG_COLUMNS)


def last_seq(cursor: Cursor) -> int:
    """Return the highest ``event_seq`` that is committed, 0 in a new database."""
    row = cursor.execute(
        "SELECT greatest((SELECT max(event_seq) FROM jobs), (SELECT max(event_seq) FROM transitions), "
        "(SELECT max(event_seq) FROM logs), (SELECT max(first_seq) - 1 FROM segments))"
    ).fetchone()
    return (row and row[0]) or 0


def jobs_by_id(cursor: Cursor, ids: Iterable[str]) -> dict[str, Job]:
    """Return those of the jobs that exist, as their events left them."""
    wanted = list(ids)
    rows = job_rows(cursor, "id IN (SELECT unnest(?::UUID[]))", [wanted])
    jobs = {row[0]: make_job(row) for row in rows}
    moving = {row[0]: row[8] for row in rows if not jobs[row[0]].state.ended}  # nothing follows an end
    if moving:
        patches = fetch_whole(
            cursor,
            "transitions",
            "SELECT job_id::VARCHAR, event_seq, data FROM transitions WHERE job_id IN (SELECT unnest(?::UUID[])) "
            "AND event_seq > ? AND kind NOT IN (SELECT unnest(?)) ORDER BY event_seq",
            [list(moving), min(moving.values()), list(WITHOUT_PATCH)],
            2,
        )
        apply_patches(jobs, patches)
    return jobs


def apply_patches(jobs: dict[str, Job], patches: list[tuple[Any, ...]]) -> None:
    """Replace each job by what its patches, ``(job id, event_seq, data)`` in order, make of it."""
    for job_id, event_seq, data in patches:
        job = jobs.get(job_id)
        if job is not None and event_seq > job.event_seq:
            jobs[job_id] = msgspec.structs.replace(job, **read_patch(_decode(data)))


def positions(cursor: Cursor, ids: Iterable[str]) -> tuple[dict[str, dict[int, int]], dict[str, int]]:
    """Return how far each job's workers and its log have come.

    Returns
    -------
    dict
        By job and attempt, the highest ``worker_seq`` that is committed.
    dict
        By job, the next ``log_seq``; jobs without a log are absent.
    """
    wanted = list(ids)
    highs: dict[str, dict[int, int]] = defaultdict(dict)
    logs: dict[str, int] = {}
    if not wanted:
        return highs, logs
    for job_id, attempt, high in cursor.execute(
        "SELECT job_id::VARCHAR, attempt, max(worker_seq) FROM ("
        "SELECT job_id, attempt, worker_seq FROM transitions WHERE job_id IN (SELECT unnest($1::UUID[])) UNION ALL "
        "SELECT job_id, attempt, worker_seq FROM logs WHERE job_id IN (SELECT unnest($1::UUID[]))) "
        "WHERE worker_seq IS NOT NULL GROUP BY ALL",
        [wanted],
    ).fetchall():
        highs[job_id][attempt] = high
    for job_id, last in cursor.execute(
        "SELECT job_id::VARCHAR, max(log_seq) FROM logs WHERE job_id IN (SELECT unnest(?::UUID[])) GROUP BY job_id",
        [wanted],
    ).fetchall():
        logs[job_id] = last + 1
    return highs, logs


def in_orgs(orgs: Collection[str], column: str = "org_id") -> str:
    """Return the condition that a row is of one of these orgs, which are its values."""
    return f"{column} IN ({', '.join('?' * len(orgs))})" if orgs else "false"


def list_jobs(
    cursor: Cursor,
    *,
    orgs: Collection[str] | None,
    state: str | None,
    owner: str | None,
    name: str | None,
    search: str | None,
    before: str | None,
    after: int | None,
    tag: tuple[str, str] | None,
    limit: int,
    most_bytes: int | None = None,
) -> tuple[list[Job], bool]:
    """Return jobs as they were last folded, newest first, and whether their size ended the page; None lets all pass.

    Parameters
    ----------
    search : str or None
        A part of the name, in either case, or the head of the id.
    before : str or None
        Only jobs with a smaller id.
    after : int or None
        Only jobs whose submit is an event behind this one.
    tag : tuple of str or None
        A tag and its value. Others that bear the same words in another tag may be returned too.
    most_bytes : int or None
        The page ends with the job that brings what is kept of its jobs to so much.
    """
    where, values = ["true"], list[Any]()
    for clause, value in (
        ("state = ?", state),
        ("owner = ?", owner),
        ("name = ?", name),
        ("id < ?::UUID", before),
        ("event_seq > ?", after),
    ):
        if value is not None:
            where.append(clause)
            values.append(value)
    if orgs is not None:
        where.append(in_orgs(orgs))
        values += orgs
    if search is not None:
        where.append("(contains(lower(name), lower(?)) OR starts_with(id::VARCHAR, lower(?)))")
        values += [search, search]
    if tag is not None:
        where.append("contains(tags, ?)")  # as text: what is found is decoded once, what is not never
        values.append(f"{_encode(tag[0]).decode()}:{_encode(tag[1]).decode()}")
    # what is sorted is held in memory, with all that is selected: so ids alone are
    ids = cursor.execute(
        f"SELECT id::VARCHAR FROM jobs WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?", [*values, limit]
    ).fetchall()
    found = [job_id for (job_id,) in ids]
    kept = found if most_bytes is None else _within(cursor, found, most_bytes)
    rows = _rows_of(cursor, kept)
    return [make_job(row) for row in sorted(rows, key=lambda row: row[0], reverse=True)], len(kept) < len(found)


def ids_in_orgs(cursor: Cursor, ids: Iterable[str], orgs: Collection[str]) -> list[str]:
    """Return those of the ids that are of jobs of these orgs."""
    rows = cursor.execute(
        f"SELECT id::VARCHAR FROM jobs WHERE {in_orgs(orgs)} AND id IN (SELECT unnest(?::UUID[]))", [*orgs, list(ids)]
    ).fetchall()
    return [job_id for (job_id,) in rows]


def memory_bytes(cursor: Cursor, ids: Iterable[str], orgs: Collection[str] | None) -> int:
    """Return about how much memory these jobs take once they are read, those of these orgs (None is any)."""
    mine, values = ("true", []) if orgs is None else (in_orgs(orgs), list(orgs))
    is_narrow = f"NOT {is_apart('fields')} AND strlen(fields) = length(fields)"
    left = f"coalesce({bytes_of('fields')} * if({is_narrow}, 1, {WIDE_BYTES}), 0)"
    each = f"{JOB_BYTES} + coalesce(extra_bytes, 0) + {left}"
    row = cursor.execute(
        f"SELECT sum({each})::BIGINT FROM jobs WHERE {mine} AND id IN (SELECT unnest(?::UUID[]))",
        [*values, list(ids)],
    ).fetchone()
    return (row and row[0]) or 0


def _within(cursor: Cursor, ids: list[str], most_bytes: int) -> list[str]:
    """Return the first of the ids, sorted from the newest, whose jobs are so large together."""
    if not ids:
        return []
    sizes = cursor.execute(
        f"SELECT id::VARCHAR, {JOB_BYTES_READ} FROM jobs "
        "WHERE id BETWEEN ?::UUID AND ?::UUID AND id IN (SELECT unnest(?::UUID[]))",
        [ids[-1], ids[0], ids],
    ).fetchall()
    total = 0
    for number, (_, size) in enumerate(sorted(sizes, reverse=True)):
        total += size
        if total >= most_bytes:
            return ids[: number + 1]
    return ids


def _rows_of(cursor: Cursor, ids: list[str]) -> list[tuple[Any, ...]]:
    """Return rows by id, of ids that are sorted; together, or in parts if they are too large for that."""
    if not ids:
        return []
    try:
        where = "id BETWEEN ?::UUID AND ?::UUID AND id IN (SELECT unnest(?::UUID[]))"
        return job_rows(cursor, where, [ids[-1], ids[0], ids])
    except duckdb.OutOfMemoryException:
        if len(ids) == 1:
            raise
    middle = len(ids) // 2
    return _rows_of(cursor, ids[:middle]) + _rows_of(cursor, ids[middle:])


def keyed_jobs(cursor: Cursor, owner: str, keys: Iterable[str], since: float = 0.0) -> dict[str, tuple[str, str]]:
    """Return the id and the payload's hash of the owner's jobs with these idempotency keys, by key.

    Of jobs made before `since`, seconds since the epoch, the keys do not count any more; of several jobs under one
    key the last holds it.
    """
    rows = cursor.execute(
        "SELECT idempotency_key, id::VARCHAR, payload_hash FROM jobs "
        "WHERE idempotency_key IN (SELECT unnest(?)) AND owner = ? AND created_at >= make_timestamp(?) "
        "ORDER BY event_seq",
        [list(keys), owner, round(since * 1e6)],
    ).fetchall()
    return {key: (job_id, payload) for key, job_id, payload in rows}


def jobs_of_cache_key(cursor: Cursor, owner: str, cache_key: str, from_seq: int, limit: int) -> list[Job]:
    """Return the owner's jobs under a cache key that may have succeeded, as they were last folded, newest first.

    Only those that were submitted from `from_seq` on.
    """
    ids = cursor.execute(
        "SELECT id::VARCHAR FROM jobs WHERE cache_key = ? AND owner = ? AND event_seq >= ? "
        "AND state NOT IN ('failed', 'canceled') ORDER BY id DESC LIMIT ?",
        [cache_key, owner, from_seq, limit],
    ).fetchall()
    rows = _rows_of(cursor, [job_id for (job_id,) in ids])
    return [make_job(row) for row in sorted(rows, key=lambda row: row[0], reverse=True)]


def log_entries(cursor: Cursor, job_id: str, from_seq: int, limit: int, stream: str | None) -> list[LogEntry]:
    """Return lines of the job's log from `from_seq` on (inclusive), in order: a page (see `LOG_PAGE_BYTES`)."""
    where = f"job_id = ?::UUID AND log_seq >= ? {'AND stream = ?' if stream else ''}"
    values = [job_id, from_seq, *([stream] if stream else [])]
    # what is sorted is held in memory, however long the lines: so their lengths say first where the page ends
    sizes = cursor.execute(
        f"SELECT log_seq, {bytes_of('line')} FROM logs WHERE {where} ORDER BY log_seq LIMIT ?", [*values, limit]
    ).fetchall()
    rows = fetch_whole(
        cursor,
        "logs",
        f"SELECT log_seq, attempt, stream, epoch_us(ts), line FROM logs WHERE {where} AND log_seq <= ? "
        "ORDER BY log_seq",
        [*values, page_end(sizes)],
        4,
    )
    return [LogEntry(seq, attempt, LogStream(name), ts / 1e6, line) for seq, attempt, name, ts, line in rows]


def page_end(sizes: Iterable[tuple[int, int]]) -> int:
    """Return the number at which `LOG_PAGE_BYTES` are reached, else the last one; given are numbers and sizes."""
    end, total = -1, 0
    for number, size in sizes:
        end, total = number, total + size
        if total >= LOG_PAGE_BYTES:
            break
    return end


def displays(cursor: Cursor, job_id: str, attempt: int, upto: int) -> list[dict[str, Any]]:
    """Return the rich outputs of one attempt as they came, in order, up to the event `upto`."""
    rows = fetch_whole(
        cursor,
        "transitions",
        "SELECT data FROM transitions WHERE job_id = ?::UUID AND kind = 'job_displayed' AND attempt = ? "
        "AND event_seq <= ? ORDER BY event_seq",
        [job_id, attempt, upto],
        0,
    )
    return [output for (data,) in rows for output in _decode(data)["outputs"]]


def workers(cursor: Cursor) -> list[str]:
    """Return what is kept of each worker, as JSON."""
    return [info for (info,) in cursor.execute("SELECT info FROM workers ORDER BY id").fetchall()]


def owners_without_token(cursor: Cursor, tag: str) -> list[str]:
    """Return whose jobs do not have the tag that names a token, those of the last job first; nobody given a token."""
    found = cursor.execute(
        "SELECT owner FROM jobs WHERE NOT contains(coalesce(tags, ''), ?) "
        "AND owner NOT IN (SELECT owner FROM tokens WHERE owner <> created_by) "
        "GROUP BY owner ORDER BY max(event_seq) DESC",
        [f'"{tag}":'],
    )
    return [owner for (owner,) in found.fetchall()]


def has_own_orgs(cursor: Cursor) -> bool:
    """Whether there are jobs in people's own orgs, whose names begin with ``~``: they had logged in."""
    return cursor.execute("SELECT 1 FROM jobs WHERE starts_with(org_id, '~') LIMIT 1").fetchone() is not None
