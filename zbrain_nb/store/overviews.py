"""What an overview of an org's jobs shows, counted by the store: jobs by state, and how the last minutes went.

Read from the jobs table, which shows what became of jobs a few seconds late; nothing is kept for it.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Collection, Iterable

import duckdb
import msgspec

from zbrain_nb.store.queries import in_orgs

Cursor = duckdb.DuckDBPyConnection

MINUTE_SECS = 60
DAY_SECS = 86_400


class Minutes(msgspec.Struct, kw_only=True):
    """A number for each of the last whole minutes and the one that has begun, oldest first.

    Attributes
    ----------
    first_at : float
        When the first minute began, seconds since the epoch.
    ended, failed : list of int
        Jobs that ended, and those of them that failed.
    waiting : list of int
        Jobs that waited for their first attempt when the minute ended, or now. Jobs that were tried more than once are
        left out: of when their first attempt began nothing is kept.
    wait_p50_secs, wait_p95_secs : list of float or None
        How long jobs had waited that started in this minute: the median, and what 95 in 100 stayed below; None if
        none started. A job that was tried more than once is not counted.
    """

    first_at: float
    ended: list[int]
    failed: list[int]
    waiting: list[int]
    wait_p50_secs: list[float | None]
    wait_p95_secs: list[float | None]


def orgs(cursor: Cursor, among: Collection[str] | None) -> list[str]:
    """Return the orgs that have jobs, sorted: of those that are given, or all with None."""
    where, values = ("true", []) if among is None else (in_orgs(among), list(among))
    rows = cursor.execute(f"SELECT DISTINCT org_id FROM jobs WHERE {where} ORDER BY org_id", values).fetchall()
    return [org for (org,) in rows]


def count_states(cursor: Cursor, org_id: str, without: Iterable[str]) -> dict[str, int]:
    """Return how many jobs of the org are in each state, leaving out those whose rows are out of date."""
    rows = cursor.execute(
        "SELECT state, count(*) FROM jobs WHERE org_id = $1 AND id NOT IN (SELECT unnest($2::UUID[])) GROUP BY state",
        [org_id, list(without)],
    ).fetchall()
    return dict(rows)


def oldest_pending(cursor: Cursor, org_id: str, without: Iterable[str]) -> dt.datetime | None:
    """Return when the oldest job that waits was submitted, leaving out those whose rows are out of date."""
    row = cursor.execute(
        "SELECT min(created_at) FROM jobs "
        "WHERE org_id = $1 AND state = 'pending' AND id NOT IN (SELECT unnest($2::UUID[]))",
        [org_id, list(without)],
    ).fetchone()
    return None if row is None or row[0] is None else row[0].replace(tzinfo=dt.UTC)


def failed_since(cursor: Cursor, org_id: str, since: float, without: Iterable[str]) -> int:
    """Return how many jobs failed after `since` (epoch seconds), leaving out those whose rows are out of date."""
    row = cursor.execute(
        "SELECT count(*) FROM jobs WHERE org_id = $1 AND state = 'failed' AND finished_at >= make_timestamp($2) "
        "AND id NOT IN (SELECT unnest($3::UUID[]))",
        [org_id, round(since * 1e6), list(without)],
    ).fetchone()
    return row[0] if row else 0


def minutes(cursor: Cursor, org_id: str, now: float, count: int) -> Minutes:
    """Return what happened to the org's jobs in the last `count` minutes, of which the last has just begun."""
    first = (int(now) // MINUTE_SECS - count + 1) * MINUTE_SECS
    ended, failed = [0] * count, [0] * count
    medians: list[float | None] = [None] * count
    slowest: list[float | None] = [None] * count
    for place, total, bad in cursor.execute(
        "SELECT (epoch_us(finished_at) // 1000000 - $2) // $3, count(*), count(*) FILTER (state = 'failed') FROM jobs "
        "WHERE org_id = $1 AND finished_at >= make_timestamp($2::BIGINT * 1000000) GROUP BY 1",
        [org_id, first, MINUTE_SECS],
    ).fetchall():
        if place < count:
            ended[place], failed[place] = total, bad
    change = [0] * count
    for place, came, went in cursor.execute(
        "SELECT greatest(0, (epoch_us(moment) // 1000000 - $2) // $3), "
        "count(*) FILTER (came), count(*) FILTER (NOT came) FROM ("
        "SELECT unnest([created_at, gone_at]) AS moment, unnest([true, false]) AS came FROM ("
        "SELECT created_at, coalesce(started_at, finished_at) AS gone_at FROM jobs WHERE org_id = $1 AND attempt <= 1 "
        "AND (state = 'pending' OR coalesce(started_at, finished_at) >= make_timestamp($2::BIGINT * 1000000)))) "
        "WHERE moment IS NOT NULL GROUP BY 1",
        [org_id, first, MINUTE_SECS],
    ).fetchall():
        if place < count:
            change[place] += came - went
    for place, median, slow in cursor.execute(
        "SELECT (epoch_us(started_at) // 1000000 - $2) // $3, "
        "quantile_cont(epoch(started_at) - epoch(created_at), 0.5), "
        "quantile_cont(epoch(started_at) - epoch(created_at), 0.95) FROM jobs "
        "WHERE org_id = $1 AND attempt = 1 AND started_at >= make_timestamp($2::BIGINT * 1000000) GROUP BY 1",
        [org_id, first, MINUTE_SECS],
    ).fetchall():
        if place < count:
            medians[place], slowest[place] = max(0.0, median), max(0.0, slow)
    return Minutes(
        first_at=float(first),
        ended=ended,
        failed=failed,
        waiting=list(itertools.accumulate(change)),
        wait_p50_secs=medians,
        wait_p95_secs=slowest,
    )
