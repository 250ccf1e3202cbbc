"""What the store knows of one job's attempts, and of the jobs that repeat it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import duckdb
import msgspec

from zbrain_nb.store.texts import fetch_whole

Cursor = duckdb.DuckDBPyConnection

#: Kinds of transitions by which attempts begin and end.
_KINDS = ("job_leased", "job_started", "job_retrying", "job_completed", "job_failed", "job_canceled")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Step(msgspec.Struct, frozen=True):
    """A transition of a job by which an attempt began or ended; `patch` is what it changed."""

    kind: str
    attempt: int
    ts: float
    patch: dict[str, Any]


def steps(cursor: Cursor, job_id: str) -> list[Step]:
    """Return how the job's attempts began and ended, in order, as far back as events are kept."""
    rows = fetch_whole(
        cursor,
        "transitions",
        "SELECT kind, attempt, epoch_us(ts), data FROM transitions "
        "WHERE job_id = ?::UUID AND kind IN (SELECT unnest(?)) ORDER BY event_seq",
        [job_id, list(_KINDS)],
        3,
    )
    return [Step(kind, attempt, ts / 1e6, _decode(data)) for kind, attempt, ts, data in rows]


def repeats(cursor: Cursor, ids: Iterable[str]) -> list[str]:
    """Return the ids of the jobs that a person's Retry made of one of these, oldest first."""
    rows = cursor.execute(
        "SELECT id::VARCHAR FROM jobs WHERE retry_of IN (SELECT unnest(?::UUID[])) ORDER BY id", [list(ids)]
    ).fetchall()
    return [job_id for (job_id,) in rows]
