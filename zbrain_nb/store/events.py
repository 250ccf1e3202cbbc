"""Events read back from the tables, in order: what feeds and subscribers get that come late.

Takes a reader's cursor and blocks, as `queries` do.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from zbrain_nb.model.events import LOG_PAGE_BYTES, LogEntry, LogStream
from zbrain_nb.model.job import Job
from zbrain_nb.store.queries import Cursor, make_job, page_end
from zbrain_nb.store.texts import bytes_of, one_view, whole

#: Columns of jobs as they were submitted, for `make_job`, without what became of them.
_AS_SUBMITTED = "id::VARCHAR, event_seq, org_id, owner, epoch_us(created_at), spec, retry_of::VARCHAR, NULL, event_seq"
#: Place of the number in rows of jobs and transitions.
_SEQ = 1
_decode = msgspec.json.Decoder().decode


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
        About how many rows are read at once, and of each kind about `LOG_PAGE_BYTES`.
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
    whole_upto, everything = wanted.upto, job_ids is None and org_ids is None
    named: dict[str, Any] = {"after": wanted.after, "upto": whole_upto, "jobs": job_ids or [], "orgs": org_ids or []}
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

    def page_of(kind: str, columns: str, wanted: str, text: str, at: int) -> list[tuple[Any, ...]]:
        """Return the first rows that are wanted, as they are, in order, and note it if they are not all."""
        nonlocal whole_upto
        # what is sorted is held in memory, with all that is selected, and rows are as long as people like: so numbers
        # alone are, and sizes say where the page ends before a text is read
        upto = f"(SELECT max(event_seq) FROM (SELECT event_seq {wanted} {tail}))"
        sizes = sorted(ask(f"SELECT event_seq, {bytes_of(text)} {wanted} AND event_seq <= {upto}"))
        end = page_end(sizes)
        if len(sizes) >= limit or (sizes and end < sizes[-1][0]):
            whole_upto = min(whole_upto, end)
        rows = ask(f"SELECT {columns} {wanted} AND event_seq <= {end:d}") if sizes else []
        return whole(cursor, kind, sorted(rows, key=lambda row: row[_SEQ]), at)

    with one_view(cursor):
        submits = page_of("jobs", _AS_SUBMITTED, f"FROM jobs WHERE {span} {match_jobs}", "spec", 5)
        moves = page_of(
            "transitions",
            "job_id::VARCHAR, event_seq, org_id, kind, attempt, epoch_us(ts), data",
            f"FROM transitions WHERE {span} AND kind <> 'noted' {match_moves}",
            "data",
            6,
        )
        lines: list[tuple[Any, ...]] = []
        if everything or job_ids:
            page = f"FROM logs WHERE {span} {match_lines} ORDER BY event_seq, log_seq LIMIT {limit:d}"
            sizes = ask(f"SELECT event_seq, {bytes_of('line')} {page}")
            if sum(size for _, size in sizes) >= LOG_PAGE_BYTES:
                named["upto"] = page_end(sizes)
                whole_upto = min(whole_upto, page_end(sizes))
            found_lines = ask(
                "SELECT l.event_seq, l.job_id::VARCHAR, j.org_id, l.attempt, epoch_us(l.ts), l.log_seq, l.stream, "
                f"l.line FROM (SELECT * {page}) l LEFT JOIN jobs j ON j.id = l.job_id "
                "ORDER BY l.event_seq, l.log_seq"
            )
            lines = whole(cursor, "logs", found_lines, 7)
    if len(lines) == limit:  # the last event may go on past the page
        firsts = sorted({row[0] for row in lines})
        if len(firsts) == 1:
            return events_between(cursor, msgspec.structs.replace(wanted, limit=limit * 4))
        whole_upto = min(whole_upto, firsts[-2])
    found = [
        StoredEvent(row[1], "job_submitted", row[0], row[2], 0, row[4] / 1e6, job=make_job(row)) for row in submits
    ]
    found += [
        StoredEvent(seq, kind, job_id, org_id, attempt, ts / 1e6, _decode(data))
        for job_id, seq, org_id, kind, attempt, ts, data in moves
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
    return sorted((event for event in found if event.seq <= whole_upto), key=lambda event: event.seq), whole_upto
