"""``POST backup``, ``zbrain backup`` with and without a host, and uploads on a disk that is nearly full."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.server.test_routes import assert_error, submit
from zbrain_nb.model import sizes
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.host import Host
from zbrain_nb.store import artifacts, room

pytestmark = pytest.mark.anyio
ZBRAIN = [sys.executable, "-c", "from zbrain_nb.cli import main; main()"]
DATA = b"x" * (artifacts.SMALL_BYTES + 1)
SHA = hashlib.sha256(DATA).hexdigest()


def back_up(data: DataDir, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ZBRAIN, "backup", *words],
        env={**os.environ, "ZDB_DATA": str(data.root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def jobs_of(root: Path) -> set[str]:
    """Start a host on a data directory and ask for its jobs."""
    data = DataDir(root)
    host = Host(data, Settings(data=str(root), worker_mode="none"))
    owner = await host.start()
    try:
        async with httpx.AsyncClient(headers={"Authorization": f"token {owner.token}"}, trust_env=False) as client:
            answer = await client.get(f"{owner.url}zbrain/api/jobs")
            return {job["id"] for job in answer.json()["jobs"]}
    finally:
        await host.stop()


async def test_backup_by_a_host_is_a_data_directory(api: httpx.AsyncClient, host: Host, tmp_path: Path) -> None:
    job = await submit(api)
    await api.put(f"blobs/{SHA}", content=DATA)
    done = await asyncio.to_thread(back_up, host.data, str(tmp_path / "copy"))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert str(tmp_path / "copy") in done.stderr
    later = await submit(api)
    assert (await api.get(f"jobs/{later['id']}")).status_code == 200
    assert await jobs_of(tmp_path / "copy") == {job["id"]}
    assert (tmp_path / "copy" / "artifacts" / SHA[:2] / SHA[2:]).read_bytes() == DATA
    again = await asyncio.to_thread(back_up, host.data, str(tmp_path / "copy"))
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    assert "Traceback" not in again.stderr


async def test_backup_without_a_host_is_a_data_directory(host: Host, api: httpx.AsyncClient, tmp_path: Path) -> None:
    job = await submit(api)
    await host.stop()
    done = await asyncio.to_thread(back_up, host.data, str(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    assert await jobs_of(tmp_path / "copy") == {job["id"]} == await jobs_of(host.data.root)


@pytest.mark.parametrize("to", ["copy", "/proc/nothing/here"])
async def test_backup_to_what_cannot_be_is_a_400(api: httpx.AsyncClient, to: str) -> None:
    assert_error(await api.post("backup", json={"to": to}), 400, "malformed")


async def test_backup_without_a_place_is_a_422(api: httpx.AsyncClient) -> None:
    assert_error(await api.post("backup", json={}), 422, "invalid_spec")


async def test_nearly_full_disk_answers_507_to_jobs_and_large_blobs_and_takes_small_ones(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "FLOOR_BYTES", 1 << 62)
    monkeypatch.setattr(sizes, "FLOOR_PART", 1.0)
    monkeypatch.setattr(room, "LOOK_SECS", 0.0)
    assert_error(await api.post("jobs", json={"cmd": ["true"]}), 507, "disk_floor")
    assert_error(await api.put(f"blobs/{SHA}", content=DATA), 507, "disk_floor")
    small = b"a result"
    assert (await api.put(f"blobs/{hashlib.sha256(small).hexdigest()}", content=small)).status_code == 201
    monkeypatch.setattr(sizes, "FLOOR_PART", 0.0)
    assert (await api.put(f"blobs/{SHA}", content=DATA)).status_code == 201
    await submit(api)
