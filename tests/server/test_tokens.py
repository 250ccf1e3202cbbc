"""Tokens over HTTP: made, shown once, listed, revoked while in use, and never in an address or a log."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed

from tests.server.tokens import make, with_token
from zbrain_nb.model.datadir import Owner
from zbrain_nb.model.tokens import is_secret
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio


async def codes(api: httpx.AsyncClient, secret: str, *asked: tuple[str, str]) -> list[int]:
    return [
        (await api.request(method, path, headers=with_token(secret), json={} if method == "POST" else None)).status_code
        for method, path in asked
    ]


async def test_secret_is_shown_once_and_opens_what_the_token_is_for(api: httpx.AsyncClient) -> None:
    made = await make(api, owner="bob", roles={"lab": "viewer", "own": "submitter"}, label="ci")
    secret = made.pop("secret")
    assert is_secret(secret)
    assert made["state"] == "live" and made["label"] == "ci"
    listed = await api.get("tokens")
    assert secret not in listed.text and "hash" not in listed.text
    (one,) = listed.json()["tokens"]
    assert {k: v for k, v in one.items() if k != "last_used_at"} == {
        k: v for k, v in made.items() if k != "last_used_at"
    }
    ours = await api.post("jobs", json={"cmd": ["true"], "org_id": "lab"})
    theirs = await api.post("jobs", json={"cmd": ["true"], "org_id": "other"})
    as_bob = with_token(secret)
    assert [job["id"] for job in (await api.get("jobs", headers=as_bob)).json()["jobs"]] == [ours.json()["id"]]
    assert (await api.get(f"jobs/{theirs.json()['id']}", headers=as_bob)).status_code == 404
    assert (await api.post("jobs", json={"cmd": ["true"], "org_id": "lab"}, headers=as_bob)).status_code == 403
    job = (await api.post("jobs", json={"cmd": ["true"], "org_id": "own"}, headers=as_bob)).json()
    assert job["owner"] == "bob"


async def test_each_kind_of_token_opens_its_own_routes(api: httpx.AsyncClient, host: Host, owner: Owner) -> None:
    person = (await make(api, roles={"lab": "operator"}))["secret"]
    worker = (await make(api, kind="worker", roles={"lab": "viewer"}, pool="gpu"))["secret"]
    admin = (await make(api, kind="admin", roles={"lab": "admin"}))["secret"]
    asked = ("GET", "jobs"), ("GET", "tokens"), ("POST", "tokens"), ("GET", "audit"), ("POST", "backup")
    assert await codes(api, person, *asked) == [200, 200, 403, 403, 403]
    assert await codes(api, worker, *asked) == [403] * 5
    assert await codes(api, admin, *asked) == [200, 200, 201, 200, 403]
    registered = await api.post("workers", json={"id": "w", "kind": "gpu"}, headers=with_token(worker))
    assert registered.status_code == 201, registered.text
    await api.post("workers", json={"id": "own"})
    job = (await api.post("jobs", json={"cmd": ["true"]})).json()
    await api.post("workers/own/leases", json={"request_id": "r", "wait_secs": 5})
    assert host.context is not None
    of_attempt = host.context.job_tokens.mint(job["id"], 1)
    assert await codes(api, of_attempt, *asked) == [200, 403, 403, 403, 403]


async def test_token_to_look_opens_no_way_to_run_what_its_person_submits(api: httpx.AsyncClient) -> None:
    submits = with_token((await make(api, owner="alice", roles={"lab": "submitter"}))["secret"])
    looks = with_token((await make(api, owner="alice", roles={"lab": "viewer"}))["secret"])
    spec = {"cmd": ["true"], "org_id": "lab", "env": {"HIDDEN": "of alice"}}
    assert (await api.post("jobs", json=spec, headers=submits)).status_code == 201
    assert (await api.post("workers", json={"id": "own"}, headers=submits)).status_code == 201
    lease = {"request_id": "r", "wait_secs": 0}
    for path, body in (
        ("workers", {"id": "thief"}),
        ("workers", {"id": "own"}),
        ("workers/own/leases", lease),
        ("workers/own/heartbeat", {}),
        ("workers/own/events", {"events": []}),
    ):
        answer = await api.post(path, json=body, headers=looks)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), path
        assert "of alice" not in answer.text
    (leased,) = (await api.post("workers/own/leases", json=lease, headers=submits)).json()["leases"]
    assert leased["job"]["spec"]["env"] == {"HIDDEN": "of alice"}


async def test_secret_in_an_address_is_refused_even_beside_a_valid_header(api: httpx.AsyncClient) -> None:
    secret = (await make(api))["secret"]
    for path in (f"jobs?_token={secret}", f"jobs?q={secret}", f"tokens/{secret}", f"nothing/{secret}"):
        answer = await api.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed"), path
        assert "revoked" in answer.json()["error"]["hint"]
        assert secret not in answer.text


async def test_revoked_token_ends_its_sockets_its_leases_and_its_browsers_at_once(
    api: httpx.AsyncClient, owner: Owner
) -> None:
    person, worker = await make(api), await make(api, kind="worker")
    as_worker = with_token(worker["secret"])
    await api.post("workers", json={"id": "busy"}, headers=as_worker)
    job = (await api.post("jobs", json={"cmd": ["true"], "max_retries": 0})).json()
    ours = {"request_id": "r", "wait_secs": 5}
    (held,) = (await api.post("workers/busy/leases", json=ours, headers=as_worker)).json()["leases"]
    assert held["job"]["id"] == job["id"]
    assert await codes(api, held["token"], ("GET", "jobs"), ("POST", "jobs")) == [200, 422]
    await api.post("workers", json={"id": "w"}, headers=as_worker)
    wanted = {"request_id": "r", "wait_secs": 60}
    lease = asyncio.create_task(api.post("workers/w/leases", json=wanted, headers=as_worker, timeout=30))
    code = (await api.post("sessions", headers=with_token(person["secret"]))).json()["login"]
    url = f"ws{owner.url.removeprefix('http')}zbrain/api/events?topics=orgs/default"
    async with (
        httpx.AsyncClient(base_url=owner.url, trust_env=False, headers={"Sec-Fetch-Site": "same-origin"}) as browser,
        ws_connect(url, additional_headers=with_token(person["secret"]), proxy=None) as socket,
    ):
        assert (await browser.get(code)).status_code == 200
        assert (await browser.get("zbrain/api/jobs")).status_code == 200
        for made in (person, worker):
            revoked = await api.delete(f"tokens/{made['id']}")
            assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(5):
                while True:
                    await socket.recv()
        assert (socket.close_code, socket.close_reason) == (
            1008,
            "The token that opened this was revoked, or has expired.",
        )
        assert (await lease).json()["leases"] == []
        await api.post("jobs", json={"cmd": ["true"], "worker": "none"})  # what was to be decided before is by then
        assert (await api.get(f"jobs/{job['id']}")).json()["state"] == "running", "its worker does not hear of it"
        assert await codes(api, held["token"], ("GET", "jobs"), ("POST", "jobs")) == [401, 401]
        assert (await browser.get("zbrain/api/jobs")).status_code == 401
    assert await codes(api, person["secret"], ("GET", "jobs")) == [401]
    assert (await api.post("workers/w/leases", json=wanted, headers=as_worker)).status_code == 401
    assert (await api.delete("tokens/zbp_0123456789abcdef")).json()["error"]["code"] == "token_not_found"


@pytest.mark.parametrize("when", ["before the queue sees the request", "while secrets are read"])
async def test_request_for_jobs_under_way_gets_none_when_its_token_is_revoked(
    api: httpx.AsyncClient, host: Host, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    assert host.context is not None
    queue, secrets = host.context.queue, host.context.secrets
    made = await make(api, kind="worker")
    as_worker = with_token(made["secret"])
    await api.post("workers", json={"id": "w"}, headers=as_worker)
    job = (await api.post("jobs", json={"code": "1"})).json()  # a cell: once begun it is not run again

    async def late(*args: Any, **options: Any) -> Any:
        assert (await api.delete(f"tokens/{made['id']}")).status_code == 200
        return await original(*args, **options)

    at = (queue, "lease") if when.startswith("before") else (secrets, "hand_over")
    original = getattr(*at)
    monkeypatch.setattr(*at, late)
    answer = await api.post("workers/w/leases", json={"request_id": "r", "wait_secs": 5}, headers=as_worker)
    assert (answer.status_code, answer.json()["leases"]) == (200, [])
    await api.post("jobs", json={"cmd": ["true"], "worker": "none"})  # what was to be decided before is by then
    now = (await api.get(f"jobs/{job['id']}")).json()
    assert (now["state"], now["losses"]) == ("pending" if when.startswith("before") else "retrying", 0)


async def test_revoked_token_takes_those_made_with_it_along(api: httpx.AsyncClient) -> None:
    lab = {"roles": {"lab": "admin"}}
    stolen = await make(api, kind="admin", owner="adam", **lab)
    child = await make(api, with_token(stolen["secret"]), kind="admin", **lab)
    worker = await make(api, with_token(child["secret"]), kind="worker", roles={"lab": "viewer"}, pool="big")
    assert (await api.delete(f"tokens/{stolen['id']}")).status_code == 200
    for secret in (stolen["secret"], child["secret"]):
        assert (await api.post("tokens", json=lab, headers=with_token(secret))).status_code == 401
    headers = with_token(worker["secret"])
    assert (await api.post("workers", json={"id": "x", "kind": "big"}, headers=headers)).status_code == 401
    listed = (await api.get("tokens")).json()["tokens"]
    assert {one["id"]: one["state"] for one in listed} == {one["id"]: "revoked" for one in (stolen, child, worker)}


async def test_revoked_token_is_worth_nothing_in_its_jobs_either(
    api: httpx.AsyncClient, host: Host, owner: Owner
) -> None:
    assert host.context is not None
    mint = host.context.job_tokens.mint
    other, stolen = await make(api, owner="bob"), await make(api, owner="bob")
    await api.post("workers", json={"id": "w", "runs_others": True})

    async def run(secret: str) -> tuple[dict[str, Any], str]:
        """Submit a job that claims to come of another token, and begin it; return it and its attempt's token."""
        spec = {"cmd": ["true"], "tags": {"zbrain.token": other["id"], "of": "bob"}}
        job = (await api.post("jobs", json=spec, headers=with_token(secret))).json()
        await api.post("workers/w/leases", json={"request_id": job["id"], "wait_secs": 5})
        return job, mint(job["id"], 1)

    _, by_login = await run(owner.token)
    job, first = await run(stolen["secret"])
    child, second = await run(first)
    assert job["spec"]["tags"] == child["spec"]["tags"] == {"zbrain.token": stolen["id"], "of": "bob"}
    url = f"ws{owner.url.removeprefix('http')}zbrain/api/events?topics=orgs/default"
    async with ws_connect(url, additional_headers=with_token(second), proxy=None) as socket:
        assert (await api.delete(f"tokens/{stolen['id']}")).status_code == 200
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(5):
                while True:
                    await socket.recv()
    for secret in (first, second):
        assert await codes(api, secret, ("GET", "jobs"), ("POST", "jobs")) == [401, 401]
    await api.delete(f"tokens/{other['id']}")
    assert await codes(api, by_login, ("GET", "jobs")) == [200]


async def test_repeated_job_is_of_the_login_that_repeats_it(api: httpx.AsyncClient) -> None:
    token = await make(api, owner="bob")
    job = (await api.post("jobs", json={"cmd": ["true"]}, headers=with_token(token["secret"]))).json()
    assert job["spec"]["tags"] == {"zbrain.token": token["id"]}
    await api.post(f"jobs/{job['id']}/cancel")
    assert (await api.post(f"jobs/{job['id']}/retry?others=1")).json()["spec"]["tags"] == {}


async def test_key_is_the_same_jobs_when_the_token_was_replaced(api: httpx.AsyncClient) -> None:
    first, second = [with_token((await make(api, owner="bob"))["secret"]) for _ in range(2)]
    wanted = {"cmd": ["true"], "idempotency_key": "k"}
    made = await api.post("jobs", json=wanted, headers=first)
    known = await api.post("jobs", json=wanted, headers=second)
    assert (made.status_code, known.status_code) == (201, 200)
    assert made.json()["id"] == known.json()["id"]


async def test_token_that_expires_ends_the_socket_that_is_open_with_it(
    api: httpx.AsyncClient, host: Host, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = (await make(api, expires_in_secs=3600))["secret"]
    assert host.context is not None
    tokens = host.context.tokens
    later = tokens.now() + dt.timedelta(seconds=3601)
    url = f"ws{owner.url.removeprefix('http')}zbrain/api/events?topics=orgs/default"
    async with ws_connect(url, additional_headers=with_token(secret), proxy=None) as socket:
        monkeypatch.setattr(tokens, "now", lambda: later)
        tokens.sweep()
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(5):
                while True:
                    await socket.recv()
    assert await codes(api, secret, ("GET", "jobs")) == [401]
    assert [one["state"] for one in (await api.get("tokens")).json()["tokens"]] == ["expired"]


async def test_tokens_are_listed_in_pages(api: httpx.AsyncClient) -> None:
    made = [(await make(api, label=str(n)))["id"] for n in range(5)]
    found, cursor = [], None
    while True:
        page = (await api.get("tokens", params={"limit": 2, **({"cursor": cursor} if cursor else {})})).json()
        found += [one["id"] for one in page["tokens"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == made[::-1]


async def test_no_secret_is_in_the_log_whatever_is_done_with_it(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, host: Host, owner: Owner
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = (await make(api))["secret"]
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    for each in (secret, wrong):
        await codes(api, each, ("GET", "jobs"), ("POST", "jobs"), ("GET", "nothing"), ("PUT", f"blobs/{'0' * 64}"))
        await api.get(f"jobs?token={each}", headers=with_token(each))
        await api.get("jobs", headers={"Authorization": f"Basic {each}"})
    await api.delete(f"tokens/{(await api.get('tokens')).json()['tokens'][0]['id']}")
    await host.stop()
    everything = [(one.name, f"{one.getMessage()} {vars(one)}") for one in caplog.records]
    said = "\n".join(text for name, text in everything if not name.startswith(("httpx", "httpcore")))
    assert any(secret in text for _, text in everything)  # what this client itself logs: all loggers are heard
    for each in (secret, wrong, owner.token):
        assert each[4:] not in said


async def test_made_token_is_durable_before_it_is_shown(api: httpx.AsyncClient, host: Host) -> None:
    made = await make(api)
    assert host.context is not None
    rows = await host.context.queue.storage.read(
        lambda cursor: cursor.execute("SELECT id, epoch(expires_at) FROM tokens").fetchall()
    )
    expires_at = dt.datetime.fromisoformat(made["expires_at"]).timestamp()
    assert rows == [(made["id"], pytest.approx(expires_at, abs=0.001))]
