"""Detach: who waits for a job is let go on, and the job goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.conftest import until
from zbrain_nb import Client, Detached, JobGroup, JobHandle, JobSpec, JobState

WAYS: dict[str, Callable[[JobHandle], Any]] = {
    "result": JobHandle.result,
    "wait": JobHandle.wait,
    "logs": lambda job: list(job.logs(follow=True)),
    "await": lambda job: asyncio.run(awaited(job)),
}


async def awaited(job: JobHandle) -> Any:
    return await job


@pytest.fixture
def job(client: Client, gate: Path) -> Iterator[JobHandle]:
    """A job that runs until the test ends."""
    job = client.submit(["sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done"], name="slow")
    yield job
    gate.touch()
    assert job.wait(60).job.state is JobState.SUCCEEDED


@pytest.fixture
def runs(client: Client, gate: Path) -> Iterator[JobGroup]:
    """A group of which the first has ended, and two run until the test ends."""
    waits = ["sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done"]
    group = client.submit_many([JobSpec(cmd=cmd) for cmd in (["true"], waits, waits)])
    group[0].wait(60)
    yield group
    gate.touch()
    assert group.wait(60).last_counts() == {"succeeded": 3}


@pytest.mark.parametrize("way", [JobGroup.wait, JobGroup.results])
def test_who_waits_for_a_group_goes_on_by_the_group_or_by_a_run_of_it(
    client: Client, runs: JobGroup, way: Callable[[JobGroup], Any]
) -> None:
    ended: list[JobGroup] = []
    callback = runs[:].add_done_callback(ended.append)  # waits too, but holds nobody up
    with ThreadPoolExecutor(1) as threads:
        for detach in (runs.detach, runs[2].detach):
            call = threads.submit(way, runs[:], timeout=60)
            until(lambda: waiting(client, runs[2]) == 1)
            assert detach() == 1
            with pytest.raises(Detached, match=r"for these jobs; they go on\. .*wait"):
                call.result(30)
            until(lambda: waiting(client, runs[2]) == 0)
    assert runs.detach() == 0
    assert not runs.done() and not ended and not callback.done()


def waiting(client: Client, job: JobHandle) -> int:
    return client.call(client.asynchronous.transport.get, f"jobs/{job.id}", dict[str, Any])["waiting"]


@pytest.mark.parametrize("way", WAYS)
def test_who_waits_goes_on_with_a_sentence_and_may_wait_again(
    client: Client, job: JobHandle, gate: Path, way: str
) -> None:
    ended: list[JobHandle] = []
    callback = job.add_done_callback(ended.append)  # waits too, but holds nobody up
    with ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            calls = [threads.submit(WAYS[way], client.job(job.id)) for _ in range(2)]
            until(lambda: waiting(client, job) == 2)
            assert job.detach() == 2
            for call in calls:
                with pytest.raises(Detached, match=r"for the job 'slow'; it goes on\. .*wait"):
                    call.result(30)
            until(lambda: waiting(client, job) == 0)
    assert job.detach() == 0
    assert not job.done() and not ended
    gate.touch()
    callback.result(60)
    assert ended == [job]
    assert job.detach() == 0  # it has ended
