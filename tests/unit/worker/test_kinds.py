"""Workers and schedulers in the caller's own process, against the real queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import eventually, pids_with
from zbrain_nb import FifoScheduler, Job, JobQueue, JobSpec, JobState, LocalWorker, Storage, Worker
from zbrain_nb.model.events import JobCompleted, JobProgress, JobStarted
from zbrain_nb.model.protocol import WorkerInfo
from zbrain_nb.worker.kinds import EventSender

pytestmark = pytest.mark.anyio


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[JobQueue]:
    async with JobQueue(Storage.in_memory(), tmp_path / "artifacts") as queue:
        yield queue


@pytest.fixture
async def worker() -> AsyncIterator[LocalWorker]:
    worker = LocalWorker("w")
    yield worker
    await worker.close()


async def ended(queue: JobQueue, job_id: str) -> Job:
    async def look() -> Job:
        while True:
            job = await queue.get(job_id)
            assert job is not None
            if job.state.ended:
                return job
            await asyncio.sleep(0.02)

    return await asyncio.wait_for(look(), 20)


async def lines(queue: JobQueue, job_id: str) -> list[str]:
    return [entry.line for entry in await queue.get_logs(job_id)]


class Echo:
    """A worker as a user would write one."""

    id = "echo"

    async def execute(self, job: Job, events: Any, cancel: Any) -> None:
        await events.send(JobStarted(job_id=job.id, worker_id=self.id))
        await events.send(JobProgress(job_id=job.id, stdout="hello\nworld\n"))
        await events.send(JobCompleted(job_id=job.id, output={"ran": job.spec.cmd}))

    async def health_check(self) -> bool:
        return True


async def test_loop_over_a_custom_worker_works(queue: JobQueue) -> None:
    job_id = await queue.submit(JobSpec(cmd=["anything"]))
    worker: Worker = Echo()
    job = await queue.acquire_lease("echo", "default")
    assert job is not None
    await worker.execute(job, EventSender(job, queue.handle_worker_event), asyncio.Event())
    done = await queue.get(job_id)
    assert done is not None
    assert (done.state, done.output) == (JobState.SUCCEEDED, {"ran": ["anything"]})
    assert await lines(queue, job_id) == ["hello", "world"]


async def test_local_worker_runs_a_command_and_keeps_its_files(queue: JobQueue, worker: LocalWorker) -> None:
    assert await worker.health_check()
    job_id = await queue.submit(
        JobSpec(cmd=["sh", "-c", "echo one; echo two >&2; echo kept > a.txt"], artifacts=["*.txt"])
    )
    job = await queue.acquire_lease("w", "default")
    assert job is not None
    await worker.execute(job, EventSender(job, queue.handle_worker_event), asyncio.Event())
    done = await queue.get(job_id)
    assert done is not None
    assert done.state is JobState.SUCCEEDED
    assert sorted(await lines(queue, job_id)) == ["one", "two"]
    (artifact,) = await queue.list_artifacts(job_id)
    assert artifact.name == "a.txt"
    assert queue.artifacts.read(artifact.sha256) == b"kept\n"


async def test_local_worker_cancel_ends_the_tree(queue: JobQueue, worker: LocalWorker) -> None:
    job_id = await queue.submit(JobSpec(cmd=["sh", "-c", "setsid sleep 1000 & echo up; wait"]))
    job = await queue.acquire_lease("w", "default")
    assert job is not None
    cancel = asyncio.Event()
    running = asyncio.create_task(worker.execute(job, EventSender(job, queue.handle_worker_event), cancel))
    await eventually(lambda: pids_with(f"ZBRAIN_JOB_ID={job_id}"))
    await queue.cancel_job(job_id)
    cancel.set()
    await asyncio.wait_for(running, 15)
    assert (await ended(queue, job_id)).state is JobState.CANCELED
    assert not pids_with(f"ZBRAIN_JOB_ID={job_id}")


async def test_local_worker_abandoned_kills_what_runs(queue: JobQueue, worker: LocalWorker) -> None:
    job_id = await queue.submit(JobSpec(cmd=["sleep", "1000"]))
    job = await queue.acquire_lease("w", "default")
    assert job is not None
    running = asyncio.create_task(worker.execute(job, EventSender(job, queue.handle_worker_event), asyncio.Event()))
    await eventually(lambda: pids_with(f"ZBRAIN_JOB_ID={job_id}"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not pids_with(f"ZBRAIN_JOB_ID={job_id}")


async def test_scheduler_runs_jobs_in_order_and_stops(queue: JobQueue, worker: LocalWorker, tmp_path: Path) -> None:
    script = f"echo $ZBRAIN_JOB_ID >> '{tmp_path}/order'"
    ids = await queue.submit_many([JobSpec(cmd=["sh", "-c", script]) for _ in range(4)])
    scheduler = FifoScheduler(queue, worker, "default", poll_interval=0.05)
    running = asyncio.create_task(scheduler.run())
    for job_id in ids:
        assert (await ended(queue, job_id)).state is JobState.SUCCEEDED
    await scheduler.stop()
    await asyncio.wait_for(running, 10)
    assert (tmp_path / "order").read_text().split() == ids


async def test_scheduler_cancels_when_the_queue_says_so(queue: JobQueue, worker: LocalWorker) -> None:
    job_id = await queue.submit(JobSpec(cmd=["sleep", "1000"]))
    scheduler = FifoScheduler(queue, worker, "default", poll_interval=0.05, concurrency=2)
    running = asyncio.create_task(scheduler.run())
    await eventually(lambda: pids_with(f"ZBRAIN_JOB_ID={job_id}"))
    await queue.cancel_job(job_id)
    assert (await ended(queue, job_id)).state is JobState.CANCELED
    await scheduler.stop()
    await asyncio.wait_for(running, 10)


async def test_scheduler_lives_on_when_a_worker_fails(queue: JobQueue) -> None:
    class Broken(Echo):
        async def execute(self, job: Job, events: Any, cancel: Any) -> None:
            if job.spec.name == "bad":
                raise RuntimeError("oops")
            await super().execute(job, events, cancel)

    bad = await queue.submit(JobSpec(cmd=["x"], name="bad"))
    good = await queue.submit(JobSpec(cmd=["x"]))
    scheduler = FifoScheduler(queue, Broken(), "default", poll_interval=0.05)
    running = asyncio.create_task(scheduler.run())
    failed = await ended(queue, bad)
    assert failed.state is JobState.FAILED
    assert "oops" in (failed.reason or "")
    assert (await ended(queue, good)).state is JobState.SUCCEEDED
    await scheduler.stop()
    await running


async def test_scheduler_cell_value_is_kept_in_the_queue(
    queue: JobQueue, worker: LocalWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZBRAIN_PRELOAD", "")
    job_id = await queue.submit(JobSpec(code="6 * 7"))
    scheduler = FifoScheduler(queue, worker, "default", poll_interval=0.05)
    running = asyncio.create_task(scheduler.run())
    done = await ended(queue, job_id)
    assert done.output == "42"
    assert done.result is not None
    assert queue.artifacts.has(done.result.sha256)
    await scheduler.stop()
    await running


async def test_local_worker_folder_goes_with_it(queue: JobQueue) -> None:
    worker = LocalWorker("w")
    await queue.submit(JobSpec(cmd=["true"]))
    job = await queue.acquire_lease("w", "default")
    assert job is not None
    await worker.execute(job, EventSender(job, queue.handle_worker_event), asyncio.Event())
    assert worker._opened is not None
    root = worker._opened._folder.root
    await worker.close()
    await eventually(lambda: not os.path.exists(root))


class Moody(LocalWorker):
    """Is well when it is said to be."""

    mood: bool | Exception = True

    async def health_check(self) -> bool:
        if isinstance(self.mood, Exception):
            raise self.mood
        return self.mood


@pytest.mark.parametrize(
    "mood",
    [False, RuntimeError("no GPU"), RuntimeError("no GPU", "\0\udc80" * 5_000)],
    ids=["unwell", "raises", "raises at length"],
)
async def test_worker_that_is_not_well_gets_no_jobs_until_it_is(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, mood: bool | Exception
) -> None:
    monkeypatch.setattr("zbrain_nb.worker.scheduler._HEALTH_SECS", 0.05)
    worker = Moody("moody")
    worker.mood = mood
    await queue.register_worker(WorkerInfo(id="moody"))
    scheduler = FifoScheduler(queue, worker, poll_interval=0.01)
    running = asyncio.create_task(scheduler.run())
    job_id = await queue.submit(JobSpec(cmd=["true"]))

    async def told() -> str:
        while not ((info := queue.workers()[0]).health and info.health.problem):
            await asyncio.sleep(0.01)
        return info.health.problem

    problem = await asyncio.wait_for(told(), 10)
    assert "could run no job" in problem or "no GPU" in problem
    assert (await queue.get(job_id)).attempt == 0  # type: ignore[union-attr]
    worker.mood = True
    async with asyncio.timeout(20):
        while not (await queue.get(job_id)).state.ended:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
    await scheduler.stop()
    await running
    await worker.close()
