"""Many people, one queue: a real JupyterHub, its login in a browser, and the servers of its users.

Alice and bob are of one group, carol is of another. Alice and carol have servers; bob has none.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.hub.hub import PASSWORD, Hub
from tests.server.test_isolation import ASKED, UNKNOWN, Ids, cases, told, wording
from zbrain_nb.model.datadir import DataDir, read_upstream
from zbrain_nb.model.ids import new_id
from zbrain_nb.server.hub.proving import service_key

DEADLINE_SECS = 30
#: What tells alice no more of what she has than of what nobody has: there are no tokens on a Hub, her job was not
#: cached, and it left neither result nor variables.
SILENT = {
    ("get", "tokens"),
    ("post", "tokens"),
    ("delete", "tokens/{token_id}"),
    ("get", "cached/{cache_key}"),
    ("head", "jobs/{job_id}/inputs/{name}"),  # those are for who leases it
    ("head", "jobs/{job_id}/result"),
    ("head", "jobs/{job_id}/variables/{name}"),
}
COMMAND = ["sh", "-c", 'echo "$USER"; echo kept > kept.txt; echo 6 > "$ZBRAIN_OUTPUT"']


@pytest.fixture(scope="module")
def servers(hub: Hub) -> Hub:
    hub.start_servers("alice", "carol")
    return hub


def wait_until(holds: Callable[[], Any], secs: float = DEADLINE_SECS) -> Any:
    """Return what `holds` returned, once that is true."""
    deadline = time.monotonic() + secs
    while not (found := holds()):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # another process, behind a proxy: there is no event to wait for
    return found


def submit(client: httpx.Client, **spec: Any) -> dict[str, Any]:
    answer = client.post("jobs", json={"cmd": COMMAND, "artifacts": ["kept.txt"], **spec})
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


def upload(client: httpx.Client, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    assert client.put(f"blobs/{sha256}", content=content).status_code == 201
    return sha256


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    def look() -> Any:
        job = client.get(f"jobs/{job_id}").json()
        return job if job["state"] in ("succeeded", "failed", "canceled") else None

    job: dict[str, Any] = wait_until(look)
    return job


def test_service_admits_tokens_of_the_hub_that_open_it_and_no_others(hub: Hub) -> None:
    def status(token: str) -> int:
        headers = {"Authorization": f"token {token}"} if token else {}
        url = f"{hub.url}services/zbrain/zbrain/api/jobs"
        return httpx.get(url, headers=headers, trust_env=False, timeout=30).status_code

    narrow = hub.token_of("alice", "read:users!user=alice")
    tokens = "", "0" * 32, narrow, hub.token, hub.token_of("alice")
    assert [status(token) for token in tokens] == [401, 401, 403, 403, 200]


def test_jobs_run_beside_the_server_of_their_owner_and_nobody_elses(servers: Hub) -> None:
    with servers.client("alice", at="alice") as alice, servers.client("bob") as bob, servers.client("carol") as carol:
        waits = submit(bob, org_id="physics")
        for client, name, org in ((alice, "alice", "physics"), (alice, "alice", None), (carol, "carol", "chemistry")):
            job = ended(client, submit(client, org_id=org)["id"])
            assert (job["state"], job["owner"], job["org_id"]) == ("succeeded", name, org or f"~{name}")
            assert client.get(f"jobs/{job['id']}/logs").json()["entries"][0]["line"] == name
            assert (servers.data_of(name) / "hub-worker" / "id").read_text() == job["worker_id"]
        # bob has no server: alice's worker, of the same org and idle, leaves his job alone
        assert bob.get(f"jobs/{waits['id']}").json()["state"] == "pending"
        assert bob.post(f"jobs/{waits['id']}/cancel").json()["result"] == "canceled"


def test_users_servers_know_the_services_key(servers: Hub) -> None:
    upstream = read_upstream(servers.data_of("alice") / "hub-worker")
    assert upstream is not None
    assert upstream.key == service_key(servers.data)
    assert "ZBRAIN_HUB_KEY is not set" not in servers.log()


def test_an_org_sees_its_jobs_and_for_others_nothing_is_there(servers: Hub) -> None:
    with servers.client("alice", at="alice") as alice, servers.client("bob") as bob, servers.client("carol") as carol:
        job_id = submit(alice, org_id="physics", name="physical", inputs={"secret": upload(alice, b"for physicists")})[
            "id"
        ]
        ended(alice, job_id)
        reads = ["", "/logs", "/outputs", "/attempts", "/result", "/artifacts", "/artifacts/kept.txt"]
        for path in reads:
            assert bob.get(f"jobs/{job_id}{path}").status_code in (200, 404), path
            assert bob.get(f"jobs/{job_id}{path}").status_code == alice.get(f"jobs/{job_id}{path}").status_code, path
        assert bob.get(f"jobs/{job_id}/artifacts/kept.txt").text == "kept\n"
        unknown = new_id()
        for path in [*reads, "/inputs/secret", "/variables/x"]:
            answer, as_unknown = carol.get(f"jobs/{job_id}{path}"), carol.get(f"jobs/{unknown}{path}")
            assert answer.status_code == 404, path
            assert answer.text.replace(job_id, unknown) == as_unknown.text, path
        for verb in ("cancel", "retry"):
            assert carol.post(f"jobs/{job_id}/{verb}").status_code == 404
        assert carol.post("jobs/lookup", json={"ids": [job_id]}).json()["jobs"] == []
        assert "physical" not in carol.get("jobs?limit=1000").text
        assert carol.get("jobs?org=physics").json()["jobs"] == []
        for table in ("jobs", "attempts", "logs", "events"):
            assert job_id.encode() not in carol.get(f"history?table={table}").content
        assert carol.post("jobs", json={"cmd": ["true"], "org_id": "physics"}).status_code == 403


def test_no_route_tells_another_group_what_is_there(servers: Hub) -> None:
    """Every request of every method of every route that names an id, as `test_isolation` lists them."""
    with servers.client("alice") as alice, servers.client("carol") as carol:
        spec = {"name": "red-job", "org_id": "physics", "tags": {"team": "red-tag"}, "artifacts": ["red-job.bin"]}
        spec["inputs"] = {"red-job.bin": upload(alice, b"for physicists, from alice")}
        found = []
        for secs in (0, 600):
            command = ["sh", "-c", f"echo red-line | tee red-job.bin; sleep {secs}"]
            found.append(submit(alice, **spec | {"cmd": command, "idempotency_key": f"red-key-{secs}"})["id"])
        worker = ended(alice, found[0])["worker_id"]
        wait_until(lambda: alice.get(f"jobs/{found[1]}").json()["state"] == "running")
        sha256 = spec["inputs"]["red-job.bin"]
        red = Ids(found[1], found[0], worker, "physics", "red-job", key="red-key-600", sha256=sha256)
        secrets = re.compile("|".join(("physics", "alice", "red-job", "red-line", "red-tag", worker)))
        telling = set()
        for method, route, asked in (each.values for each in cases()):
            unknown = replace(UNKNOWN, key=new_id())
            foreign = carol.request(**wording(method, route, asked, red))
            nobodys = carol.request(**wording(method, route, asked, unknown))
            assert told(foreign, red) == told(nobodys, unknown), f"{method} {route}"
            assert not secrets.search(red.hide(foreign.text)), f"{method} {route}"
            own = alice.request(**wording(method, route, asked, red))
            if told(own, red) != told(alice.request(**wording(method, route, asked, unknown)), unknown):
                telling.add((method, route))
        active = [job["id"] for job in alice.get("jobs?limit=1000").json()["jobs"] if job["finished_at"] is None]
        alice.post("jobs/cancel", json={"ids": active})  # what was asked for again would hold the slots of her worker
        assert {place for place, asked in ASKED.items() if asked} - telling == SILENT


def test_knowing_a_hash_gives_nothing_to_another_org_or_another_member(servers: Hub) -> None:
    with servers.client("alice", at="alice") as alice, servers.client("bob") as bob, servers.client("carol") as carol:
        sha256 = upload(alice, b"what one person put there")
        assert [client.head(f"blobs/{sha256}").status_code for client in (alice, bob, carol)] == [200, 404, 404]
        wanted = {"cmd": ["true"], "inputs": {"stolen": sha256}}
        assert [client.post("jobs", json=wanted).status_code for client in (bob, carol)] == [409, 409]


def test_members_and_operators_do_what_their_roles_allow(servers: Hub) -> None:
    with servers.client("alice") as alice, servers.client("bob") as bob:
        of_bob = submit(bob, org_id="physics", priority=-1000, after=[])["id"]
        assert alice.post(f"jobs/{of_bob}/cancel").status_code == 403
        of_alice = submit(alice, org_id="physics", resources={"cpus": 10_000})["id"]
        assert bob.post(f"jobs/{of_alice}/cancel").json()["result"] == "canceled"  # by `leads=operator`
        bob.post(f"jobs/{of_bob}/cancel")


def listen(hub: Hub, user: str, topics: str, at: str = "") -> Any:
    root = f"user/{at}" if at else "services/zbrain"
    url = f"ws{hub.url.removeprefix('http')}{root}/zbrain/api/events?topics={topics}"
    return connect(url, additional_headers={"Authorization": f"token {hub.token_of(user)}"}, proxy=None)


def test_events_come_through_the_relay_and_to_members_only(servers: Hub) -> None:
    with servers.client("alice", at="alice") as alice, servers.client("carol") as carol:
        with listen(servers, "alice", "orgs/physics", at="alice") as socket:
            job_id = submit(alice, org_id="physics")["id"]
            seen: list[Any] = []
            while not any(event["job_id"] == job_id and event["kind"] == "job_completed" for event in seen):
                seen += json.loads(socket.recv(DEADLINE_SECS))
        # to others an org and its jobs are as silent as such as do not exist
        with listen(servers, "carol", f"jobs/{job_id},orgs/physics") as socket:
            ended(alice, submit(alice, org_id="physics")["id"])
            assert carol.post("jobs", json={"cmd": ["true"], "resources": {"cpus": 10_000}}).status_code == 201
            with pytest.raises(TimeoutError):
                socket.recv(1)


def test_relay_speaks_for_nobody_but_the_owner_of_its_server(servers: Hub) -> None:
    root = f"{servers.url}user/alice/"
    bob = {"Authorization": f"token {servers.token_of('bob')}"}
    assert httpx.get(f"{root}api/status", headers=bob, trust_env=False).status_code == 200  # he may use her server
    refused = httpx.get(f"{root}zbrain/api/jobs", headers=bob, trust_env=False)
    assert refused.status_code == 403
    assert "speaks to the queue for alice alone" in refused.json()["error"]["message"]
    carol = {"Authorization": f"token {servers.token_of('carol')}"}
    assert httpx.get(f"{root}zbrain/api/jobs", headers=carol, trust_env=False).status_code in (401, 403)
    assert httpx.get(f"{root}zbrain/api/jobs", trust_env=False).status_code in (401, 403)


def test_member_who_was_removed_sees_no_more_and_is_told_why(servers: Hub, page: Page) -> None:
    with servers.client("alice", at="alice") as alice, servers.client("bob") as bob:
        job_id = submit(alice, org_id="physics")["id"]
        ended(alice, job_id)
        log_in(page, f"{servers.url}services/zbrain/", "bob")
        page.get_by_label("Organisation").select_option("physics")
        expect(page.locator(".zb-live")).to_have_text("Live")
        with listen(servers, "bob", "orgs/physics") as socket:
            assert bob.get(f"jobs/{job_id}").status_code == 200
            servers.api.request("DELETE", "groups/physics/users", json={"users": ["bob"]}).raise_for_status()
            try:
                wait_until(lambda: bob.get(f"jobs/{job_id}").status_code == 404)
                assert bob.get("jobs?org=physics").json()["jobs"] == []
                ended(alice, submit(alice, org_id="physics")["id"])
                with pytest.raises(ConnectionClosed):
                    socket.recv(DEADLINE_SECS)
                said = "You are not a member of physics any more."
                assert (socket.close_code, socket.close_reason) == (4403, said)
                expect(page.get_by_text(said)).to_be_visible()
                page.get_by_label("Organisation").select_option("~bob")
                expect(page.locator(".zb-live")).to_have_text("Live")
                expect(page.get_by_text(said)).to_be_hidden()
            finally:
                servers.api.post("groups/physics/users", json={"users": ["bob"]}).raise_for_status()


def test_jobs_of_who_was_removed_are_worth_nothing_in_the_org_though_a_pool_runs_them(hub: Hub) -> None:
    with hub.client("bob") as bob, hub.client("alice") as alice, hub.client("bob") as pool, hub.client("bob") as job:
        pool.headers["Authorization"] = f"token {DataDir(hub.data).token()}"
        wanted = {"kind": "worker", "roles": {"physics": "viewer"}, "pool": "big", "jobs_of": "*"}
        pool.headers["Authorization"] = f"token {pool.post('tokens', json=wanted).json()['secret']}"
        assert pool.post("workers", json={"id": "p", "kind": "big"}).status_code == 201
        runs, waits = [submit(bob, org_id="physics", worker="big")["id"] for _ in range(2)]
        ask = {"request_id": "1", "limit": 1, "wait_secs": 10}
        (lease,) = pool.post("workers/p/leases", json=ask).json()["leases"]
        job.headers["Authorization"] = f"token {lease['token']}"
        assert job.get(f"jobs/{runs}").status_code == 200
        hub.api.request("DELETE", "groups/physics/users", json={"users": ["bob"]}).raise_for_status()
        try:
            wait_until(lambda: job.get(f"jobs/{runs}").status_code == 401)
            assert job.post("jobs", json={"cmd": ["true"], "org_id": "physics"}).status_code == 401
            answer = pool.post("workers/p/leases", json={"request_id": "2", "limit": 1, "wait_secs": 0})
            assert answer.json()["leases"] == []
            canceled = alice.get(f"jobs/{waits}").json()
            assert canceled["state"] == "canceled"
            assert canceled["reason"] == "bob may not have jobs run in the org physics any more."
        finally:
            hub.api.post("groups/physics/users", json={"users": ["bob"]}).raise_for_status()


def test_nobody_makes_a_token_that_would_outlive_the_account_or_its_groups(hub: Hub) -> None:
    with hub.client("dora") as dora, hub.client("dora") as holder:
        assert dora.get("whoami").json()["roles"]["physics"] == "admin"
        holder.headers["Authorization"] = f"token {DataDir(hub.data).token()}"
        made = {}
        for kind, role in {"person": "submitter", "worker": "viewer", "admin": "admin"}.items():
            wanted = {"kind": kind, "roles": {"physics": role}}
            refused = dora.post("tokens", json=wanted)
            assert (refused.status_code, refused.json()["error"]["message"]) == (
                403,
                "On JupyterHub only who holds the service's data directory makes tokens.",
            )
            made[kind] = holder.post("tokens", json=wanted).json()
        # nor by way of one that the holder made
        dora.headers["Authorization"] = f"token {made['admin']['secret']}"
        assert dora.post("tokens", json={"kind": "admin", "roles": {"physics": "admin"}}).status_code == 403
        for token in made.values():
            assert holder.delete(f"tokens/{token['id']}").status_code == 200


def run_cell(hub: Hub, user: str, code: str) -> str:
    """Run code in a new kernel of the user's own server; return what it printed."""
    root, headers = f"{hub.url}user/{user}/", {"Authorization": f"token {hub.token_of(user)}"}
    with httpx.Client(base_url=f"{root}api/", headers=headers, trust_env=False, timeout=30) as http:
        kernel = http.post("kernels", json={"name": "python3"}).json()["id"]
        url = f"ws{root.removeprefix('http')}api/kernels/{kernel}/channels"
        with connect(url, additional_headers=headers, proxy=None) as socket:
            header = {
                "msg_id": new_id(),
                "msg_type": "execute_request",
                "session": new_id(),
                "username": "",
                "version": "5",
            }
            content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
            request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
            socket.send(json.dumps(request))
            printed = ""
            while True:
                message = json.loads(socket.recv(DEADLINE_SECS))
                if message["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                if message["msg_type"] == "stream":
                    printed += message["content"]["text"]
                if message["msg_type"] == "execute_reply":
                    assert message["content"]["status"] == "ok", message["content"]
                    break
        http.delete(f"kernels/{kernel}")
        return printed


def test_kernel_submits_through_its_own_server_with_a_token_that_opens_nothing_else(servers: Hub) -> None:
    code = """
import os, zbrain_nb
job = zbrain_nb.connect().submit(code="6 * 7", org_id="physics")
print(job.result(timeout=30), job.id, os.environ["ZBRAIN_URL"], os.environ["ZBRAIN_TOKEN"])
"""
    result, job_id, url, token = run_cell(servers, "alice", code).split()
    assert result == "42"
    with servers.client("bob") as bob:
        assert bob.get(f"jobs/{job_id}").json()["owner"] == "alice"
    kernel = {"Authorization": f"token {token}"}
    assert httpx.get(f"{url}zbrain/api/jobs", headers=kernel, trust_env=False).status_code == 200
    assert httpx.get(f"{url}api/contents", headers=kernel, trust_env=False).status_code in (302, 403)
    service = f"{servers.url}services/zbrain/zbrain/api/jobs"
    assert httpx.get(service, headers=kernel, trust_env=False).status_code == 401


def log_in(page: Page, url: str, user: str) -> None:
    """Open an address of the Hub as a stranger, and go through the login that comes first."""
    page.goto(url)
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Filter jobs")).to_be_visible()


def row(page: Page, name: str) -> Locator:
    return page.locator(".zb-jobs tbody tr").filter(has=page.get_by_role("link", name=name, exact=True))


def test_people_log_in_at_the_hub_and_watch_their_orgs_live(servers: Hub, page: Page, browser: Browser) -> None:
    with servers.client("alice", at="alice") as alice:
        submit(alice, org_id="physics", name="for bob to see")
        log_in(page, f"{servers.url}services/zbrain/", "bob")
        page.get_by_label("Organisation").select_option("physics")
        expect(row(page, "for bob to see")).to_be_visible()
        expect(page.locator(".zb-live")).to_have_text("Live")
        later = submit(alice, org_id="physics", name="as it comes", resources={"cpus": 10_000})["id"]
        expect(row(page, "as it comes")).to_be_visible()
        page.goto(f"{servers.url}services/zbrain/zbrain/jobs/{later}")
        page.get_by_role("button", name="Cancel").click()
        wait_until(lambda: alice.get(f"jobs/{later}").json()["state"] == "canceled")

        # other people's servers are the same origin: a page of theirs has the cookie, but not the XSRF token
        api = f"{servers.url}services/zbrain/zbrain/api/"
        attack = """async (api) => {
            const read = await fetch(`${api}jobs`);
            const act = await fetch(`${api}jobs`, {method: "POST", body: '{"cmd": ["true"]}'});
            const heard = await new Promise((resolve) => {
                const socket = new WebSocket(`${api.replace(/^http/, "ws")}events?topics=orgs/physics`);
                socket.onopen = () => resolve(true);
                socket.onerror = () => resolve(false);
            });
            return [read.status, act.status, heard];
        }"""
        assert page.evaluate(attack, api) == [403, 403, False]
        shown = page.request.get(f"{servers.url}services/zbrain/zbrain")
        assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]

        context = browser.new_context()
        other = context.new_page()
        log_in(other, f"{servers.url}services/zbrain/zbrain", "carol")
        expect(other.get_by_label("Organisation").locator("option", has_text="physics")).to_have_count(0)
        other.goto(f"{servers.url}services/zbrain/zbrain/jobs/{later}")
        expect(other.get_by_text("The server does not know this job.")).to_be_visible()
        context.close()


def test_console_of_ones_own_server_reads_and_acts_behind_the_hubs_login(servers: Hub, page: Page) -> None:
    with servers.client("alice", at="alice") as alice:
        job_id = submit(alice, org_id="physics", name="mine", resources={"cpus": 10_000})["id"]
        log_in(page, f"{servers.url}user/alice/zbrain", "alice")
        page.get_by_label("Organisation").select_option("physics")
        expect(page.locator(".zb-live")).to_have_text("Live")
        row(page, "mine").get_by_role("link").first.click()
        page.get_by_role("button", name="Cancel").click()
        wait_until(lambda: alice.get(f"jobs/{job_id}").json()["state"] == "canceled")
