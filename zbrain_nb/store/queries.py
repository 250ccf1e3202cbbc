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

from zbrain_nb.model.events import LOG_PAGE_BYTES, LogEntry, LogStream
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.model.transitions import read_patch

Cursor = duckdb.DuckDBPyConnection

#: Kinds of transitions that change no field of the job.
WITHOUT_PATCH = ("job_displayed", "noted")
JOB_COLUMNS = (
    "id::VARCHAR, event_seq, org_id, owner, epoch_us(created_at), spec, retry_of::VARCHAR, fields, "
    "coalesce(folded_seq, event_seq)"
)
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
    rows = cursor.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id IN (SELECT unnest(?::UUID[]))", [wanted]).fetchall()
    jobs = {row[0]: make_job(row) for row in rows}
    moving = {row[0]: row[8] for row in rows if not jobs[row[0]].state.ended}  # nothing follows an end
    if moving:
        patches = cursor.execute(
            "SELECT job_id::VARCHAR, event_seq, data FROM transitions WHERE job_id IN (SELECT unnest(?::UUID[])) "
            "AND event_seq > ? AND kind NOT IN (SELECT unnest(?)) ORDER BY event_seq",
            [list(moving), min(moving.values()), list(WITHOUT_PATCH)],
        ).fetchall()
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


def _within(cursor: Cursor, ids: list[str], most_bytes: int) -> list[str]:
    """Return the first of the ids, sorted from the newest, whose jobs are so large together."""
    if not ids:
        return []
    sizes = cursor.execute(
        "SELECT id::VARCHAR, strlen(spec) + coalesce(strlen(fields), 0) FROM jobs "
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
        return cursor.execute(
            f"SELECT {JOB_COLUMNS} FROM jobs WHERE id BETWEEN ?::UUID AND ?::UUID AND id IN (SELECT unnest(?::UUID[]))",
            [ids[-1], ids[0], ids],
        ).fetchall()
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
        f"SELECT log_seq, strlen(line) FROM logs WHERE {where} ORDER BY log_seq LIMIT ?", [*values, limit]
    ).fetchall()
    rows = cursor.execute(
        f"SELECT log_seq, attempt, stream, epoch_us(ts), line FROM logs WHERE {where} AND log_seq <= ? "
        "ORDER BY log_seq",
        [*values, page_end(sizes)],
    ).fetchall()
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
    rows = cursor.execute(
        "SELECT data FROM transitions WHERE job_id = ?::UUID AND kind = 'job_displayed' AND attempt = ? "
        "AND event_seq <= ? ORDER BY event_seq",
        [job_id, attempt, upto],
    ).fetchall()
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


class StoredEvent(msgspec.Struct, frozen=True):
    """An event read back; `job` is set for submits, `entries` for log lines, else `data` holds JSON."""

    seq: int
    kind: str
    job_id: str
    org_id: str
    attempt: int
    ts: float
    data: dict[str, Any] | None = None
    job: Job | None = None
    entries: list[LogEntry] = []


class EventQuery(msgspec.Struct, frozen=True):
    """Which events.

    Attributes
    ----------
    after, upto : int
        Those with ``after < seq <= upto``.
    limit : int
        About how many rows are read at once; of lines, about `LOG_PAGE_BYTES` too.
    job_ids, org_ids : list of str or None
        Events of these jobs (with log and outputs) and of these orgs (without); both None is everything.
    seen : collection of str or None
        Of all these only events of jobs of these orgs; None is any org.
    """

    after: int
    upto: int
    limit: int
    job_ids: list[str] | None = None
    org_ids: list[str] | None = None
    seen: Collection[str] | None = None


def events_between(cursor: Cursor, wanted: EventQuery) -> tuple[list[StoredEvent], int]:
    """Return events in order, and up to which number they are complete."""
    job_ids, org_ids, seen, limit = wanted.job_ids, wanted.org_ids, wanted.seen, wanted.limit
    whole, everything = wanted.upto, job_ids is None and org_ids is None
    named: dict[str, Any] = {"after": wanted.after, "upto": whole, "jobs": job_ids or [], "orgs": org_ids or []}
    match_jobs = match_moves = match_lines = ""
    if not everything:
        match_jobs = "AND (id IN (SELECT unnest($jobs::UUID[])) OR org_id IN (SELECT unnest($orgs)))"
        match_moves = (
            "AND (job_id IN (SELECT unnest($jobs::UUID[])) "
            "OR (kind <> 'job_displayed' AND org_id IN (SELECT unnest($orgs))))"
        )
        match_lines = "AND job_id IN (SELECT unnest($jobs::UUID[]))"
    if seen is not None:
        named["seen"] = list(seen)
        only_seen = "org_id IN (SELECT unnest($seen::VARCHAR[]))"
        match_jobs, match_moves = f"{match_jobs} AND {only_seen}", f"{match_moves} AND {only_seen}"
        of_these = "" if everything else "AND id IN (SELECT unnest($jobs::UUID[]))"
        match_lines = f"AND job_id IN (SELECT id FROM jobs WHERE {only_seen} {of_these})"
    span = "event_seq > $after AND event_seq <= $upto"
    tail = f"ORDER BY event_seq LIMIT {limit:d}"

    def ask(query: str) -> list[tuple[Any, ...]]:
        values = {name: value for name, value in named.items() if f"${name}" in query}
        return cursor.execute(query, values).fetchall()

    cursor.execute("BEGIN")
    try:
        # what is sorted is held in memory, with all that is selected: so numbers alone are
        jobs_wanted = f"FROM jobs WHERE {span} {match_jobs}"
        submits = ask(
            f"SELECT {JOB_COLUMNS} {jobs_wanted} AND event_seq <= "
            f"(SELECT max(event_seq) FROM (SELECT event_seq {jobs_wanted} {tail}))"
        )
        moves_wanted = f"FROM transitions WHERE {span} AND kind <> 'noted' {match_moves}"
        moves = ask(
            "SELECT event_seq, kind, job_id::VARCHAR, org_id, attempt, epoch_us(ts), data "
            f"{moves_wanted} AND event_seq <= (SELECT max(event_seq) FROM (SELECT event_seq {moves_wanted} {tail}))"
        )
        lines: list[tuple[Any, ...]] = []
        if everything or job_ids:
            page = f"FROM logs WHERE {span} {match_lines} ORDER BY event_seq, log_seq LIMIT {limit:d}"
            sizes = ask(f"SELECT event_seq, strlen(line) {page}")
            if sum(size for _, size in sizes) >= LOG_PAGE_BYTES:
                whole = named["upto"] = page_end(sizes)
            lines = ask(
                "SELECT l.event_seq, l.job_id::VARCHAR, j.org_id, l.attempt, epoch_us(l.ts), l.log_seq, l.stream, "
                f"l.line FROM (SELECT * {page}) l LEFT JOIN jobs j ON j.id = l.job_id "
                "ORDER BY l.event_seq, l.log_seq"
            )
    finally:
        cursor.execute("ROLLBACK")
    for rows, column in ((submits, 1), (moves, 0)):
        if len(rows) == limit:
            whole = min(whole, max(row[column] for row in rows))
    if len(lines) == limit:  # the last event may go on past the page
        firsts = sorted({row[0] for row in lines})
        if len(firsts) == 1:
            return events_between(cursor, msgspec.structs.replace(wanted, limit=limit * 4))
        whole = min(whole, firsts[-2])
    found = [
        StoredEvent(row[1], "job_submitted", row[0], row[2], 0, row[4] / 1e6, job=_as_submitted(row)) for row in submits
    ]
    found += [
        StoredEvent(seq, kind, job_id, org_id, attempt, ts / 1e6, _decode(data))
        for seq, kind, job_id, org_id, attempt, ts, data in moves
    ]
    gathered: dict[int, StoredEvent] = {}
    for seq, job_id, org_id, attempt, ts, log_seq, stream, line in lines:
        if org_id is None:  # the job's own row is gone
            continue
        event = gathered.get(seq)
        if event is None:
            event = gathered[seq] = StoredEvent(seq, "job_logged", job_id, org_id, attempt, ts / 1e6, entries=[])
        event.entries.append(LogEntry(log_seq, attempt, LogStream(stream), ts / 1e6, line))
    found += gathered.values()
    return sorted((event for event in found if event.seq <= whole), key=lambda event: event.seq), whole


def _as_submitted(row: tuple[Any, ...]) -> Job:
    return make_job((*row[:7], None, row[8]))
