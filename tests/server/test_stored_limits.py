"""The limit of stored bytes over HTTP: asked before the body, and never of a worker that sends what a job left."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.server.test_blob_access import Headers, lease, token
from tests.server.tokens import make, with_token
from zbrain_nb.client.locating import Endpoint
from zbrain_nb.client.transport import Transport
from zbrain_nb.client.uploading import upload
from zbrain_nb.model.datadir import Owner
from zbrain_nb.model.errors import OverQuota
from zbrain_nb.model.protocol import LENGTH_HEADER, OFFSET_HEADER
from zbrain_nb.model.quotas import Quota
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
MIB = 1 << 20


@pytest.fixture
async def ann(host: Host, api: httpx.AsyncClient) -> Headers:
    assert (await api.post("orgs/lab/limits", json={"stored_bytes": 4 * MIB})).status_code == 200
    return await token(api, "ann")


def made(size: int) -> tuple[str, bytes]:
    data = os.urandom(size)
    return f"blobs/{hashlib.sha256(data).hexdigest()}", data


def in_use(host: Host) -> int:
    (use,) = host.context.queue.uses("lab", "ann")
    return use.used


async def ended(host: Host, used: int) -> None:
    """Wait until the host has noticed that senders are gone."""
    async with asyncio.timeout(10):
        while in_use(host) != used:
            await asyncio.sleep(0.01)


async def pieces(data: bytes, then: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(data), MIB):
        yield data[start : start + MIB]
    if then is not None:
        await then.wait()


async def test_upload_that_does_not_fit_is_refused_before_its_body(host: Host, owner: Owner, ann: Headers) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(owner.url).port)
    name, _ = made(1)
    head = f"PUT /zbrain/api/{name} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {ann['Authorization']}\r\n"
    writer.write(f"{head}Content-Length: {5 * MIB}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = (await reader.readuntil(b"\r\n\r\n") + await reader.readuntil(b"}}")).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 429 ")
    assert '"quota":"org_stored_bytes","limit":4194304,"used":0' in answer
    assert "Org 'lab' stores 0 KiB and cannot add 5 MiB: its limit is 4 MiB." in answer
    await ended(host, 0)
    assert list(host.context.queue.artifacts.folder.glob("incoming/*")) == []


async def test_what_fits_is_taken_and_the_refusal_of_a_small_body_is_read(
    host: Host, api: httpx.AsyncClient, ann: Headers
) -> None:
    first, data = made(4 * MIB - 10)
    assert (await api.put(first, content=data, headers=ann)).status_code == 201
    assert in_use(host) == 4 * MIB - 10
    second, data = made(11)
    refused = await api.put(second, content=data, headers=ann)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "over_quota")
    assert (await api.put(second, content=data)).status_code == 201  # by who holds the data directory
    assert (await api.get("overview?org=lab", headers=ann)).json()["quotas"] == [
        {"quota": "stored_bytes", "of": "org", "name": "lab", "limit": 4 * MIB, "used": 4 * MIB - 10}
    ]


@pytest.mark.parametrize("announced", [{}, {LENGTH_HEADER: "5"}], ids=["unannounced", "announced too little"])
async def test_body_that_turns_out_too_long_is_cut_off_and_leaves_nothing(
    host: Host, api: httpx.AsyncClient, ann: Headers, announced: Headers
) -> None:
    name, data = made(6 * MIB)
    answer = await api.put(name, content=pieces(data), headers=ann | announced)
    assert (answer.status_code, answer.json()["error"]["quota"]) == (429, "org_stored_bytes")
    await ended(host, 0)
    assert list(host.context.queue.artifacts.folder.glob("incoming/*")) == []
    name, data = made(3 * MIB)
    assert (await api.put(name, content=pieces(data), headers=ann)).status_code == 201
    assert in_use(host) == 3 * MIB


async def test_upload_under_way_holds_what_it_announced_until_it_breaks_off(
    host: Host, api: httpx.AsyncClient, ann: Headers
) -> None:
    first, data = made(3 * MIB)
    body = pieces(data[: 2 * MIB], asyncio.Event())
    sending = asyncio.ensure_future(api.put(first, content=body, headers=ann | {"Content-Length": str(3 * MIB)}))
    await ended(host, 3 * MIB)
    async with asyncio.timeout(10):
        while (await api.head(first, headers=ann)).headers.get(OFFSET_HEADER) != str(2 * MIB):
            await asyncio.sleep(0.01)
    second, other = made(2 * MIB)
    assert (await api.put(second, content=other, headers=ann)).status_code == 429
    sending.cancel()
    await ended(host, 2 * MIB)
    assert (await api.put(second, content=other, headers=ann)).status_code == 201
    rest = ann | {OFFSET_HEADER: str(2 * MIB)}
    assert (await api.put(first, content=data[2 * MIB :], headers=rest)).status_code == 429
    await api.post("orgs/lab/limits", json={"stored_bytes": 5 * MIB})
    assert (await api.put(first, content=data[2 * MIB :], headers=rest)).status_code == 201
    assert in_use(host) == 5 * MIB


async def test_worker_of_a_person_sends_what_its_job_left_over_the_limit(
    host: Host, api: httpx.AsyncClient, ann: Headers
) -> None:
    name, data = made(6 * MIB)
    assert (await api.put(f"{name}?worker=mine", content=data, headers=ann)).status_code == 429
    await api.post("jobs", json={"cmd": ["true"]}, headers=ann)
    job = await lease(api, "mine", ann)
    bob = await token(api, "bob")
    assert (await api.put(f"{name}?worker=mine", content=data, headers=bob)).status_code == 429
    assert (await api.put(f"{name}?worker=mine", content=data, headers=ann)).status_code == 201
    left = [{"name": "a", "sha256": name.removeprefix("blobs/"), "size": 6 * MIB}]
    event = {"type": "completed", "job_id": job["id"], "attempt": 1, "after": 0, "seq": 1, "artifacts": left}
    answer = await api.post("workers/mine/events", json={"events": [event]}, headers=ann)
    assert answer.json()["results"][0]["status"] == "ok", answer.text
    assert 6 * MIB < in_use(host) < 6 * MIB + 4096  # with the rows of the job
    refused = await api.post("jobs", json={"cmd": ["true"]}, headers=ann)
    assert (refused.status_code, refused.json()["error"]["quota"]) == (429, "org_stored_bytes")


async def test_worker_that_anybody_may_register_does_not_lift_the_limit(
    host: Host, api: httpx.AsyncClient, ann: Headers
) -> None:
    await api.post("jobs", json={"cmd": ["true"]}, headers=ann)
    await lease(api, "mine", ann)
    answers = []
    for _ in range(4):
        name, data = made(3 * MIB)
        answers.append(await api.put(f"{name}?worker=mine", content=data, headers=ann))
    assert [answer.status_code for answer in answers] == [201, 201, 413, 413]  # for good: a job's end waits for it
    assert "what jobs leave may go over it by as much again" in answers[-1].json()["error"]["message"]
    name, data = made(6 * MIB)
    assert (await api.put(f"{name}?worker=mine", content=pieces(data), headers=ann)).status_code == 413
    async with asyncio.timeout(10):
        while not 6 * MIB < in_use(host) < 6 * MIB + 4096:
            await asyncio.sleep(0.01)


async def test_worker_of_a_pool_is_not_limited(host: Host, api: httpx.AsyncClient, ann: Headers) -> None:
    pool = with_token((await make(api, kind="worker", roles={"lab": "viewer"}, pool="local"))["secret"])
    name, data = made(6 * MIB)
    assert (await api.put(name, content=data, headers=pool)).status_code == 201
    assert in_use(host) == 0
    assert host.context.queue.quotas.of_org("lab") == Quota(stored_bytes=4 * MIB)


async def test_each_refusal_says_when_to_try_again(host: Host, api: httpx.AsyncClient, ann: Headers) -> None:
    def wait(answer: httpx.Response) -> str:
        assert answer.status_code == 429
        assert answer.headers["Retry-After"] == str(answer.json()["error"]["retry_after_secs"])
        return answer.headers["Retry-After"]

    name, data = made(5 * MIB)
    assert wait(await api.put(name, content=data, headers=ann)) == "3600"
    assert wait(await api.put(name, content=pieces(data), headers=ann)) == "3600"  # while it still sends
    assert wait(await api.put(f"{name}?announce={5 * MIB}", headers=ann)) == "3600"
    await api.post("orgs/lab/limits", json={"pending": 2})
    batch = [{"cmd": ["true"]}] * 3  # more than the limit, and so at no time at once
    assert wait(await api.post("jobs", json=batch, headers=ann)) == "10"
    await api.post("jobs", json=batch[:2], headers=ann)
    assert wait(await api.post("jobs", json=batch[0], headers=ann)) == "10"


async def test_client_hears_why_a_large_upload_is_refused(owner: Owner, ann: Headers) -> None:
    sent = 0

    async def zeros(offset: int) -> AsyncIterator[bytes]:
        nonlocal sent
        sent += 1
        yield bytes(MIB)

    endpoint = Endpoint(f"{owner.url}", ann["Authorization"].removeprefix("token "), "argument")
    transport = Transport(lambda: endpoint, patience_secs=60)
    try:
        with pytest.raises(OverQuota, match="cannot add 1 GiB"):
            await upload(transport, "0" * 64, 1024 * MIB, zeros)
    finally:
        await transport.close()
    assert sent == 0
