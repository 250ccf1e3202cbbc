"""The audit over HTTP: acts, refusals and who may read of them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import httpx
import pytest

from tests.server.tokens import make, with_token
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.server import audit
from zbrain_nb.server.application import OWN_ROUTES, ROUTES
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import METHODS, operation_of
from zbrain_nb.server.handlers.jobs import ManyHandler
from zbrain_nb.server.host import Host

anyio_test = pytest.mark.anyio
#: Writing operations that are no acts of anybody: what workers report, and bytes that a submit has yet to name.
NO_ACTS = {
    ("workers/{worker_id}/leases", "post"),
    ("workers/{worker_id}/heartbeat", "post"),
    ("workers/{worker_id}/events", "post"),
    ("blobs/{sha256}", "put"),
}
WRITING = [
    (route, method, handler)
    for route, handler in ROUTES + OWN_ROUTES
    for method in METHODS
    if method not in ("get", "head") and operation_of(handler, method)
]


@pytest.mark.parametrize(("route", "method", "handler"), WRITING, ids=[f"{m} {r}" for r, m, _ in WRITING])
def test_operation_that_writes_names_its_act(route: str, method: str, handler: type[ApiHandler]) -> None:
    declared = operation_of(handler, method)
    assert declared is not None
    assert bool(declared.act) != ((route, method) in NO_ACTS) or handler is ManyHandler


async def records(api: httpx.AsyncClient, **wanted: Any) -> list[dict[str, Any]]:
    answer = await api.get("audit", params=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()["records"]


@anyio_test
async def test_acts_are_told_with_who_token_object_org_and_outcome(api: httpx.AsyncClient) -> None:
    made = await make(api, owner="bob", roles={"lab": "operator"})
    as_bob = with_token(made["secret"])
    job = (await api.post("jobs", json={"cmd": ["true"]}, headers=as_bob)).json()
    await api.post("jobs", json=[{"cmd": ["true"]}] * 3, headers=as_bob)
    await api.post("queues/lab/local/pause", headers=as_bob)
    await api.post(f"jobs/{job['id']}/cancel", headers=as_bob)
    await api.post(f"jobs/{job['id']}/retry", headers=as_bob)
    await api.post("jobs/cancel", json={"ids": [job["id"]]}, headers=as_bob)
    await api.post("jobs/lookup", json={"ids": [job["id"]]}, headers=as_bob)
    await api.get("jobs", headers=as_bob)
    await api.get("history?table=jobs", headers=as_bob)
    await api.get("history?table=jobs")
    found = await records(api, who="bob")
    assert [one["verb"] for one in found] == [
        "read history", "cancel", "retry", "cancel", "pause", "submit", "submit",
    ]  # fmt: skip
    assert {one["org_id"] for one in found} == {"lab"}
    assert {(one["token_id"], one["credential"], one["address"]) for one in found} == {
        (made["id"], "person", "127.0.0.1")
    }
    assert {one.get("outcome", "allowed") for one in found} == {"allowed"}
    assert (found[-1]["object_kind"], found[-1]["object_id"]) == ("job", job["id"])
    assert found[-2]["count"] == 3
    (first,) = await records(api, verb="create token")
    assert (first["object_id"], first["org_id"], first.get("token_id", "")) == (made["id"], "lab", "")


@anyio_test
async def test_refusals_are_told_with_their_reason_and_do_not_fill_the_audit(api: httpx.AsyncClient) -> None:
    viewer = await make(api, owner="eve", roles={"lab": "viewer"})
    for _ in range(50):
        await api.get("jobs", headers=with_token("zbp_wrong"))
        await api.post("queues/lab/local/pause", headers=with_token(viewer["secret"]))
    found = [one for one in await records(api) if one.get("outcome") == "refused"]
    assert [(one["who"], one["verb"]) for one in found] == [("eve", "pause"), ("", "read")]
    assert found[0]["org_id"] == "lab" and "role operator" not in found[0]["reason"]
    assert found[0]["reason"].startswith("eve is viewer in the org lab")
    assert found[1]["reason"] == "This request carries no valid token." and found[1]["address"] == "127.0.0.1"


@anyio_test
async def test_what_failed_is_told_as_failed(api: httpx.AsyncClient) -> None:
    await api.post("jobs", json={"cmd": []})
    await api.post("jobs/01890000-0000-7000-8000-000000000000/cancel")
    found = await records(api)
    assert [(one["verb"], one["outcome"]) for one in found] == [("cancel", "failed"), ("submit", "failed")]
    assert found[1]["reason"].startswith("invalid_spec: ")


@anyio_test
async def test_admin_reads_of_own_orgs_and_others_of_none(api: httpx.AsyncClient) -> None:
    admin = with_token((await make(api, kind="admin", owner="ada", roles={"lab": "admin"}))["secret"])
    person = with_token((await make(api, owner="bob", roles={"lab": "operator", "other": "submitter"}))["secret"])
    await api.post("jobs", json={"cmd": ["true"], "org_id": "lab"})
    await api.post("jobs", json={"cmd": ["true"], "org_id": "other"})
    seen = (await api.get("audit", headers=admin)).json()["records"]
    assert [(one["verb"], one["org_id"]) for one in seen] == [("submit", "lab")] + [("create token", "lab")] * 2
    again = (await api.get("audit?org=lab", headers=admin)).json()["records"]
    assert (again[0]["verb"], again[0]["org_id"], again[1:]) == ("read audit", "lab", seen)
    refused = {}
    for org in ("other", "unknown"):
        refused[org] = await api.get(f"audit?org={org}", headers=admin)
        assert refused[org].status_code == 403
    assert refused["other"].text == refused["unknown"].text.replace("unknown", "other")
    for path in ("audit", "audit?org=lab", "audit?org=other"):
        assert (await api.get(path, headers=person)).status_code == 403


@anyio_test
async def test_act_on_jobs_of_several_orgs_is_told_in_each(api: httpx.AsyncClient) -> None:
    roles = {"mine": "operator", "lab": "operator"}
    eve = with_token((await make(api, owner="eve", roles=roles))["secret"])
    specs = [{"cmd": ["true"], "org_id": org} for org in ("mine", "lab", "lab")]
    ids = [job["id"] for job in (await api.post("jobs", json=specs, headers=eve)).json()]
    await api.post("jobs/cancel", json={"ids": ids}, headers=eve)
    await api.post("jobs/retry", json={"ids": ids}, headers=eve)
    await api.get("history?table=jobs", headers=eve)
    await api.post("workers", json={"id": "w", "kind": "local", "host": "h", "pid": 1, "slots": 1}, headers=eve)
    found = await records(api, who="eve", org="lab")
    told = [(one["verb"], one.get("object_id"), one.get("count", 1)) for one in found]
    assert told == [
        ("register worker", "w", 1),
        ("read history", "jobs", 1),
        ("retry", ids[1], 2),
        ("cancel", ids[1], 2),
        ("submit", ids[1], 2),
    ]
    assert [one["verb"] for one in await records(api, who="eve", org="mine")] == [verb for verb, _, _ in told]


@anyio_test
async def test_act_on_jobs_of_others_is_told_for_each_owner_whatever_was_done_to_ones_own(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_ACTS", 3)
    monkeypatch.setattr(audit, "MOST_OF_VERB", 1)
    mal, vera, bob = [
        with_token((await make(api, owner=who, roles={"lab": "operator"}))["secret"]) for who in ("mal", "vera", "bob")
    ]
    ids = {}
    for who in (mal, vera, bob):
        specs = [{"cmd": ["true"], "org_id": "lab"}] * 2
        ids[who["Authorization"]] = [job["id"] for job in (await api.post("jobs", json=specs, headers=who)).json()]
    of_mal, of_vera, of_bob = ids.values()
    for _ in range(5):
        await api.post(f"jobs/{of_mal[0]}/cancel", headers=mal)
    await api.post("jobs/cancel", json={"ids": [*of_mal, of_bob[0], *of_vera]}, headers=mal)
    await api.post(f"jobs/{of_bob[1]}/cancel", headers=mal)
    found = await records(api, who="mal", verb="cancel", org="lab")
    told = [(one["object_id"], one.get("count", 1)) for one in found]
    assert told[:3] == [(of_bob[1], 1), (of_vera[0], 2), (of_bob[0], 1)]
    assert {object_id for object_id, _ in told[3:]} == {of_mal[0]}


@anyio_test
async def test_act_on_jobs_of_several_owners_that_failed_is_told_once(
    host: Host, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.context is not None
    ids = []
    for who in ("vera", "bob"):
        person = with_token((await make(api, owner=who, roles={"lab": "submitter"}))["secret"])
        ids.append((await api.post("jobs", json={"cmd": ["true"], "org_id": "lab"}, headers=person)).json()["id"])

    async def refuse(*args: Any, **options: Any) -> None:
        raise Unavailable("The disk is full.")

    monkeypatch.setattr(host.context.queue, "cancel_many", refuse)
    assert (await api.post("jobs/cancel", json={"ids": ids})).status_code == 503
    host.context.audit._close_window()
    found = await records(api, verb="cancel")
    assert [(one["outcome"], one["object_id"], one.get("count", 1)) for one in found] == [("failed", ids[0], 1)]


@anyio_test
async def test_refused_act_on_jobs_of_several_orgs_is_told_where_it_was_refused(api: httpx.AsyncClient) -> None:
    eve = with_token((await make(api, owner="eve", roles={"mine": "operator", "lab": "viewer"}))["secret"])
    own = (await api.post("jobs", json={"cmd": ["true"], "org_id": "mine"}, headers=eve)).json()["id"]
    other = (await api.post("jobs", json={"cmd": ["true"], "org_id": "lab"})).json()["id"]
    assert (await api.post("jobs/cancel", json={"ids": [own, other]}, headers=eve)).status_code == 403
    (refused,) = [one for one in await records(api, who="eve") if one.get("outcome") == "refused"]
    assert (refused["verb"], refused["object_id"], refused["org_id"]) == ("cancel", other, "lab")


@anyio_test
async def test_stranger_writes_into_the_audit_of_an_org_nothing_but_refusals(api: httpx.AsyncClient) -> None:
    eve = with_token((await make(api, owner="eve", roles={"mine": "operator"}))["secret"])
    assert (await api.get("history?table=jobs&org=lab", headers=eve)).status_code == 200
    assert (await api.post("orgs/lab/limits", json={"running": "many"}, headers=eve)).status_code == 422
    assert (await api.post("queues/lab/local/pause", headers=eve)).status_code == 403
    found = await records(api, who="eve", org="lab")
    assert [(one["verb"], one["outcome"], one["object_id"]) for one in found] == [("pause", "refused", "lab/local")]


@anyio_test
async def test_audit_is_paged_and_begins_when_asked(api: httpx.AsyncClient) -> None:
    for _ in range(5):
        await api.post("queues/default/local/pause")
    found, cursor = [], None
    while True:
        wanted = {"limit": 2, "verb": "pause", **({"cursor": cursor} if cursor else {})}
        page = (await api.get("audit", params=wanted)).json()
        found += page["records"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [one["seq"] for one in found] == [5, 4, 3, 2, 1]
    assert len(await records(api, since=found[2]["ts"])) == 3
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    assert await records(api, since=soon.isoformat()) == []
