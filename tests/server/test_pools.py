"""A pool from end to end: tokens, `zbrain worker`, `--on`, and the jobs of two people."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.server.tokens import make, with_token
from zbrain_nb.model.datadir import Owner
from zbrain_nb.server.host import Host
from zbrain_nb.server.local_worker import host_worker_command

pytestmark = pytest.mark.anyio
ZBRAIN = [sys.executable, "-c", "from zbrain_nb.cli import main; main()"]


@asynccontextmanager
async def started(owner: Owner, folder: Path, secret: str, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `zbrain worker` as on another machine; its first lines are on its stderr."""
    environ = os.environ | {"ZDB_DATA": str(folder / "home"), "ZBRAIN_TOKEN": secret, "ZBRAIN_PRELOAD": ""}
    command = [*ZBRAIN, "worker", "--url", owner.url, "--folder", str(folder), *words]
    worker = await asyncio.create_subprocess_exec(*command, env=environ, stderr=subprocess.PIPE)
    try:
        yield worker
    finally:
        if worker.returncode is None:
            worker.terminate()
        await asyncio.wait_for(worker.wait(), 30)


async def read_line(worker: asyncio.subprocess.Process) -> str:
    assert worker.stderr is not None
    return (await asyncio.wait_for(worker.stderr.readline(), 60)).decode()


async def run(owner: Owner, secret: str, *words: str) -> tuple[int, str, str]:
    environ = os.environ | {"ZBRAIN_URL": owner.url, "ZBRAIN_TOKEN": secret}
    command = [*ZBRAIN, *words]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = await asyncio.create_subprocess_exec(*command, env=environ, **pipes)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_pool_in_one_account_runs_jobs_of_its_owner_and_refuses_those_of_others(
    api: httpx.AsyncClient, owner: Owner, tmp_path: Path
) -> None:
    lab = {"lab": "submitter"}
    ann, bob = [(await make(api, owner=name, roles=lab))["secret"] for name in ("ann", "bob")]
    wanted = {"kind": "worker", "roles": {"lab": "viewer"}, "pool": "big"}
    shared = (await make(api, owner="ann", **wanted))["secret"]
    bobs = (await make(api, jobs_of="bob", **wanted))["secret"]
    async with started(owner, tmp_path / "shared", shared, "--pool", "big") as worker:
        assert "takes jobs" in await read_line(worker)
        assert "those of ann alone" in await read_line(worker)
        code, job_id, _ = await run(owner, bob, "submit", "--on", "big", "--", "sh", "-c", "echo of bob")
        assert code == 0
        assert await run(owner, ann, "run", "--on", "big", "--", "sh", "-c", "echo of ann") == (0, "of ann\n", "")
        job = (await api.get(f"jobs/{job_id.strip()}", headers=with_token(bob))).json()
        assert (job["state"], job["owner"], job["spec"]["worker"]) == ("pending", "bob", "big")
        assert "zbrain token create --kind worker --pool big --jobs-of bob" in job["reason"]
        async with started(owner, tmp_path / "bobs", bobs, "--pool", "big"):
            assert await run(owner, bob, "logs", "-f", job_id.strip()) == (0, "of bob\n", "")


@pytest.mark.parametrize("told", ["", "1"])
async def test_hosts_own_worker_runs_a_colleagues_job_only_if_told_to(
    host: Host, api: httpx.AsyncClient, owner: Owner, told: str
) -> None:
    """It runs in the account whose files hold the token of the data directory."""
    bob = with_token((await make(api, owner="bob", roles={"lab": "submitter"}))["secret"])
    read = {"cmd": ["cat", str(host.data.root / "token")]}
    job_id = (await api.post("jobs", json=read, headers=bob)).json()["id"]
    command = host_worker_command(host.data, msgspec.structs.replace(host.settings, worker_concurrency=1))
    environ = os.environ | {"ZWORKER_RUNS_OTHERS": told, "ZBRAIN_WARM_POOL": "0"}
    worker = await asyncio.create_subprocess_exec(*command, env=environ, stderr=subprocess.DEVNULL)
    try:
        code, out, _ = await run(owner, owner.token, "run", "--", "echo", "of the holder")
    finally:
        worker.terminate()
        await asyncio.wait_for(worker.wait(), 30)
    assert (code, out) == (0, "of the holder\n")
    job = (await api.get(f"jobs/{job_id}", headers=bob)).json()
    lines = [line["line"] for line in (await api.get(f"jobs/{job_id}/logs", headers=bob)).json()["entries"]]
    assert (job["state"], lines) == (("succeeded", [owner.token]) if told else ("pending", []))


async def test_operator_of_a_pool_cannot_have_code_run_by_the_own_workers_of_those_whose_jobs_it_runs(
    api: httpx.AsyncClient,
) -> None:
    lab = {"roles": {"lab": "viewer"}}
    adam = with_token((await make(api, kind="admin", owner="adam", roles={"lab": "admin"}))["secret"])
    vera = with_token((await make(api, owner="vera", roles={"lab": "submitter"}))["secret"])
    for pool in ({}, {"pool": "local"}):
        refused = await api.post("tokens", json={"kind": "worker", "jobs_of": "*"} | lab | pool, headers=adam)
        assert refused.status_code == 403
    crew = with_token((await make(api, adam, kind="worker", pool="crew", jobs_of="*", **lab))["secret"])
    assert (await api.post("workers", json={"id": "adams", "kind": "crew"}, headers=crew)).status_code == 201
    await api.post("jobs", json={"cmd": ["true"], "worker": "crew"}, headers=vera)
    body = {"request_id": "1", "wait_secs": 5}
    (lease,) = (await api.post("workers/adams/leases", json=body, headers=crew)).json()["leases"]
    spec = {"cmd": ["id"], "priority": 1000}
    statuses = []
    for worker in ("local", "crew"):
        answer = await api.post("jobs", json=spec | {"worker": worker}, headers=with_token(lease["token"]))
        statuses.append(answer.status_code)
    assert statuses == [403, 201]


async def test_worker_with_a_pools_token_that_does_not_say_the_pool_is_told_how(
    api: httpx.AsyncClient, owner: Owner, tmp_path: Path
) -> None:
    secret = (await make(api, kind="worker", roles={"lab": "viewer"}, pool="big"))["secret"]
    async with started(owner, tmp_path / "w", secret) as worker:
        said = await read_line(worker)
        assert await asyncio.wait_for(worker.wait(), 30) == 1
    assert "for the pool big" in said
