"""A worker whose queue puts off its logs: all lines come, in order, and other jobs do not wait for them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.queue.stage import turns
from tests.unit.worker.conftest import eventually
from zbrain_nb import JobSpec, JobState, RemoteQueue
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.events import JobCompleted, JobLogged, JobStarted, LogStream
from zbrain_nb.model.protocol import EventBatch, EventBatchAnswer
from zbrain_nb.model.quotas import Quota, Quotas
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue import lograte
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.server.host import Host
from zbrain_nb.worker import remote as remote_module
from zbrain_nb.worker.agent import WorkerAgent
from zbrain_nb.worker.folder import WorkerFolder
from zbrain_nb.worker.kinds import EventSender
from zbrain_nb.worker.link import HttpLink, follow

pytestmark = pytest.mark.anyio
LINES = 40_000
PRINT = f"for i in range({LINES}): print(i, 'x' * 50)"


class Watched(HttpLink):
    """A link that knows from when on events of a job may be sent again, and counts those that come before."""

    def __init__(self, data: DataDir) -> None:
        super().__init__(follow(data))
        self._from: dict[str, float] = {}
        self.put_off = self.too_early = 0

    async def send_events(self, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        now = time.monotonic()
        self.too_early += sum(now < self._from.get(job_id, 0) for job_id in {event.job_id for event in batch.events})
        answer = await super().send_events(worker_id, batch)
        for result in answer.results:
            if result.status == "later":
                self.put_off += 1
                self._from[result.job_id] = now + result.wait_secs
        return answer


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    """Serve a queue that takes 3 MB/s of one owner's logs, and hardly more at once."""
    monkeypatch.setattr(lograte, "BURST_SECS", 0.05)
    monkeypatch.setattr(lograte, "ROOM_SECS", 0.05)
    data = DataDir(tmp_path / "data")
    quotas = Quotas(owner=Quota(log_bytes_per_sec=3_000_000))
    host = Host(data, Settings(data=str(data.root), worker_mode="none", quotas=quotas))
    await host.start()
    yield host
    await host.stop()


def queue_of(host: Host) -> JobQueue:
    assert host.context is not None
    return host.context.queue


async def until_ended(queue: JobQueue, job_id: str) -> JobState:
    async with asyncio.timeout(30), queue.subscribe([f"states/{job_id}"], after=0) as events:
        async for _ in events:
            job = await queue.get(job_id)
            if job is not None and job.state.ended:
                return job.state
    raise AssertionError("the events ended before the job")


async def texts(queue: JobQueue, job_id: str) -> list[tuple[str, str]]:
    found: list[Any] = []
    while more := await queue.get_logs(job_id, len(found), 10_000):
        found += more
    return [(entry.stream, entry.line) for entry in found]


async def test_lines_of_a_job_that_prints_too_fast_all_come_and_others_do_not_wait(host: Host, tmp_path: Path) -> None:
    queue = queue_of(host)
    link = Watched(host.data)
    agent = WorkerAgent(link, WorkerFolder(tmp_path / "worker"), concurrency=2, warm=False, runs_others=True)
    running = asyncio.create_task(agent.run())
    fast = await queue.submit(JobSpec(cmd=[sys.executable, "-c", PRINT]), owner="ann")
    other = await queue.submit(JobSpec(cmd=[sys.executable, "-c", "print('hello')"]), owner="bob")
    assert await until_ended(queue, other) is JobState.SUCCEEDED
    assert await until_ended(queue, fast) is JobState.SUCCEEDED
    assert link.put_off > 0
    assert link.too_early == 0
    agent.stop()
    await running
    said = await texts(queue, fast)
    assert [line for stream, line in said if stream == "stdout"] == [f"{i} {'x' * 50}" for i in range(LINES)]
    told = [line for stream, line in said if stream == "system"]
    assert told == [
        "The logs of ann come faster than 2.9 MiB a second, their limit. "
        "What is over it is kept with the worker and comes later."
    ]
    assert await texts(queue, other) == [("stdout", "hello")]


async def test_scheduler_keeps_what_is_put_off_and_slows_its_job_down(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lograte, "ROOM_SECS", 0.3)
    monkeypatch.setattr(remote_module, "MOST_PUT_OFF", 2)
    queue = queue_of(host)
    job_id = await queue.submit(JobSpec(cmd=["true"]))
    remote = RemoteQueue(HttpLink(follow(host.data)))
    job = await remote.acquire_lease("stub")
    assert job is not None
    events = EventSender(job, remote.handle_worker_event)
    await events.send(JobStarted(job.id, worker_id="stub"))

    async def say(i: int) -> None:
        await events.send(JobLogged(job.id, lines=[(LogStream.STDOUT, 1.0, f"{i} " + "x" * 100_000)]))

    for i in range(8):
        await say(i)
    await eventually(lambda: remote._put_off)
    saying = asyncio.create_task(say(8))
    await turns()
    assert remote._put_off
    assert not saying.done()
    async with asyncio.timeout(20):
        await saying
        await events.send(JobCompleted(job.id))
    await remote.close()
    said = [line.split()[0] for stream, line in await texts(queue, job_id) if stream == "stdout"]
    assert said == [str(i) for i in range(9)]
