"""What the tests of the queue share: a clock that stands still, and a worker moved by hand."""

from __future__ import annotations

import asyncio

from zbrain_nb import Job, JobQueue, JobSpec
from zbrain_nb.model.events import WorkerEvent
from zbrain_nb.model.protocol import EventBatch, EventResult, LeaseRequest, WorkerInfo

TRUE = JobSpec(cmd=["true"])


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - 1_799_999_000.0

    def advance(self, secs: float) -> None:
        self.now += secs


class Hand:
    """A worker of kind local, moved by hand; numbers its events like a real one."""

    def __init__(self, queue: JobQueue, worker_id: str = "w") -> None:
        self.queue = queue
        self.id = worker_id
        self.requests = 0

    async def register(self, **fields: object) -> Hand:
        await self.queue.register_worker(WorkerInfo(id=self.id, **fields))
        return self

    async def lease(self, limit: int = 1, wait_secs: float = 0.0, **fields: object) -> list[Job]:
        self.requests += 1
        request = LeaseRequest(request_id=str(self.requests), limit=limit, wait_secs=wait_secs, **fields)
        return [lease.job for lease in (await self.queue.lease(self.id, request)).leases]

    async def send(self, *events: WorkerEvent) -> list[EventResult]:
        return (await self.queue.take_events(self.id, EventBatch(list(events)))).results

    async def run(self, spec: JobSpec = TRUE, **submit: object) -> Job:
        """Submit a job and lease it."""
        job_id = await self.queue.submit(spec, **submit)
        (job,) = await self.lease()
        assert job.id == job_id
        return job


async def turns(count: int = 20) -> None:
    """Let other tasks of the loop run."""
    for _ in range(count):
        await asyncio.sleep(0)
