"""How many bytes the rows of each owner's jobs take: specs, and what happened to them with outputs and results."""

from __future__ import annotations

import duckdb

from zbrain_nb.store.grants import Charge
from zbrain_nb.store.texts import bytes_of


def row_sizes(cursor: duckdb.DuckDBPyConnection, through_seq: int) -> list[Charge]:
    """Return bytes by org and owner, of rows up to an ``event_seq``; an org and owner may come twice.

    Texts alone count, as UTF-8: what the database makes of them is smaller, or larger, by itself.
    """
    return cursor.execute(
        f"""
        SELECT org_id, owner, sum({bytes_of("spec")})::BIGINT FROM jobs WHERE event_seq <= $seq GROUP BY ALL
        UNION ALL
        SELECT jobs.org_id, jobs.owner, sum({bytes_of("data")})::BIGINT
        FROM transitions JOIN jobs ON jobs.id = transitions.job_id WHERE transitions.event_seq <= $seq GROUP BY ALL
        """,
        {"seq": through_seq},
    ).fetchall()
