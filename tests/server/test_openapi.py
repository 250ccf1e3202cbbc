"""``openapi.json``: that every route is in it, and that what it says of queries is what is refused and taken."""

from __future__ import annotations

import hashlib
import typing
from typing import Any

import httpx
import pytest

from zbrain_nb.model.history import TABLES, TableName
from zbrain_nb.server.application import OWN_ROUTES, PARTS, ROUTES
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import METHODS, operation_of
from zbrain_nb.server.openapi import document

ALL = ROUTES + OWN_ROUTES
DOCUMENT = document(ALL, PARTS)
anyio_test = pytest.mark.anyio


def methods_of(handler: type[ApiHandler]) -> set[str]:
    """Return the methods that a handler takes, declared or not."""
    ours = [cls for cls in handler.__mro__ if cls.__module__.startswith("zbrain_nb")]
    return {method for method in METHODS if any(method in vars(cls) for cls in ours)}


@pytest.mark.parametrize(("route", "handler"), ALL, ids=[route for route, _ in ALL])
def test_route_declares_each_of_its_methods(route: str, handler: type[ApiHandler]) -> None:
    declared = {method for method in METHODS if operation_of(handler, method)}
    assert declared == methods_of(handler) != set()
    assert declared == set(DOCUMENT["paths"][f"/{route}"]) - {"parameters"}


def test_operations_are_told_apart_and_described() -> None:
    operations = [item[m] for item in DOCUMENT["paths"].values() for m in METHODS if m in item]
    names = [each["operationId"] for each in operations]
    assert len(names) == len(set(names))
    assert all(each["summary"] for each in operations)


def test_references_lead_to_components() -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    components = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references(DOCUMENT) == components


def test_tables_of_history_are_those_that_its_query_takes() -> None:
    assert set(typing.get_args(TableName)) == set(TABLES)


@anyio_test
async def test_document_is_served(api: httpx.AsyncClient) -> None:
    answer = await api.get("openapi.json")
    assert answer.json() == DOCUMENT


@anyio_test
@pytest.mark.parametrize("path", ["jobs?stat=failed", "health?q=1", "history?table=jobs&colums=id", "queues?token=1"])
async def test_argument_that_a_route_does_not_know_is_refused_by_name(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "malformed")
    name = path.rpartition("&")[2].rpartition("?")[2].partition("=")[0]
    assert repr(name) in error["message"]
    assert error["hint"].startswith("It takes ")


@anyio_test
@pytest.mark.parametrize("query", ["_=1732854500", "1732854500123", "_xsrf=2|a|b", "_", "state=", "limit=&q="])
async def test_argument_against_caches_or_without_a_value_changes_nothing(api: httpx.AsyncClient, query: str) -> None:
    assert (await api.get(f"jobs?{query}")).json() == (await api.get("jobs")).json()


@anyio_test
async def test_argument_that_stands_twice_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.get("jobs?state=failed&state=pending")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "state stands 2 times in the query."


@anyio_test
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("limit=0", "limit must be a whole number from 1 to 1000, not '0'."),
        ("brief=2", "brief must be 0 or 1, not '2'."),
        ("state=odd", "state must be one of pending, running, succeeded, failed, retrying, canceled, not 'odd'."),
        ("name=%FF", "name is not text in UTF-8."),
    ],
)
async def test_argument_that_does_not_hold_is_named_with_what_it_takes(
    api: httpx.AsyncClient, query: str, message: str
) -> None:
    answer = await api.get(f"jobs?{query}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)


@anyio_test
async def test_range_outside_of_a_result_is_416_in_the_one_shape(api: httpx.AsyncClient) -> None:
    data = b"0123456789" * 1000
    digest = hashlib.sha256(data).hexdigest()
    assert (await api.put(f"blobs/{digest}", content=data)).status_code == 201
    job = (await api.post("jobs", json={"code": "1", "inputs": {"x": digest}})).json()
    await api.post("workers", json={"id": "w"})
    await api.post("workers/w/leases", json={"request_id": "r", "wait_secs": 5})
    answer = await api.get(f"jobs/{job['id']}/inputs/x", headers={"Range": "bytes=10000-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */10000")
    assert answer.json()["error"]["code"] == "range_not_satisfiable"
