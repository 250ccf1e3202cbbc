"""``GET history``, asked as any HTTP client would."""

from __future__ import annotations

import io

import duckdb
import httpx
import pytest
from arro3.io import read_ipc_stream

from zbrain_nb.model.history import END_OF_STREAM, MEDIA_TYPE, TABLES

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("table", TABLES)
async def test_history_streams_the_columns_that_are_documented(api: httpx.AsyncClient, table: str) -> None:
    await api.post("jobs", json={"cmd": ["true"], "tags": {"lr": "0.1"}})
    answer = await api.get("history", params={"table": table})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, MEDIA_TYPE)
    assert answer.content.endswith(END_OF_STREAM)
    with duckdb.connect() as connection:
        connection.register("incoming", read_ipc_stream(io.BytesIO(answer.content)))
        shape = connection.execute("DESCRIBE FROM incoming").fetchall()
    assert {name: type_ for name, type_, *_ in shape} == {n: column.type for n, column in TABLES[table].columns.items()}


async def test_history_takes_columns_in_order_and_a_limit(api: httpx.AsyncClient) -> None:
    for n in range(3):
        await api.post("jobs", json={"cmd": ["true"], "name": f"job {n}"})
    query = {"table": "jobs", "columns": "state, name", "limit": "2", "since": "2020-01-01T00:00:00"}
    table = read_ipc_stream(io.BytesIO((await api.get("history", params=query)).content)).read_all()
    assert table.column_names == ["state", "name"]
    assert table["name"].to_pylist() == ["job 2", "job 1"]


@pytest.mark.parametrize(
    ("query", "status", "named"),
    [
        ({}, 400, "attempts, events, jobs, logs"),
        ({"table": "secrets"}, 400, "attempts, events, jobs, logs"),
        ({"table": "jobs", "columns": "id,spec"}, 422, "'spec'"),
        ({"table": "jobs", "job": "1"}, 422, "'1'"),
        ({"table": "jobs", "org": "x" * 1000}, 422, "org"),
        ({"table": "jobs", "since": "yesterday"}, 400, "ISO 8601"),
        ({"table": "jobs", "after": "-1"}, 400, "after"),
        ({"table": "jobs", "limit": "0"}, 400, "limit"),
    ],
)
async def test_history_refuses_what_it_does_not_have_and_says_what_it_has(
    api: httpx.AsyncClient, query: dict[str, str], status: int, named: str
) -> None:
    answer = await api.get("history", params=query)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert named in error["message"] + error["hint"]


async def test_history_wants_the_token(api: httpx.AsyncClient) -> None:
    answer = await api.get("history?table=jobs", headers={"Authorization": "token wrong"})
    assert answer.status_code == 401
