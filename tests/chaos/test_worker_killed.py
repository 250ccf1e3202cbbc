"""The worker as a process, killed again and again, against a real host over HTTP: exactly once all the same."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from typing import Any

import pytest

from tests.chaos.place import Place, kill
from tests.conftest import supervisor_of
from tests.unit.worker.conftest import pids_with, wait_for
from zbrain_nb.model.datadir import is_locked, lock_holder
from zbrain_nb.model.job import JobSpec, JobState

pytestmark = pytest.mark.anyio
COUNT = "import time\nfor i in range(60): print('line', i, flush=True); time.sleep(0.02)"
COUNTED = [f"line {i}" for i in range(60)]


def spec(**fields: Any) -> JobSpec:
    return JobSpec(cmd=[sys.executable, "-c", COUNT], **fields)


async def test_worker_killed_again_and_again_every_line_once(place: Place) -> None:
    dice = random.Random(7)
    ids = await place.queue.submit_many([spec() for _ in range(6)])
    waiting = asyncio.gather(*(place.ended(job_id) for job_id in ids))
    kills = 0
    while not waiting.done():
        await asyncio.wait({waiting}, timeout=dice.uniform(0.2, 0.9))
        if not waiting.done() and kills < 8:
            place.kill_worker()
            place.start_worker()
            kills += 1
    for job in waiting.result():
        assert (job.state, job.attempt, job.losses) == (JobState.SUCCEEDED, 1, 0)
        assert await place.lines(job.id) == COUNTED
    assert kills >= 3


async def test_host_away_and_back_on_another_port_nothing_is_lost(place: Place) -> None:
    job_id = await place.queue.submit(spec())
    while not await place.lines(job_id):
        await asyncio.sleep(0.02)
    await place.stop_host()
    spool = next((place.data.worker / "runs").glob("*.spool"))
    while is_locked(spool):
        await asyncio.sleep(0.05)
    await place.start_host()
    job = await place.ended(job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert await place.lines(job_id) == COUNTED


async def test_host_and_worker_gone_job_ends_meanwhile_and_is_told(place: Place) -> None:
    job_id = await place.queue.submit(spec())
    cell_id = await place.queue.submit(JobSpec(code="import time; time.sleep(0.5); print('done'); 'value'"))
    while not (await place.lines(job_id) and (await place.queue.get(cell_id)).started_at):  # type: ignore[union-attr]
        await asyncio.sleep(0.02)
    place.kill_worker()
    await place.stop_host()
    while any(map(is_locked, (place.data.worker / "runs").glob("*.spool"))):
        await asyncio.sleep(0.05)
    await place.start_host()
    place.start_worker()
    assert (await place.ended(job_id)).state is JobState.SUCCEEDED
    cell = await place.ended(cell_id)
    assert (cell.state, cell.output) == (JobState.SUCCEEDED, "'value'")
    assert await place.lines(job_id) == COUNTED


async def test_cancel_reaches_the_job_over_http(place: Place) -> None:
    job_id = await place.queue.submit(JobSpec(cmd=["sh", "-c", "echo up; setsid sleep 1000 & wait"]))
    while not await place.lines(job_id):
        await asyncio.sleep(0.02)
    await place.queue.cancel_job(job_id)
    assert (await place.ended(job_id)).state is JobState.CANCELED


async def test_input_is_read_in_place_and_an_artifact_comes_back(place: Place) -> None:
    sha256, _ = place.queue.artifacts.put_bytes(b"x" * 3_000_000)
    code = f"open('copy', 'wb').write(open({str(place.queue.artifacts.path(sha256))!r}, 'rb').read())"
    job_id = await place.queue.submit(
        JobSpec(cmd=[sys.executable, "-c", code], inputs={"data": sha256}, artifacts=["copy"])
    )
    job = await place.ended(job_id)
    assert job.state is JobState.SUCCEEDED, await place.queue.get_logs(job_id)
    (artifact,) = job.artifacts
    assert (artifact.sha256, artifact.size) == (sha256, 3_000_000)
    assert not list((place.data.worker / "blobs").iterdir())


async def test_second_worker_on_the_folder_says_so_and_ends(place: Place) -> None:
    await place.ended(await place.queue.submit(JobSpec(cmd=["true"])))
    command = [sys.executable, "-m", "zbrain_nb.worker", "--data", str(place.data.root)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "Another worker works in" in done.stderr


async def test_sigterm_leaves_running_jobs_to_the_next_worker(place: Place) -> None:
    job_id = await place.queue.submit(spec())
    while not await place.lines(job_id):
        await asyncio.sleep(0.02)
    assert place.worker is not None
    place.worker.terminate()
    assert await asyncio.to_thread(place.worker.wait, 10) == 0
    with contextlib.suppress(StopIteration):
        assert is_locked(next((place.data.worker / "runs").glob("*.spool")))
    place.start_worker()
    assert (await place.ended(job_id)).state is JobState.SUCCEEDED
    assert await place.lines(job_id) == COUNTED


async def test_anything_killed_every_job_ends_and_no_line_comes_twice(place: Place) -> None:
    """Worker, spawner, zygote and supervisors die at random; a job that fails says truly why."""
    dice = random.Random(11)
    cell = "import time\nfor i in range(60): print('line', i); time.sleep(0.02)"
    specs = [spec() for _ in range(5)] + [JobSpec(code=cell) for _ in range(4)]
    ids = await place.queue.submit_many(specs)
    waiting = asyncio.gather(*(place.ended(job_id) for job_id in ids))
    supervisors_killed = 0
    for _ in range(14):
        await asyncio.wait({waiting}, timeout=dice.uniform(0.1, 0.5))
        if waiting.done():
            break
        victim = dice.choice(["worker", "spawner", "zygote", "supervisor"])
        if victim == "worker":
            place.kill_worker()
            place.start_worker()
        elif victim == "spawner":
            kill(lock_holder(place.data.worker / "spawner.lock"))
        elif victim == "zygote":
            kill(next(iter(pids_with(f"zygote\x00{place.data.worker}\x00")), None))
        elif supervisors_killed < 3:
            running = [path for path in (place.data.worker / "runs").glob("*.spool") if is_locked(path)]
            if running and (pid := supervisor_of(dice.choice(running))):
                kill(pid)
                supervisors_killed += 1
    for job in await waiting:
        lines = await place.lines(job.id)
        if job.state is JobState.SUCCEEDED:
            assert lines == COUNTED
        else:
            # what looks like a zygote may have been the process of a cell
            assert job.losses == 1 or job.reason == "Killed by SIGKILL.", (job.state, job.reason)
            # print() writes a line in pieces; whoever is killed between two leaves a part of one
            assert lines[:-1] == COUNTED[: len(lines[:-1])]
            assert not lines or COUNTED[len(lines) - 1].startswith(lines[-1])
    for job_id in ids:
        wait_for(lambda job_id=job_id: not pids_with(f"ZBRAIN_JOB_ID={job_id}"))
