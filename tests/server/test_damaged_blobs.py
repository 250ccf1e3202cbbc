"""A disk that no longer holds what was stored: readers get an error in words, never the wrong bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from zbrain_nb.model.errors import BlobMismatch, NotFound
from zbrain_nb.server.host import Host
from zbrain_nb.worker.link import HttpLink, follow

pytestmark = pytest.mark.anyio
CONTENT = bytes(range(256)) * 4096


def flip_a_bit(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


DAMAGES = [flip_a_bit, truncate, empty, lengthen]


async def ended_job(api: httpx.AsyncClient, digest: str) -> str:
    """Return the id of a job that kept the blob as artifact, result, variable and, while it ran, read it."""
    await api.post("workers", json={"id": "w1"})
    job = (await api.post("jobs", json={"cmd": ["true"], "inputs": {"data": digest}})).json()
    await api.post("workers/w1/leases", json={"request_id": job["id"], "wait_secs": 5})
    kept = {"name": "kept", "sha256": digest, "size": len(CONTENT)}
    completed = {
        "type": "completed",
        "job_id": job["id"],
        "artifacts": [kept],
        "result": kept,
        "variables": [kept | {"type": "bytes", "summary": ""}],
    }
    await api.post("workers/w1/events", json={"events": [completed]})
    assert (await api.get(f"jobs/{job['id']}")).json()["state"] == "succeeded"
    job_id: str = job["id"]
    return job_id


async def upload(api: httpx.AsyncClient) -> str:
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (await api.put(f"blobs/{digest}", content=CONTENT)).status_code == 201
    return digest


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("address", ["artifacts/kept", "result", "variables/kept"])
async def test_damaged_blob_is_refused_also_after_it_was_read_whole(
    api: httpx.AsyncClient, host: Host, damage: Callable[[Path], None], address: str
) -> None:
    digest = await upload(api)
    job_id = await ended_job(api, digest)
    assert (await api.get(f"jobs/{job_id}/{address}")).content == CONTENT
    path = host.data.artifacts / digest[:2] / digest[2:]
    path.chmod(0o600)
    damage(path)
    for headers in ({}, {"Range": "bytes=0-9"}):
        answer = await api.get(f"jobs/{job_id}/{address}", headers=headers)
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert error["code"] == "blob_mismatch"
        assert "damaged" in error["message"]
    path.write_bytes(CONTENT)
    assert (await api.get(f"jobs/{job_id}/{address}")).content == CONTENT, "restored from a backup"


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_input_is_not_handed_to_the_worker(
    api: httpx.AsyncClient, host: Host, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    digest = await upload(api)
    await api.post("workers", json={"id": "w1"})
    job = (await api.post("jobs", json={"cmd": ["true"], "inputs": {"data": digest}})).json()
    await api.post("workers/w1/leases", json={"request_id": "r", "wait_secs": 5})
    path = host.data.artifacts / digest[:2] / digest[2:]
    path.chmod(0o600)
    damage(path)
    assert (await api.get(f"jobs/{job['id']}/inputs/data")).json()["error"]["code"] == "blob_mismatch"
    link = HttpLink(follow(host.data))
    with pytest.raises(BlobMismatch, match="damaged"):
        await link.fetch_input(job["id"], 1, "data", digest, tmp_path / "copy")
    path.unlink()
    with pytest.raises(NotFound):
        await link.fetch_input(job["id"], 1, "data", digest, tmp_path / "copy")
    await link.close()


async def test_blob_that_is_gone_is_404_and_uploaded_again_it_is_back(api: httpx.AsyncClient, host: Host) -> None:
    digest = await upload(api)
    job_id = await ended_job(api, digest)
    (host.data.artifacts / digest[:2] / digest[2:]).unlink()
    answer = await api.get(f"jobs/{job_id}/artifacts/kept")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    await upload(api)
    assert (await api.get(f"jobs/{job_id}/artifacts/kept")).content == CONTENT


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_blob_is_refused_in_process_too(host: Host, damage: Callable[[Path], None]) -> None:
    assert host.context is not None
    store = host.context.queue.artifacts
    digest, _ = store.put_bytes(CONTENT)
    path = store.path(digest)
    path.chmod(0o600)
    damage(path)
    with pytest.raises(BlobMismatch):
        store.read(digest)
    path.unlink()
    with pytest.raises(NotFound):
        store.read(digest)
