"""Many small functions, over HTTP and durable, while their worker is killed again and again: each runs exactly once."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.place import Place, kill
from tests.unit.worker.conftest import pids_with
from zbrain_nb.model.datadir import lock_holder
from zbrain_nb.model.job import Job, JobSpec, JobState
from zbrain_nb.model.payload import load_value, pack_call

pytestmark = pytest.mark.anyio


def mark() -> Callable[[str, int], int]:
    def leave_mark(folder: str, number: int) -> int:
        import os
        import time

        descriptor = os.open(os.path.join(folder, str(number)), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b"x")
        os.close(descriptor)
        time.sleep(0.002)
        print("line", number)
        return number

    return leave_mark


async def submit(place: Place, folder: Path, count: int) -> list[str]:
    function = mark()
    specs = []
    for number in range(count):
        digest, _ = place.queue.artifacts.put_bytes(pack_call(function, (str(folder), number)))
        specs.append(JobSpec(function=digest, cwd=str(folder), kernel=sys.executable))
    return await place.queue.submit_many(specs)


async def check(place: Place, folder: Path, jobs: list[Job]) -> None:
    for number, job in enumerate(jobs):
        assert (job.state, job.reason) == (JobState.SUCCEEDED, None), (number, job)
        assert (folder / str(number)).read_text() == "x"
        assert await place.lines(job.id) == [f"line {number}"]
        assert job.result is not None
        assert job.result.data is not None
        assert load_value(job.result.data) == number


async def test_worker_killed_amid_many_calls_each_runs_once(place: Place, tmp_path: Path) -> None:
    dice = random.Random(5)
    folder = tmp_path / "marks"
    folder.mkdir()
    ids = await submit(place, folder, 500)
    waiting: asyncio.Future[list[Job]] = asyncio.gather(*(place.ended(job_id) for job_id in ids))
    kills = 0
    marks = 20
    while not waiting.done():
        while len(list(folder.iterdir())) < marks and not waiting.done():
            await asyncio.sleep(0.01)
        if kills < 5 and not waiting.done():
            await asyncio.sleep(dice.uniform(0, 0.02))
            place.kill_worker()
            place.start_worker()
            kills += 1
            marks += 80
        else:
            await asyncio.wait({waiting})
    assert kills >= 3
    await check(place, folder, waiting.result())


async def test_host_restarted_amid_many_calls_each_runs_once(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "marks"
    folder.mkdir()
    ids = await submit(place, folder, 300)
    while len(list(folder.iterdir())) < 100:
        await asyncio.sleep(0.01)
    await place.stop_host()
    await place.start_host()
    await check(place, folder, await asyncio.gather(*(place.ended(job_id) for job_id in ids)))


async def test_anything_killed_amid_many_calls_none_runs_twice(place: Place, tmp_path: Path) -> None:
    """Zygote, spawner and foremen die too: a call may be lost, and says so, but none has effects twice."""
    dice = random.Random(9)
    folder = tmp_path / "marks"
    folder.mkdir()
    ids = await submit(place, folder, 400)
    waiting: asyncio.Future[list[Job]] = asyncio.gather(*(place.ended(job_id) for job_id in ids))
    marks = 20
    for _ in range(5):
        while len(list(folder.iterdir())) < marks and not waiting.done():
            await asyncio.sleep(0.01)
        if waiting.done():
            break
        marks += 60
        if dice.random() < 0.3:
            kill(lock_holder(place.data.worker / "spawner.lock"))
        else:
            # a zygote, a foreman or a runner: they look the same from outside
            kill(dice.choice(sorted(pids_with(f"zygote\x00{place.data.worker}\x00")) or [0]))
    jobs: list[Any] = await waiting
    for number, job in enumerate(jobs):
        path = folder / str(number)
        left = path.read_text() if path.exists() else ""  # one killed between open and write leaves nothing in it
        assert left in ("", "x")
        if job.state is JobState.SUCCEEDED:
            assert left == "x"
            assert await place.lines(job.id) == [f"line {number}"]
        else:
            assert job.losses or job.reason == "Killed by SIGKILL.", job  # one that had not begun is run again
