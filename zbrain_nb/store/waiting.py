"""What the queue asks of the store about jobs that have not ended: at its opening, and when a window runs low.

Each function takes a reader's cursor and may block.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from zbrain_nb.model.job import Job
from zbrain_nb.store.queries import JOB_COLUMNS, WITHOUT_PATCH, Cursor, apply_patches, jobs_by_id, make_job

_PLACE = "rank, event_seq, lane"
_PARKED = "state = 'pending' AND lane IS NOT NULL"
_FETCHED = 10_000
#: Under this key the store keeps up to which ``event_seq`` its jobs table is up to date.
FOLDED_SEQ = "folded_seq"


class Placed(NamedTuple):
    """A job and its place in line; `lane` is None if it waits for other jobs."""

    job: Job
    rank: int
    order: int
    lane: str | None


class Snapshot(NamedTuple):
    """What the queue has to know when it opens.

    Attributes
    ----------
    jobs : list of Placed
        Jobs that have not ended and have more to them than their row, or were not folded since they moved (those
        may have ended), in the order of their submits.
    windows : list of Placed
        The first of each lane's other jobs.
    lanes : dict of str to int
        How many such jobs each lane has.
    last : Placed or None
        The job that was submitted last.
    """

    jobs: list[Placed]
    windows: list[Placed]
    lanes: dict[str, int]
    last: Placed | None


def snapshot(cursor: Cursor, folded_seq: int, window_for: Callable[[int], int]) -> Snapshot:
    """Return what the queue has to know when it opens.

    Parameters
    ----------
    folded_seq : int
        Rows of jobs show all that happened up to this ``event_seq``.
    window_for : callable
        ``window_for(lanes)``: how many jobs of each lane are wanted if there are so many lanes.
    """
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE moved AS SELECT DISTINCT job_id AS id FROM transitions WHERE event_seq > ?",
        [folded_seq],
    )
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE chosen AS SELECT id FROM moved UNION SELECT id FROM jobs "
        "WHERE state IN ('running', 'retrying') OR (state = 'pending' AND lane IS NULL)"
    )
    rest = f"{_PARKED} AND id NOT IN (SELECT id FROM moved)"
    lanes = cursor.execute(f"SELECT lane, count(*) FROM jobs WHERE {rest} GROUP BY lane").fetchall()
    windows = cursor.execute(
        "WITH heads AS (SELECT unnest(min_by(id, (rank, event_seq), ?)) AS id FROM jobs "
        f"WHERE {rest} GROUP BY lane) SELECT {JOB_COLUMNS}, {_PLACE} FROM jobs JOIN heads USING (id)",
        [window_for(len(lanes))],
    ).fetchall()
    last = cursor.execute(
        f"SELECT {JOB_COLUMNS}, {_PLACE} FROM jobs WHERE event_seq = (SELECT max(event_seq) FROM jobs)"
    ).fetchone()
    jobs = _chosen(cursor)
    cursor.execute("DROP TABLE moved")
    cursor.execute("DROP TABLE chosen")
    return Snapshot(jobs, [_placed(row) for row in windows], dict(lanes), _placed(last) if last else None)


def _chosen(cursor: Cursor) -> list[Placed]:
    rows = cursor.execute(
        f"SELECT {JOB_COLUMNS}, {_PLACE} FROM jobs JOIN chosen USING (id) ORDER BY event_seq"
    ).fetchall()
    placed = {row[0]: _placed(row) for row in rows}
    jobs = {job_id: one.job for job_id, one in placed.items()}
    oldest = min((row[8] for row in rows), default=0)
    apply_patches(
        jobs,
        cursor.execute(
            "SELECT job_id::VARCHAR, event_seq, data FROM transitions JOIN chosen ON id = job_id "
            "WHERE event_seq > ? AND kind NOT IN (SELECT unnest(?)) ORDER BY event_seq",
            [oldest, list(WITHOUT_PATCH)],
        ).fetchall(),
    )
    return [one._replace(job=jobs[job_id]) for job_id, one in placed.items()]


def _placed(row: tuple[Any, ...]) -> Placed:
    return Placed(make_job(row[:-3]), *row[-3:])


def page(cursor: Cursor, lane: str, rank: int, order: int, limit: int) -> list[Placed]:
    """Return the next jobs of a lane behind a place, in order; some may have moved on since they were folded."""
    rows = cursor.execute(
        f"SELECT {JOB_COLUMNS}, {_PLACE} FROM jobs WHERE state = 'pending' AND lane = $1 AND rank >= $2 "
        "AND (rank > $2 OR event_seq > $3) ORDER BY rank, event_seq LIMIT $4",
        [lane, rank, order, limit],
    ).fetchall()
    return [_placed(row) for row in rows]


def placed_by_id(cursor: Cursor, ids: Iterable[str]) -> list[Placed]:
    """Return those of the jobs that exist, as their events left them."""
    wanted = list(ids)
    jobs = jobs_by_id(cursor, wanted)
    places = cursor.execute(
        f"SELECT id::VARCHAR, {_PLACE} FROM jobs WHERE id IN (SELECT unnest(?::UUID[]))", [wanted]
    ).fetchall()
    return [Placed(jobs[job_id], *place) for job_id, *place in places if job_id in jobs]


def batch(cursor: Cursor, first_id: str, count: int) -> list[Job]:
    """Return the jobs that were submitted in one go behind the first, and it, as they were last folded."""
    rows = cursor.execute(
        f"SELECT {JOB_COLUMNS} FROM jobs WHERE event_seq >= (SELECT event_seq FROM jobs WHERE id = $1::UUID) "
        "AND event_seq < (SELECT event_seq FROM jobs WHERE id = $1::UUID) + $2 ORDER BY event_seq",
        [first_id, count],
    ).fetchall()
    return [make_job(row) for row in rows]


def key_fingerprints(cursor: Cursor) -> array[int]:
    """Return 64 bits of a hash of each idempotency key with its owner, sorted."""
    found: array[int] = array("Q")
    cursor.execute(
        "SELECT md5_number_lower(owner || chr(0) || idempotency_key) AS print FROM jobs "
        "WHERE idempotency_key IS NOT NULL ORDER BY print"
    )
    while rows := cursor.fetchmany(_FETCHED):
        found.extend(number for (number,) in rows)
    return found


def meta(cursor: Cursor, key: str) -> str | None:
    """Return a value that was kept under `key`."""
    row = cursor.execute("SELECT value FROM meta WHERE key = ?", [key]).fetchone()
    return None if row is None else row[0]


def metas(cursor: Cursor, head: str) -> dict[str, str]:
    """Return the values kept under keys that begin with `head`, by the rest of the key."""
    rows = cursor.execute("SELECT key, value FROM meta WHERE starts_with(key, ?)", [head]).fetchall()
    return {key[len(head) :]: value for key, value in rows}
