"""The relay: the host under Jupyter's URL, behind its login."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import zstandard
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.jupyter import Lab
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.history import END_OF_STREAM, MEDIA_TYPE

pytestmark = pytest.mark.anyio


def open_files(pid: int) -> Iterator[str]:
    """Yield the names of what a process has open; what it closes meanwhile is left out."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(file)


@pytest.fixture
def base(jupyter: Lab) -> str:
    return f"{jupyter.url}zbrain/api/"


@pytest.fixture
def login(jupyter: Lab) -> dict[str, str]:
    return {"Authorization": f"token {jupyter.token}"}


@pytest.fixture
def kernel(jupyter: Lab) -> dict[str, str]:
    return {"Authorization": f"token {DataDir(jupyter.data).token()}"}


async def test_relay_admits_login_and_kernel_token_and_nobody_else(
    base: str, login: dict[str, str], kernel: dict[str, str]
) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        for headers in (login, kernel):
            made = await http.post("jobs", json={"cmd": ["true"]}, headers=headers)
            assert made.status_code == 201, made.text
            assert (await http.get(f"jobs/{made.json()['id']}", headers=headers)).status_code == 200
        assert len((await http.get("jobs", headers=login)).json()["jobs"]) == 2
    for headers in ({}, {"Authorization": "token wrong"}):
        async with httpx.AsyncClient(base_url=base, trust_env=False, headers=headers) as stranger:
            for method, path in (("GET", "jobs"), ("POST", "jobs"), ("PUT", f"blobs/{'0' * 64}")):
                refused = await stranger.request(method, path, content=b"x" if method != "GET" else None)
                assert refused.status_code in (401, 403), (method, path, refused.text)


async def test_relay_passes_the_history_on_as_it_comes(base: str, kernel: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        answer = await http.get("history?table=jobs")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, MEDIA_TYPE)
        assert answer.content.endswith(END_OF_STREAM)


async def test_relay_passes_on_the_document_which_names_it_as_the_server(base: str, kernel: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        answer = await http.get("openapi.json")
        (server,) = answer.json()["servers"]
        assert answer.url.join(server["url"]) == httpx.URL(base)


async def test_relay_keeps_a_token_in_the_query_to_jupyter(base: str, kernel: dict[str, str]) -> None:
    """The host takes no such argument."""
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        assert (await http.get("jobs?token=secret&limit=1")).status_code == 200
        refused = await http.get("jobs?limits=1&token=secret")
        assert (refused.status_code, "'limits'" in refused.json()["error"]["message"]) == (400, True)


async def test_audit_says_whose_login_the_relay_lent_its_token_to(
    base: str, login: dict[str, str], kernel: dict[str, str]
) -> None:
    job = {"cmd": ["true"], "worker": "nobody's"}
    forged = {**login, "ZBrain-Login": "bob"}
    async with httpx.AsyncClient(base_url=base, trust_env=False) as http:
        ids = [(await http.post("jobs", headers=by, json=job)).json()["id"] for by in (login, forged, kernel)]
        said: dict[str, str] = {}
        while not said.keys() >= set(ids):  # it is written a moment later
            records = (await http.get("audit?verb=submit", headers=login)).json()["records"]
            said = {record["object_id"]: record.get("reason", "") for record in records}
    assert [said[job_id] for job_id in ids] == [*["Jupyter's login of ann \u2013 of the lab"] * 2, ""]


async def test_relay_kernel_token_opens_nothing_of_jupyter(jupyter: Lab, kernel: dict[str, str]) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{jupyter.url}api/contents", headers=kernel)).status_code == 403


async def test_relay_lets_tokens_through_as_what_they_are_and_lends_them_nothing(
    jupyter: Lab, base: str, kernel: dict[str, str]
) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        made = await http.post("tokens", json={"owner": "bob", "roles": {"lab": "submitter"}}, headers=kernel)
        assert made.status_code == 201, made.text
        secret = made.json()["secret"]
        as_bob = {"Authorization": f"Bearer {secret}"}
        job = (await http.post("jobs", json={"cmd": ["true"]}, headers=as_bob)).json()
        assert (job["owner"], job["org_id"]) == ("bob", "lab")
        listed = (await http.get("jobs", headers=as_bob)).json()["jobs"]
        assert [one["id"] for one in listed] == [job["id"]]
        assert (await http.get("metrics", headers=as_bob)).status_code == 403
        assert (await http.get(f"{jupyter.url}api/contents", headers=as_bob)).status_code == 403
        page = await http.get(f"{jupyter.url}zbrain", headers=as_bob)
        assert page.status_code == 302 and "login" in page.headers["Location"]
        url = f"ws{base.removeprefix('http')}events?topics=jobs/{job['id']}"
        async with connect(url, additional_headers=as_bob, proxy=None) as socket:
            gone = await http.delete(f"tokens/{made.json()['id']}", headers=kernel)
            assert (gone.status_code, gone.json()["state"]) == (200, "revoked")
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 20)
            assert (socket.close_code, socket.close_reason[:9]) == (1008, "The token")
        assert (await http.get("jobs", headers=as_bob)).status_code == 401
        with pytest.raises(InvalidStatus):
            await connect(url, additional_headers=as_bob, proxy=None)


async def test_relay_passes_bodies_statuses_and_ranges_both_ways(base: str, kernel: dict[str, str]) -> None:
    data = os.urandom(3_000_000)
    digest = hashlib.sha256(data).hexdigest()
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        assert (await http.head(f"blobs/{digest}")).status_code == 404
        assert (await http.put(f"blobs/{digest}", content=data)).status_code == 201
        assert (await http.head(f"blobs/{digest}")).headers["Content-Length"] == "3000000"
        assert (await http.put(f"blobs/{'0' * 64}", content=data)).status_code == 422
        assert (await http.post("jobs", json={"cmd": []})).json()["error"]["field"] == "cmd"
        await http.post("workers", json={"id": "w"})
        made = (await http.post("jobs", json={"cmd": ["a"], "inputs": {"x": digest}})).json()
        await http.post("workers/w/leases", json={"request_id": "r", "wait_secs": 5, "limit": 100})
        part = await http.get(f"jobs/{made['id']}/inputs/x", headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, data[5:10])
        assert (await http.get(f"jobs/{made['id']}/inputs/x")).content == data


async def test_relay_takes_any_name_that_the_host_takes(jupyter: Lab, base: str, kernel: dict[str, str]) -> None:
    names = ["a b.txt", "ü.txt", "h#1.txt", "q?x.txt", "100%41.txt", "sub/a+b;c.txt"]
    digest = hashlib.sha256(b"kept").hexdigest()
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        await http.put(f"blobs/{digest}", content=b"kept")
        await http.post("workers", json={"id": "n"})
        made = (await http.post("jobs", json={"cmd": ["a"], "org_id": "ä b?"})).json()
        leases = {"request_id": "names", "wait_secs": 5, "limit": 100, "org_id": "ä b?"}
        await http.post("workers/n/leases", json=leases)
        kept = [{"name": name, "sha256": digest, "size": 4} for name in names]
        variable = {"name": "größe", "sha256": digest, "size": 4, "type": "bytes", "summary": "kept"}
        ended = {"type": "completed", "job_id": made["id"], "attempt": 1, "worker_seq": 1}
        ended |= {"artifacts": kept, "variables": [variable]}
        told = await http.post("workers/n/events", json={"events": [ended]})
        assert told.status_code == 200, told.text
        for path in [*(f"artifacts/{quote(name)}" for name in names), f"variables/{quote('größe')}"]:
            answer = await http.get(f"jobs/{made['id']}/{path}")
            assert (answer.status_code, answer.content) == (200, b"kept"), (path, answer.text)
        paused = await http.post(f"queues/{quote('ä b?', safe='')}/command/pause")
        assert (paused.status_code, paused.json()["org_id"]) == (200, "ä b?")


async def test_relay_passes_a_compressed_upload_as_it_is(base: str, kernel: dict[str, str]) -> None:
    data = b"compressed on its way " * 100_000
    digest = hashlib.sha256(data).hexdigest()
    headers = {"Content-Encoding": "zstd", "Upload-Length": str(len(data))}
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        packed = zstandard.ZstdCompressor().compress(data)
        assert (await http.put(f"blobs/{digest}", content=packed, headers=headers)).status_code == 201
        assert (await http.head(f"blobs/{digest}")).headers["Content-Length"] == str(len(data))


async def test_relay_names_no_files_of_the_disk_to_the_host(jupyter: Lab, base: str, login: dict[str, str]) -> None:
    data = b"laid beside the blobs"
    digest = hashlib.sha256(data).hexdigest()
    incoming = DataDir(jupyter.data).artifacts / "incoming"
    incoming.mkdir(parents=True, exist_ok=True)
    (incoming / "upload-laid").write_bytes(data)
    async with httpx.AsyncClient(base_url=base, trust_env=False, headers=login) as http:
        assert (await http.put(f"blobs/{digest}?file=upload-laid", content=b"x")).status_code == 404
        assert (await http.head(f"blobs/{digest}")).status_code == 404


async def test_relay_answers_404_off_its_list(base: str, kernel: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, headers=kernel) as http:
        for path in ("nothing", "jobs/x", "jobs/%2e%2e/health", "https://evil.example/"):
            answer = await http.get(f"{base}{path}")
            assert answer.status_code == 404, path
            assert answer.json()["error"]["code"] == "not_found"


async def test_relay_events_reach_the_kernel_and_refuse_strangers(base: str, kernel: dict[str, str]) -> None:
    url = f"ws{base.removeprefix('http')}events"
    async with httpx.AsyncClient(base_url=base, trust_env=False, headers=kernel) as http:
        made = (await http.post("jobs", json={"cmd": ["true"]})).json()
        async with connect(f"{url}?topics=jobs/{made['id']}", additional_headers=kernel, proxy=None) as socket:
            await http.post(f"jobs/{made['id']}/cancel")
            assert "job_canceled" in str(await socket.recv())
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, proxy=None)
        assert refused.value.response.status_code in (401, 403)
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, additional_headers={"Origin": "http://evil.example"}, proxy=None)
        assert refused.value.response.status_code in (401, 403)


async def test_relay_hands_on_who_waits_and_that_it_is_detached(base: str, kernel: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, headers=kernel) as http:
        made = (await http.post("jobs", json={"cmd": ["true"], "cache_key": "a" * 64})).json()
        url = f"ws{base.removeprefix('http')}events?topics=jobs/{made['id']}&waits=1"
        assert (await http.post(f"jobs/{made['id']}/detach")).json()["detached"] == 0
        async with connect(url, additional_headers=kernel, proxy=None) as socket:
            assert (await http.get(f"jobs/{made['id']}")).json()["waiting"] == 1
            answer = await http.post(f"jobs/{made['id']}/detach")
            assert (answer.status_code, answer.json()["detached"], answer.json()["job"]["id"]) == (200, 1, made["id"])
            assert json.loads(await socket.recv())[0]["kind"] == "detached"
        await http.post(f"jobs/{made['id']}/cancel")
        assert (await http.post(f"jobs/{made['id']}/detach")).json()["job"]["state"] == "canceled"
        assert (await http.post("jobs/01936b1e-0000-7000-8000-000000000000/detach")).status_code == 404
        absent = await http.get(f"cached/{'a' * 64}")
        assert (absent.status_code, absent.json()["error"]["code"]) == (404, "not_found")


async def test_relay_starts_another_host_when_the_first_is_killed(
    base: str, kernel: dict[str, str], jupyter: Lab
) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, headers=kernel, timeout=60) as http:
        made = (await http.post("jobs", json={"cmd": ["true"]})).json()
        first = DataDir(jupyter.data).read_owner()
        assert first is not None
        os.kill(first.pid, 9)
        assert (await http.get(f"jobs/{made['id']}")).json()["state"] == "pending"
        second = DataDir(jupyter.data).read_owner()
        assert second is not None
        assert second.instance != first.instance


async def test_relay_upload_that_broke_off_goes_on_where_it_was(
    jupyter: Lab, base: str, kernel: dict[str, str]
) -> None:
    """The host hears at once that the sender is gone, though it is the relay that speaks to it."""
    data = os.urandom(6_000_000)
    path = f"blobs/{hashlib.sha256(data).hexdigest()}"

    async def some() -> AsyncIterator[bytes]:
        yield data[:2_000_000]
        yield data[2_000_000:3_000_000]
        raise ConnectionAbortedError

    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        with pytest.raises(ConnectionAbortedError):
            await http.put(path, content=some(), headers={"Content-Length": str(len(data))})
        async with asyncio.timeout(10):
            while int((await http.head(path)).headers.get("Upload-Offset", 0)) < 3_000_000:
                await asyncio.sleep(0.02)
            owner = DataDir(jupyter.data).read_owner()
            assert owner is not None
            while any("part-" in name for name in open_files(owner.pid)):
                await asyncio.sleep(0.02)
        wrong = await http.put(path, content=b"x", headers={"Upload-Offset": "7"})
        assert (wrong.status_code, wrong.headers["Upload-Offset"]) == (409, "3000000")
        done = await http.put(path, content=data[3_000_000:], headers={"Upload-Offset": "3000000"})
        assert done.status_code == 201
        assert (await http.head(path)).headers["Content-Length"] == "6000000"


async def test_relay_upload_refused_by_the_host_before_it_is_whole_is_answered(
    base: str, kernel: dict[str, str]
) -> None:
    data = bytes(32_000_000)  # more than any buffer on the way holds
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30, headers=kernel) as http:
        try:
            refused = await http.put(f"blobs/{'1' * 64}", content=data, headers={"Upload-Offset": "5"})
            assert refused.status_code in (409, 503)
        except httpx.TransportError:
            pass  # it was closed while it still sent; what matters is that it does not wait for ever
