"""What a query is found to name."""

from __future__ import annotations

from typing import Any

import duckdb
import msgspec
import pytest

from zbrain_nb.client.naming import job_wanted, tables_named
from zbrain_nb.model.history import TABLES

JOB = "01936b1e-0000-7000-8000-000000000000"
ALL = tuple(TABLES["jobs"].columns)


def tree_of(query: str) -> dict[str, Any]:
    with duckdb.connect() as connection:
        ((text,),) = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    tree: dict[str, Any] = msgspec.json.decode(text)
    assert not tree["error"], tree
    return tree


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("select state, count(*) from jobs group by 1", ("state",)),
        ('select "Name" from main.JOBS order by CREATED_AT', ("name", "created_at")),
        ("with x as (from jobs) select id from x", ALL),
        ("select * exclude (code) from jobs", ALL),
        ("select columns('a.*') from jobs", ALL),
        ("select j from jobs j", ALL),
        ("select jobs from jobs", ALL),
        ("summarize jobs", ALL),
        ("select attempt from jobs natural join attempts", ALL),
        ("select (select max(attempt) from jobs) * 2", ("attempt",)),
        ("select tags['lr'] from jobs", ("tags",)),
        ("select 1", None),
        ("with jobs as (select 1 a) select a from jobs", ()),
    ],
)
def test_tables_named_are_found_with_the_columns_they_need(query: str, columns: tuple[str, ...] | None) -> None:
    assert tables_named(tree_of(query), query).get("jobs") == columns


def test_tables_named_joined_by_a_shared_column_get_it_both() -> None:
    query = "select line from logs join attempts using (job_id, attempt)"
    assert tables_named(tree_of(query), query) == {
        "attempts": ("job_id", "attempt"),
        "logs": ("job_id", "attempt", "line"),
    }


@pytest.mark.parametrize(
    ("query", "params"),
    [
        (f"select line from logs where job_id = '{JOB}'", None),
        (f"select line from logs l where '{JOB.upper()}' = l.job_id and stream = 'stderr'", None),
        ("select line from logs where stream = ? and job_id = ?", ["stdout", JOB]),
        ("select line from logs where job_id = $job", {"job": JOB}),
        ("select j.name, l.line from jobs j, (select * from logs where job_id = $1) l", [JOB]),
    ],
)
def test_job_wanted_is_found(query: str, params: Any) -> None:
    assert job_wanted(tree_of(query), params) == JOB


@pytest.mark.parametrize(
    "query",
    [
        f"select line from logs where job_id = '{JOB}' or stream = 'stderr'",
        f"select line from logs where job_id <> '{JOB}'",
        f"select line from logs where not (job_id = '{JOB}')",
        f"select 1 from logs a join logs b using (job_id) where a.job_id = '{JOB}'",
        f"select 1 from logs, jobs where logs.job_id = '{JOB}'",
        f"select line from logs where job_id = '{JOB}' union all from logs",
        "select line from logs where job_id = 'train'",
        "select line from logs where job_id = ?",
        "select line from logs",
    ],
)
def test_job_wanted_is_none_where_other_jobs_may_be_read(query: str) -> None:
    assert job_wanted(tree_of(query), None) is None
