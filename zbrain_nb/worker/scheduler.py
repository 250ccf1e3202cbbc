"""`FifoScheduler`: leases jobs one after the other and has a worker run them, in the caller's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Protocol

from zbrain_nb.model.errors import Conflict, ZBrainError
from zbrain_nb.model.events import JobFailed
from zbrain_nb.model.job import Job
from zbrain_nb.worker.kinds import EventSender, LocalWorker, Worker
from zbrain_nb.worker.patience import Patience
from zbrain_nb.worker.queuelink import QueueLink

log = logging.getLogger(__name__)
_LOOK_SECS = 0.5


class LeasingQueue(Protocol):
    """What the scheduler asks of a queue, in this process or remote."""

    lease_ttl_secs: float

    async def acquire_lease(self, worker_id: str, org_id: str | None = None) -> Job | None:
        """Lease the next job, or return None at once."""
        ...

    async def renew_lease(self, job_id: str, worker_id: str | None = None, attempt: int | None = None) -> bool:
        """Keep a lease; False if it is over."""
        ...

    async def handle_worker_event(self, event: Any) -> None:
        """Take one event."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return a job."""
        ...


class FifoScheduler:
    """Runs the jobs of one org on one worker, first in, first out.

    Parameters
    ----------
    queue : JobQueue or a remote queue with its methods
        Where jobs come from and events go.
    worker : Worker
        Runs them.
    org_id : str
        Whose jobs.
    poll_interval : float
        Seconds to wait when there is no job, more than 0.
    concurrency : int
        How many jobs run at once, 1 or more.
    """

    def __init__(
        self,
        queue: LeasingQueue,
        worker: Worker,
        org_id: str | None = None,
        poll_interval: float = 5.0,
        concurrency: int = 1,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._queue = queue
        self._worker = worker
        self._org_id = org_id
        self._poll_interval = poll_interval
        self._slots = asyncio.Semaphore(concurrency)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        if isinstance(worker, LocalWorker) and hasattr(queue, "artifacts"):
            worker.use_link(QueueLink(queue))  # type: ignore[arg-type]

    async def run(self) -> None:
        """Work until `stop`; a second call after that works again. If this is cancelled, what runs is ended too."""
        self._stopping.clear()
        patience = Patience()
        try:
            while not self._stopping.is_set():
                await self._slots.acquire()
                try:
                    job = None if self._stopping.is_set() else await self._lease(patience)
                except BaseException:
                    self._slots.release()
                    raise
                if job is None:
                    self._slots.release()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), self._poll_interval)
                    continue
                task = asyncio.create_task(self._execute(job))
                self._tasks.add(task)
                task.add_done_callback(self._on_done)
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Lease no more; `run` returns when the jobs that run have ended."""
        self._stopping.set()

    async def _lease(self, patience: Patience) -> Job | None:
        try:
            job = await self._queue.acquire_lease(self._worker.id, self._org_id)
        except ZBrainError as error:
            log.warning("no lease", extra={"why": str(error)})
            await patience.wait()
            return None
        patience.reset()
        return job

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()

    async def _execute(self, job: Job) -> None:
        sender = EventSender(job, self._queue.handle_worker_event)
        cancel = asyncio.Event()
        watch = asyncio.create_task(self._watch(job, cancel))
        try:
            await self._worker.execute(job, sender, cancel)
        except Conflict as error:
            log.warning("attempt is not ours any more", extra={"job": job.id, "why": str(error)})
        except Exception as error:
            log.exception("worker failed", extra={"job": job.id})
            failed = JobFailed(job_id=job.id, reason=f"The worker failed: {error!r}.")
            with contextlib.suppress(ZBrainError):  # the attempt may have ended before the worker failed
                await sender.send(failed)
        finally:
            watch.cancel()

    async def _watch(self, job: Job, cancel: asyncio.Event) -> None:
        """Keep the lease, and set `cancel` when the job shall end or is not ours any more."""
        loop = asyncio.get_running_loop()
        pause = min(_LOOK_SECS, self._queue.lease_ttl_secs / 5)
        renewed = loop.time()
        while not cancel.is_set():
            await asyncio.sleep(pause)
            try:
                if loop.time() - renewed >= self._queue.lease_ttl_secs / 5:
                    renewed = loop.time()
                    await self._queue.renew_lease(job.id, self._worker.id, job.attempt)
                now = await self._queue.get(job.id)
            except ZBrainError as error:
                log.warning("lease not renewed", extra={"job": job.id, "why": str(error)})
                continue
            if now is None or now.attempt != job.attempt or now.state.ended or now.cancel_requested_at is not None:
                cancel.set()
