"""What the queue asks of the store about jobs that have not ended: at its opening, and when a window runs low.

Each function takes a reader's cursor and may block.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from zbrain_nb.model.job import Job
from zbrain_nb.store.footprint import JOB_BYTES
from zbrain_nb.store.queries import (
    JOB_BYTES_READ,
    WITHOUT_PATCH,
    Cursor,
    apply_patches,
    job_rows,
    jobs_by_id,
    make_job,
)
from zbrain_nb.store.texts import bytes_of, fetch_whole

_PLACE = f"rank, event_seq, lane, {JOB_BYTES} + coalesce(extra_bytes, 0)"
_PARKED = "state = 'pending' AND lane IS NOT NULL"
_PATCHES = (
    "FROM transitions WHERE job_id IN (SELECT unnest(?::UUID[])) AND event_seq > ? AND kind NOT IN (SELECT unnest(?))"
)
_FETCHED = 10_000
#: How many jobs are read at once when the queue opens, and how much of specs and patches.
SLICE_ROWS = 4_000
SLICE_BYTES = 4 * 1024 * 1024
#: Under this key the store keeps up to which ``event_seq`` its jobs table is up to date.
FOLDED_SEQ = "folded_seq"


class Placed(NamedTuple):
    """A job, its place in line and about how much memory it takes; `lane` is None if it waits for other jobs."""

    job: Job
    rank: int
    order: int
    lane: str | None
    size: int


class Slice(NamedTuple):
    """Jobs that are read together.

    Attributes
    ----------
    ids : list of str
        In the order of their submits.
    first, last : int
        The first and last ``event_seq`` of these.
    folded_seq : int
        Their rows show at least what happened up to here.
    """

    ids: list[str]
    first: int
    last: int
    folded_seq: int


class Snapshot(NamedTuple):
    """What the queue has to know when it opens.

    Attributes
    ----------
    slices : list of Slice
        Jobs that have not ended and have more to them than their row, or were not folded since they moved (those
        may have ended), in the order of their submits, to be read by `jobs_of`.
    windows : list of Placed
        The first of each lane's other jobs.
    lanes : dict of str to int
        How many such jobs each lane has.
    last : Placed or None
        The job that was submitted last.
    """

    slices: list[Slice]
    windows: list[Placed]
    lanes: dict[str, int]
    last: Placed | None


def snapshot(
    cursor: Cursor, folded_seq: int, window_for: Callable[[int], int], window_bytes_for: Callable[[int], int]
) -> Snapshot:
    """Return what the queue has to know when it opens.

    Parameters
    ----------
    folded_seq : int
        Rows of jobs show all that happened up to this ``event_seq``.
    window_for : callable
        ``window_for(lanes)``: how many jobs of each lane are wanted if there are so many lanes.
    window_bytes_for : callable
        Likewise, how much memory they may take; the first is wanted in any case.
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
    heads = f"SELECT unnest(min_by(id, (rank, event_seq), ?)) FROM jobs WHERE {rest} GROUP BY lane"
    lanes = cursor.execute(f"SELECT lane, count(*) FROM jobs WHERE {rest} GROUP BY lane").fetchall()
    windows, _ = _fitting(cursor, heads, [window_for(len(lanes))], window_bytes_for(len(lanes)))
    last = _placed_jobs(cursor, "event_seq = (SELECT max(event_seq) FROM jobs)", [])
    slices = _slices(cursor)
    cursor.execute("DROP TABLE moved")
    cursor.execute("DROP TABLE chosen")
    return Snapshot(slices, windows, dict(lanes), last[0] if last else None)


def _slices(cursor: Cursor) -> list[Slice]:
    """Cut the chosen jobs into slices: what is sorted is held in memory, so ids and numbers alone are."""
    rows = cursor.execute(
        "SELECT id::VARCHAR, event_seq, coalesce(folded_seq, event_seq) FROM jobs JOIN chosen USING (id) "
        "ORDER BY event_seq"
    ).fetchall()
    slices: list[Slice] = []
    for start in range(0, len(rows), SLICE_ROWS):
        some = rows[start : start + SLICE_ROWS]
        sizes = _sizes(cursor, _slice(some))
        part: list[tuple[str, int, int]] = []
        free = SLICE_BYTES
        for row in some:
            free -= sizes.get(row[0], 0)
            if part and free < 0:
                slices.append(_slice(part))
                part, free = [], SLICE_BYTES - sizes.get(row[0], 0)
            part.append(row)
        slices.append(_slice(part))
    return slices


def _slice(rows: list[tuple[str, int, int]]) -> Slice:
    return Slice([row[0] for row in rows], rows[0][1], rows[-1][1], min(row[2] for row in rows))


def _sizes(cursor: Cursor, part: Slice) -> dict[str, int]:
    """Return about how many bytes are read of each job."""
    sizes = dict(
        cursor.execute(
            f"SELECT id::VARCHAR, {JOB_BYTES_READ} FROM jobs "
            "WHERE event_seq BETWEEN ? AND ? AND id IN (SELECT unnest(?::UUID[]))",
            [part.first, part.last, part.ids],
        ).fetchall()
    )
    for job_id, size in cursor.execute(
        f"SELECT job_id::VARCHAR, sum({bytes_of('data')}) {_PATCHES} GROUP BY job_id",
        [part.ids, part.folded_seq, list(WITHOUT_PATCH)],
    ).fetchall():
        sizes[job_id] = sizes.get(job_id, 0) + int(size)
    return sizes


def jobs_of(cursor: Cursor, part: Slice) -> list[Placed]:
    """Return the jobs of a slice as their events left them, in the order of their submits."""
    where = "event_seq BETWEEN ? AND ? AND id IN (SELECT unnest(?::UUID[]))"
    placed = {one.job.id: one for one in _placed_jobs(cursor, where, [part.first, part.last, part.ids])}
    jobs = {job_id: one.job for job_id, one in placed.items()}
    patches = f"SELECT job_id::VARCHAR, event_seq, data {_PATCHES} ORDER BY event_seq"
    values = [part.ids, part.folded_seq, list(WITHOUT_PATCH)]
    apply_patches(jobs, fetch_whole(cursor, "transitions", patches, values, 2))
    return [placed[job_id]._replace(job=jobs[job_id]) for job_id in part.ids if job_id in jobs]


def _placed_jobs(cursor: Cursor, where: str, values: list[Any]) -> list[Placed]:
    return [Placed(make_job(row[:-4]), *row[-4:]) for row in job_rows(cursor, where, values, f", {_PLACE}")]


def _fitting(cursor: Cursor, chosen: str, params: list[Any], most_bytes: int) -> tuple[list[Placed], bool]:
    """Return of each lane's jobs `chosen` the first and those that fit into so many bytes, in order, and if all did.

    Specs are long: those that do not fit are not looked at.
    """
    places = cursor.execute(f"SELECT id::VARCHAR, {_PLACE} FROM jobs WHERE id IN ({chosen})", params).fetchall()
    places.sort(key=lambda place: (place[3], place[1], place[2]))
    upto: Counter[str] = Counter()
    found = []
    for job_id, _, _, lane, size in places:
        is_first = lane not in upto
        upto[lane] += size
        if is_first or upto[lane] <= most_bytes:
            found.append(job_id)
    placed = {one.job.id: one for one in _placed_jobs(cursor, "id IN (SELECT unnest(?::UUID[]))", [found])}
    return [placed[job_id] for job_id in found], len(found) == len(places)


def page(cursor: Cursor, lane: str, rank: int, order: int, limit: int, most_bytes: int) -> tuple[list[Placed], bool]:
    """Return the next jobs of a lane behind a place, in order, and whether more may stand behind them.

    Some may have moved on since they were folded.

    Parameters
    ----------
    limit, most_bytes : int
        So many at most, and so much memory they may take; the first is returned in any case.
    """
    # what is sorted is held in memory: so ids alone are
    chosen = (
        "SELECT id FROM jobs WHERE state = 'pending' AND lane = ? AND rank >= ? AND (rank > ? OR event_seq > ?) "
        "ORDER BY rank, event_seq LIMIT ?"
    )
    found, is_whole = _fitting(cursor, chosen, [lane, rank, rank, order, limit], most_bytes)
    return found, len(found) == limit or not is_whole


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
    rows = job_rows(
        cursor,
        "event_seq >= (SELECT event_seq FROM jobs WHERE id = $1::UUID) "
        "AND event_seq < (SELECT event_seq FROM jobs WHERE id = $1::UUID) + $2",
        [first_id, count],
    )
    return [make_job(row) for row in sorted(rows, key=lambda row: row[1])]


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
