"""Blobs over HTTP among people who must not learn of each other's: uploads, laid files, inputs of attempts."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx
import msgspec
import pytest

from tests.server.tokens import make, with_token
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.model.protocol import OFFSET_HEADER
from zbrain_nb.queue import overview
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
DATA = b"bytes of ann" * 200_000
SHA = hashlib.sha256(DATA).hexdigest()
Headers = dict[str, str]


async def token(api: httpx.AsyncClient, owner: str, org: str = "lab", **more: Any) -> Headers:
    return with_token((await make(api, owner=owner, roles={org: "submitter"}, **more))["secret"])


async def lease(api: httpx.AsyncClient, worker_id: str, headers: Headers, request_id: str = "r") -> Any:
    await api.post("workers", json={"id": worker_id}, headers=headers)
    body = {"request_id": request_id, "wait_secs": 5}
    (one,) = (await api.post(f"workers/{worker_id}/leases", json=body, headers=headers)).json()["leases"]
    return one["job"]


async def test_bytes_that_another_sent_have_to_be_sent_whole(api: httpx.AsyncClient) -> None:
    ann, bob = await token(api, "ann"), await token(api, "bob")
    spec = {"cmd": ["true"], "inputs": {"x": SHA}}
    assert (await api.put(f"blobs/{SHA}", content=DATA, headers=ann)).status_code == 201
    assert (await api.head(f"blobs/{SHA}", headers=ann)).headers["Content-Length"] == str(len(DATA))
    assert (await api.head(f"blobs/{SHA}", headers=bob)).status_code == 404
    for content in (b"", b"other bytes", DATA[:-1]):
        assert (await api.put(f"blobs/{SHA}", content=content, headers=bob)).status_code in (400, 422)
    refused = await api.post("jobs", json=spec, headers=bob)
    assert (refused.status_code, refused.json()["error"]["blobs"]) == (409, [SHA])
    assert (await api.put(f"blobs/{SHA}", content=DATA, headers=bob)).status_code == 201
    assert (await api.post("jobs", json=spec, headers=bob)).status_code == 201


async def test_numbers_of_the_store_tell_nobody_whether_a_guess_was_right(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "USAGE_SECS", 0.0)
    monkeypatch.setattr(overview, "USAGE_SHARE", float("inf"))
    ann, bob = await token(api, "ann"), await token(api, "bob")

    async def seen_after(content: bytes, by: Headers) -> dict[str, int]:
        sha256 = hashlib.sha256(content).hexdigest()
        assert (await api.put(f"blobs/{sha256}", content=content, headers=by)).status_code == 201
        storage: dict[str, int] = (await api.get("overview", headers=by)).json()["storage"]
        return storage

    await seen_after(b"guilty..", ann)
    assert await seen_after(b"innocent", bob) == {"artifact_bytes": 8}
    assert await seen_after(b"guilty..", bob) == {"artifact_bytes": 16}
    holder = (await api.get("overview")).json()["storage"]
    assert (holder["artifacts"], holder["artifact_bytes"]) == (2, 16)


async def test_bytes_of_who_may_only_look_are_refused_before_they_are_kept(api: httpx.AsyncClient, host: Host) -> None:
    looks = with_token((await make(api, owner="eve", roles={"lab": "viewer"}))["secret"])
    for content in (DATA, DATA[:1000]):
        refused = await api.put(f"blobs/{SHA}", content=content, headers=looks)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert not [path for path in host.data.artifacts.rglob("*") if path.is_file()]


async def test_bytes_that_were_sent_are_for_the_orgs_where_their_sender_may_submit(api: httpx.AsyncClient) -> None:
    looked_at = {"lab": "viewer", "own": "submitter"}
    eve = with_token((await make(api, owner="eve", roles=looked_at))["secret"])
    assert (await api.put(f"blobs/{SHA}", content=DATA, headers=eve)).status_code == 201
    assert (await api.head(f"blobs/{SHA}", headers=eve)).status_code == 200
    assert (await api.head(f"blobs/{SHA}", headers=await token(api, "eve", "lab"))).status_code == 404


async def test_part_that_arrived_of_anothers_upload_is_not_told(api: httpx.AsyncClient, host: Host) -> None:
    ann, bob = await token(api, "ann"), await token(api, "bob")
    assert host.context is not None
    upload = host.context.queue.artifacts.open_upload(SHA, len(DATA), owner="ann", org_id="lab")
    upload.write(DATA[: 1 << 20])
    upload.pause()
    assert (await api.head(f"blobs/{SHA}", headers=ann)).headers[OFFSET_HEADER] == str(1 << 20)
    assert OFFSET_HEADER not in (await api.head(f"blobs/{SHA}", headers=bob)).headers


async def test_laid_file_is_taken_from_who_holds_the_data_directory_alone(api: httpx.AsyncClient, host: Host) -> None:
    folder = host.data.artifacts / "incoming"
    folder.mkdir(parents=True, exist_ok=True)
    laid = folder / "upload-of_ann"
    laid.write_bytes(DATA)
    refused = await api.put(f"blobs/{SHA}?file={laid.name}", headers=await token(api, "bob"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert (await api.put(f"blobs/{SHA}?file={laid.name}")).status_code == 201


async def test_input_goes_to_who_runs_the_attempt_while_it_runs(api: httpx.AsyncClient) -> None:
    ann, abe = await token(api, "ann"), await token(api, "abe")
    await api.put(f"blobs/{SHA}", content=DATA, headers=ann)
    spec = {"cmd": ["true"], "inputs": {"x": SHA}}
    job_id = (await api.post("jobs", json=spec, headers=ann)).json()["id"]
    address = f"jobs/{job_id}/inputs/x"
    assert (await api.get(address, headers=ann)).status_code == 404, "it waits"
    assert (await lease(api, "of-ann", ann))["id"] == job_id
    assert (await api.get(f"jobs/{job_id}", headers=abe)).status_code == 200, "a colleague sees the job"
    for query, headers, status in (
        ("", ann, 200),
        ("?attempt=1", ann, 200),
        ("?attempt=2", ann, 404),
        ("", abe, 404),
        ("?attempt=1", abe, 404),
    ):
        answer = await api.get(address + query, headers=headers)
        assert answer.status_code == status, (query, answer.text[:200])
    ended = msgspec.to_builtins(JobCompleted(job_id, attempt=1, after=0, seq=1))
    assert (await api.post("workers/of-ann/events", json={"events": [ended]}, headers=ann)).status_code == 200
    assert (await api.get(address, headers=ann)).status_code == 404, "it has ended"


async def test_input_goes_to_the_pool_that_runs_the_job_and_to_no_other_worker(api: httpx.AsyncClient) -> None:
    ann = await token(api, "ann")
    pool = with_token((await make(api, kind="worker", roles={"lab": "viewer"}, jobs_of="*"))["secret"])
    other = with_token((await make(api, kind="worker", roles={"lab": "viewer"}, jobs_of="ann"))["secret"])
    await api.put(f"blobs/{SHA}", content=DATA, headers=ann)
    spec = {"cmd": ["true"], "inputs": {"x": SHA}}
    job_id = (await api.post("jobs", json=spec, headers=ann)).json()["id"]
    assert (await lease(api, "pool", pool))["id"] == job_id
    assert (await api.get(f"jobs/{job_id}/inputs/x?attempt=1", headers=pool)).content == DATA
    for headers in (other, ann):
        assert (await api.get(f"jobs/{job_id}/inputs/x?attempt=1", headers=headers)).status_code == 404
