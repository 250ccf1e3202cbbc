"""`FifoScheduler`: leases jobs in their order and has a worker run them, in the caller's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from zbrain_nb.model.errors import Conflict, ZBrainError
from zbrain_nb.model.events import ENDINGS, JobFailed
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import AttemptRef, Health, HeartbeatAnswer, HeartbeatRequest, WorkerState
from zbrain_nb.worker.fence import margin_secs, now
from zbrain_nb.worker.health import sayable
from zbrain_nb.worker.kinds import EventSender, LocalWorker, Worker
from zbrain_nb.worker.patience import Patience
from zbrain_nb.worker.queuelink import QueueLink
from zbrain_nb.worker.remote import RemoteQueue

log = logging.getLogger(__name__)
_LOOK_SECS = 0.5
_BEATS = 5
#: The worker is asked so often how it is, and has to answer in that time.
_HEALTH_SECS = 5.0
#: So many jobs may wait for the word that their end is durable, before a slot waits for that too.
_UNANSWERED = 1_000


class LeasingQueue(Protocol):
    """What the scheduler asks of a queue, in this process or remote."""

    lease_ttl_secs: float

    async def acquire_lease(self, worker_id: str, org_id: str | None = None) -> Job | None:
        """Lease the next job, or return None."""
        ...

    async def heartbeat(self, worker_id: str, req: HeartbeatRequest) -> HeartbeatAnswer:
        """Renew leases, and say how each attempt stands."""
        ...

    async def handle_worker_event(self, event: Any) -> None:
        """Take one event."""
        ...


class _Running:
    """A job in a slot, what tells its worker to give it up, and until when its lease is known to last."""

    def __init__(self, job: Job, asked_at: float) -> None:
        self.job = job
        self.cancel = asyncio.Event()
        self.renewed_at = asked_at


class FifoScheduler:
    """Runs the jobs of one org on one worker, first in, first out.

    Parameters
    ----------
    queue : JobQueue or RemoteQueue
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
        self._concurrency = concurrency
        self._is_remote = isinstance(queue, RemoteQueue)
        self._stopping = asyncio.Event()
        self._running: dict[str, _Running] = {}
        self._asking: set[asyncio.Task[_Running | None]] = set()
        self._ending: set[asyncio.Task[None]] = set()  # have said their end, and wait for the answer
        self._problem = ""  # why the worker takes no jobs
        if isinstance(worker, LocalWorker):
            if isinstance(queue, RemoteQueue):
                worker.use_link(queue.link)
            elif hasattr(queue, "artifacts"):
                worker.use_link(QueueLink(queue))  # type: ignore[arg-type]

    async def run(self) -> None:
        """Work until `stop`; a second call after that works again. If this is cancelled, what runs is ended too."""
        self._stopping.clear()
        await self._examine()
        watches = [asyncio.create_task(self._watch()), asyncio.create_task(self._examine_for_ever())]
        slots = [asyncio.create_task(self._fill_slot()) for _ in range(self._concurrency)]
        try:
            await asyncio.gather(*slots)
            while self._ending:
                await asyncio.gather(*self._ending)
        finally:
            tasks = [*slots, *watches, *self._asking, *self._ending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Lease no more; `run` returns when the jobs that run have ended."""
        self._stopping.set()
        if self._is_remote:  # in this process it is answered at once, and a lease shall not get lost
            for asking in list(self._asking):
                asking.cancel()

    async def _fill_slot(self) -> None:
        """Run one job after the other; a slot is free as soon as its job has said its end."""
        patience = Patience()
        ahead: asyncio.Task[_Running | None] | None = None
        while True:
            asking = ahead or (None if self._stopping.is_set() else self._ask(patience))
            if asking is None:
                return
            ahead = None
            await asyncio.wait({asking})
            running = None if asking.cancelled() else asking.result()
            if running is not None:
                ahead = await self._run_job(running, patience)
            elif not (self._stopping.is_set() or self._is_remote):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), self._poll_interval)

    async def _run_job(self, running: _Running, patience: Patience) -> asyncio.Task[_Running | None] | None:
        """Run a job; return the request for the next one, if there is one already."""
        asked: asyncio.Future[asyncio.Task[_Running | None]] = asyncio.get_running_loop().create_future()

        def said_end() -> None:
            if not asked.done() and not self._stopping.is_set():
                asked.set_result(self._ask(patience))  # it goes with the ending

        is_over = getattr(self._worker, "is_over_at_ending", False)

        execution = asyncio.create_task(self._execute(running, said_end))
        self._ending.add(execution)
        execution.add_done_callback(self._ending.discard)
        either: list[asyncio.Future[Any]] = [execution, asked] if is_over else [execution]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if len(self._ending) > _UNANSWERED + self._concurrency:
            await asyncio.wait({execution})
        if execution.done():
            execution.result()
        return asked.result() if asked.done() else None

    def _ask(self, patience: Patience) -> asyncio.Task[_Running | None]:
        asking = asyncio.create_task(self._lease(patience))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return asking

    async def _lease(self, patience: Patience) -> _Running | None:
        if self._problem:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _HEALTH_SECS)
            return None
        asked_at = now()
        try:
            job = await self._queue.acquire_lease(self._worker.id, self._org_id)
        except ZBrainError as error:
            log.warning("no lease", extra={"why": str(error)})
            await patience.wait()
            return None
        patience.reset()
        if job is None:
            return None
        running = self._running[job.id] = _Running(job, asked_at)
        return running

    async def _examine_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_SECS)
            await self._examine()

    async def _examine(self) -> None:
        """Ask the worker whether it could run a job; while it could not, none is leased."""
        try:
            async with asyncio.timeout(_HEALTH_SECS):
                is_well = await self._worker.health_check()
            problem = "" if is_well else "Its health check says that it could run no job now."
        except TimeoutError:
            problem = f"Its health check did not answer within {_HEALTH_SECS:g} s."
        except Exception as error:
            problem = sayable(f"Its health check failed: {error!r}.")
        if problem != self._problem:
            log.warning("worker takes no jobs" if problem else "worker is well again", extra={"why": problem})
        self._problem = problem

    async def _execute(self, running: _Running, said_end: Callable[[], None]) -> None:
        """Have the worker run a job, and see that it ends."""
        job = running.job

        async def forward(event: Any) -> None:
            if isinstance(event, ENDINGS):
                said_end()
            await self._queue.handle_worker_event(event)

        sender = EventSender(job, forward)
        try:
            await self._worker.execute(job, sender, running.cancel)
        except Conflict as error:
            log.warning("attempt is not ours any more", extra={"job": job.id, "why": str(error)})
        except Exception as error:
            log.exception("worker failed", extra={"job": job.id})
            failed = JobFailed(job_id=job.id, reason=f"The worker failed: {error!r}.")
            with contextlib.suppress(ZBrainError):  # the attempt may have ended before the worker failed
                await sender.send(failed)
        finally:
            if self._running.get(job.id) is running:
                del self._running[job.id]
            if isinstance(self._queue, RemoteQueue):
                self._queue.forget(job)

    async def _watch(self) -> None:
        """Keep the leases, and set `cancel` of jobs that shall end or are not ours any more."""
        told = ""
        while True:
            await asyncio.sleep(min(_LOOK_SECS, self._queue.lease_ttl_secs / _BEATS))
            problem, is_draining = self._problem, self._stopping.is_set()
            if not self._running and problem == told:
                continue
            asked_at = now()
            refs = [AttemptRef(running.job.id, running.job.attempt) for running in self._running.values()]
            free = 0 if problem or is_draining else max(0, self._concurrency - len(refs))
            state = WorkerState.DRAINING if is_draining else WorkerState.LIVE
            request = HeartbeatRequest(refs, free, state, Health(problem=problem))
            try:
                async with asyncio.timeout(self._queue.lease_ttl_secs / _BEATS):
                    answer = await self._queue.heartbeat(self._worker.id, request)
            except (ZBrainError, TimeoutError) as error:
                log.warning("leases not renewed", extra={"why": str(error)})
                self._give_up_in_time()
                continue
            told = problem
            for verdict in answer.verdicts:
                running = self._running.get(verdict.job_id)
                if running is None or running.job.attempt != verdict.attempt:
                    continue
                if verdict.verdict == "ok":
                    running.renewed_at = asked_at
                else:
                    running.cancel.set()

    def _give_up_in_time(self) -> None:
        """Cancel what may soon be given to another worker, because the queue does not hear us."""
        ttl_secs = self._queue.lease_ttl_secs
        for running in self._running.values():
            if now() - running.renewed_at >= ttl_secs - margin_secs(ttl_secs) and not running.cancel.is_set():
                log.warning("lease could not be renewed", extra={"job": running.job.id})
                running.cancel.set()
