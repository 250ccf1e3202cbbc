"""The four usage examples of the seed, as they stand in the contract under "In process"."""

import asyncio

import pytest

import zbrain_nb
from zbrain_nb import Job, JobCompleted, JobProgress, JobQueue, JobSpec, JobStarted, JobState, Storage

pytestmark = pytest.mark.anyio


async def test_basic_submission(tmp_path):
    storage = Storage(tmp_path / "job_data")
    queue = JobQueue(storage, str(tmp_path / "artifacts"))
    job = Job(JobSpec(org_id="my_org", cmd=["python", "train.py"], input={"lr": 0.1}, timeout_secs=300, max_retries=2))
    job_id = await queue.submit(job)
    status = await queue.get(job_id)
    assert status.id == job_id == job.id
    assert status.state == "pending"
    assert status.state is JobState.PENDING
    assert [j.id for j in await queue.list("my_org", state="pending", limit=10)] == [job_id]
    await queue.close()


async def test_custom_worker_driven_by_hand(tmp_path):
    class Echo:
        id = "echo-1"

        async def execute(self, job, events, cancel):
            await events.send(JobStarted(job.id, self.id))
            await events.send(JobProgress(job.id, stdout=" ".join(job.spec.cmd) + "\n", progress=0.5))
            await events.send(JobCompleted(job.id, output={"words": len(job.spec.cmd)}))

        async def health_check(self):
            return True

    class Sender:
        """What the seed's loop hands to a worker: events go straight to the queue, unstamped."""

        async def send(self, event):
            await queue.handle_worker_event(event)

    queue = JobQueue(Storage.in_memory(), str(tmp_path / "artifacts"))
    worker = Echo()
    job_id = await queue.submit(JobSpec(org_id="my_org", cmd=["hello", "world"]))
    job = await queue.acquire_lease(worker.id, "my_org")
    assert job.id == job_id
    assert await queue.acquire_lease(worker.id, "my_org") is None
    assert await worker.health_check()
    await worker.execute(job, Sender(), asyncio.Event())
    async for event in queue.events:
        await queue.handle_worker_event(event)  # applied before: changes nothing
        if isinstance(event, JobCompleted):
            break
    done = await queue.get(job_id)
    assert (done.state, done.output, done.attempt) == ("succeeded", {"words": 2}, 1)
    assert [str(entry) for entry in await queue.get_logs(job_id, 0, 100)] == ["hello world"]
    assert await queue.list_artifacts(job_id) == []
    await queue.close()


async def test_scheduler_with_a_local_worker(tmp_path):
    queue = JobQueue(Storage.in_memory(), str(tmp_path / "artifacts"))
    queue.start_lease_cleanup()
    worker = zbrain_nb.LocalWorker("w1")
    scheduler = zbrain_nb.FifoScheduler(queue, worker, "my_org", poll_interval=0.05)
    running = asyncio.create_task(scheduler.run())
    following = queue.subscribe()
    job_id = await queue.submit(JobSpec(org_id="my_org", cmd=["echo", "done by w1"]))

    async def ended():
        async for event in following:
            if event.job_id == job_id and event.kind in ("job_completed", "job_failed"):
                return

    try:
        await asyncio.wait_for(ended(), 60)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await worker.close()
    job = await queue.get(job_id)
    assert (job.state, job.exit_code) == ("succeeded", 0), job.reason
    assert [str(entry) for entry in await queue.get_logs(job_id, stream="stdout")] == ["done by w1"]
    await queue.close()


async def test_monitoring_in_real_time(tmp_path):
    queue = JobQueue(Storage.in_memory(), str(tmp_path / "artifacts"))
    seen = []

    async def monitor():
        async for event in queue.subscribe():
            seen.append((event.topic, event.data.get("state")))
            if event.data.get("state") == "succeeded":
                return

    watching = asyncio.create_task(monitor())
    await asyncio.sleep(0)
    job_id = await queue.submit(JobSpec(org_id="my_org", cmd=["true"]))
    await queue.acquire_lease("w", "my_org")
    await queue.handle_worker_event(JobCompleted(job_id))
    await asyncio.wait_for(watching, 10)
    assert seen == [(f"jobs/{job_id}", state) for state in ("pending", "running", "succeeded")]
    await queue.close()
