"""A queue elsewhere, as `FifoScheduler` sees one: what is said at the same moment travels in one request.

Slots ask for jobs one by one, and send events one by one. Here they meet: at most one request with news is under
way, and what comes up meanwhile goes with the next. The end of a job and the lease of the next one are therefore
one round trip and one commit. When nothing but jobs is wanted, a long poll waits for them.

More may be leased than is wanted at the moment (`spares`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections import deque
from typing import NamedTuple

import msgspec

from zbrain_nb import __version__
from zbrain_nb.client.locating import locator
from zbrain_nb.model.datadir import boot_id
from zbrain_nb.model.errors import Conflict, InvalidSpec, StaleAttempt, Unavailable, WorkerNotFound, ZBrainError
from zbrain_nb.model.events import ENDINGS, AnyWorkerEvent, JobFailed
from zbrain_nb.model.ids import new_id
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import (
    EventBatch,
    EventResult,
    HeartbeatAnswer,
    HeartbeatRequest,
    LeaseAnswer,
    LeaseRequest,
    WorkerInfo,
)
from zbrain_nb.worker.fence import now
from zbrain_nb.worker.link import HttpLink, Link
from zbrain_nb.worker.patience import Patience, is_passing
from zbrain_nb.worker.sender import BATCH_BYTES
from zbrain_nb.worker.spares import Key, Spares

log = logging.getLogger(__name__)
LEASE_WAIT_SECS = 20.0
#: Events that may wait before `handle_worker_event` makes its caller wait too, in all and of an attempt put off.
BACKLOG = 10_000
MOST_PUT_OFF = 100
BATCH = 2_000
#: How many turns of the loop slots have to say what they have to, before a request is made of it.
TURNS = 8
_CLOSE_SECS = 5.0


class _Waiting(NamedTuple):
    event: AnyWorkerEvent
    taken: asyncio.Future[None] | None  # None when nobody waits for the answer
    size: int  # as JSON


class RemoteQueue:
    """The methods of a `JobQueue` that a scheduler needs, over a link; of one worker.

    Parameters
    ----------
    link : Link
        To the queue.
    kind : str
        Which jobs the worker takes.
    slots : int
        How many it runs at once, for those who look at the list of workers.
    isolates : bool
        Whether it keeps the jobs of several people apart (see `WorkerInfo`); with another token than the data
        directory's, that says it.

    Attributes
    ----------
    lease_ttl_secs : float
        How long the queue waits for a silent worker, as it said at the registration.
    """

    #: `acquire_lease` waits for a job, and may be cancelled: what was leased by then goes to the next caller.
    holds_requests = True

    def __init__(self, link: Link, *, kind: str = "local", slots: int = 1, isolates: bool = False) -> None:
        self.link = link
        self.lease_ttl_secs = 300.0
        self._info = WorkerInfo(
            id="",
            kind=kind,
            host=socket.gethostname(),
            boot_id=boot_id(),
            pid=os.getpid(),
            slots=slots,
            isolates=isolates,
            python=sys.executable,
            version=__version__,
            started_at=time.time(),
        )
        self._registering = asyncio.Lock()
        self._is_registered = False
        self._wanting: deque[asyncio.Future[Job | None]] = deque()
        self._spares = Spares(slots, self._return)
        self._giving: dict[Key, AnyWorkerEvent] = {}  # on their way back
        self._waiting: deque[_Waiting] = deque()
        self._running: set[Key] = set()
        self._put_off: dict[Key, list[_Waiting]] = {}  # of attempts whose log comes too fast for the queue
        self._trouble: dict[Key, ZBrainError] = {}  # of events whose sender did not wait for the answer
        self._drained = asyncio.Event()
        self._is_scheduled = False
        self._talk: asyncio.Task[None] | None = None
        self._poll: asyncio.Task[None] | None = None

    @classmethod
    def at(
        cls, url: str, token: str | None = None, *, kind: str = "local", slots: int = 1, isolates: bool = False
    ) -> RemoteQueue:
        """Return the queue of the server at `url`, its root (the token is ``ZBRAIN_TOKEN`` if none is given)."""
        return cls(HttpLink(locator(url, token, start=False)), kind=kind, slots=slots, isolates=isolates)

    async def acquire_lease(self, worker_id: str, org_id: str | None = None) -> Job | None:
        """Lease the next job; wait some seconds for one, and return None if there was none.

        Raises
        ------
        ZBrainError
            If the queue refuses, or is away.
        ValueError
            If `worker_id` or `org_id` is another than before: each worker has a link of its own.
        """
        await self._register(worker_id, org_id)
        if job := self._spares.take():
            return self._begin(job)
        asked: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        self._wanting.append(asked)
        self._schedule()
        try:
            return await asked
        except asyncio.CancelledError:
            if asked.done() and not asked.cancelled() and (job := asked.result()) is not None:
                self._keep_spare(job)  # it came at the same moment
            raise

    async def handle_worker_event(self, event: AnyWorkerEvent) -> None:
        """Send one event.

        An ending returns when it, and all before it, is durable. Others return when they are in line: what is
        wrong with them is raised at the next event of their attempt.

        Raises
        ------
        StaleAttempt
            If the attempt is over or another worker's.
        Conflict, InvalidSpec
            If events before it are missing, or it does not hold.
        """
        if event.attempt is None or event.seq is None:
            raise InvalidSpec("An event for a queue elsewhere needs its numbers.", "Send it through an EventSender.")
        size = _size(event)
        key = event.job_id, event.attempt
        ends = isinstance(event, ENDINGS)
        if trouble := self._trouble.get(key):
            self._spares.forget(key)
            if ends:
                self._running.discard(key)
                del self._trouble[key]
            raise trouble
        if ends:
            self._spares.end(key)
        taken = asyncio.get_running_loop().create_future() if ends else None
        self._put_off.get(key, self._waiting).append(_Waiting(event, taken, size))
        self._schedule()
        if taken is not None:
            try:
                await taken
            finally:
                self._running.discard(key)
                self._trouble.pop(key, None)
        while len(self._waiting) > BACKLOG or len(self._put_off.get(key, ())) > MOST_PUT_OFF:
            self._drained.clear()
            await self._drained.wait()

    async def heartbeat(self, worker_id: str, req: HeartbeatRequest) -> HeartbeatAnswer:
        """Renew the leases of attempts, and hear how each stands.

        Raises
        ------
        ZBrainError
            If the queue is away.
        """
        try:
            return await self.link.heartbeat(worker_id, req)
        except WorkerNotFound:
            self._is_registered = False
            await self._register(worker_id, self._info.org_id)
            return await self.link.heartbeat(worker_id, req)

    def forget(self, job: Job) -> None:
        """Hear that an attempt is over here, whether its ending was taken or not."""
        key = job.id, job.attempt
        self._running.discard(key)
        self._spares.forget(key)
        self._trouble.pop(key, None)

    async def close(self) -> None:
        """Send what waits, give back what was leased and is not run, and close the connections.

        A queue that is away is not waited for: let the scheduler end first.
        """
        self._spares.close()
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECS):
                while self._talk is not None:
                    await asyncio.wait({self._talk})
                    await asyncio.sleep(0)  # what it has left is taken up by the next
        if self._talk is not None:
            self._talk.cancel()
            await asyncio.gather(self._talk, return_exceptions=True)
        with contextlib.suppress(ZBrainError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECS):
                await self._give_back()
        await self.link.close()

    async def _give_back(self) -> None:
        ended = [_returned(job, "Its worker ended before the job could start.") for job in self._spares.clear()]
        back = [*self._giving.values(), *ended]
        if back:
            await self.link.send_events(self._info.id, EventBatch(back))

    def _begin(self, job: Job) -> Job:
        key = job.id, job.attempt
        self._running.add(key)
        self._spares.begin(key)
        return job

    def _keep_spare(self, job: Job, since: float | None = None) -> None:
        self._running.discard((job.id, job.attempt))
        self._spares.keep(job, since)

    def _return(self, job: Job) -> None:
        event = _returned(job, "Its worker was busy for longer than was thought.")
        self._giving[job.id, job.attempt] = event
        self._waiting.append(_Waiting(event, None, _size(event)))
        self._schedule()

    async def _register(self, worker_id: str, org_id: str | None) -> None:
        if self._is_registered and (worker_id, org_id) == (self._info.id, self._info.org_id):
            return
        async with self._registering:
            if self._info.id and (worker_id, org_id) != (self._info.id, self._info.org_id):
                raise ValueError(f"This link is of the worker {self._info.id!r} and its org.")
            self._info.id, self._info.org_id = worker_id, org_id
            if self._is_registered:
                return
            answer = await self.link.register(self._info)
            self.lease_ttl_secs = answer.lease_ttl_secs
            held = self._running | self._spares.keys()
            held |= {(event.job_id, event.attempt or 0) for event, _, _ in self._waiting}
            reason = "Its worker was started again."
            lost: list[AnyWorkerEvent] = [
                JobFailed(ref.job_id, attempt=ref.attempt, after=ref.high, seq=ref.high + 1, lost=True, reason=reason)
                for ref in answer.attempts
                if (ref.job_id, ref.attempt) not in held
            ]
            # while a request is under way these may be leases that it will be answered with
            if lost and self._poll is None and self._talk is None:
                await self.link.send_events(worker_id, EventBatch(lost))
            self._is_registered = True

    def _schedule(self) -> None:
        """Look some turns of the loop later what there is to say: slots that were answered together speak together."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._wait, TURNS)

    def _wait(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._wait, turns - 1)
        else:
            self._say()

    def _say(self) -> None:
        self._is_scheduled = False
        if self._talk is None and self._waiting:
            self._talk = asyncio.create_task(self._talk_once())
            self._talk.add_done_callback(self._talked)
        elif self._talk is None and self._poll is None and self._wanting:
            self._poll = asyncio.create_task(self._poll_once())
            self._poll.add_done_callback(self._polled)

    def _talked(self, task: asyncio.Task[None]) -> None:
        self._talk = None
        self._ended(task)

    def _polled(self, task: asyncio.Task[None]) -> None:
        self._poll = None
        self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        if error := task.exception():
            self._fail(error)
        if self._waiting or self._wanting:
            self._schedule()

    def _fail(self, error: BaseException) -> None:
        """Tell who waits for jobs; events are repeated until they are through."""
        failure = error if isinstance(error, ZBrainError) else Unavailable(f"The link failed: {error!r}.")
        if not isinstance(error, ZBrainError):
            log.error("link failed", exc_info=error)
        while self._wanting:
            asked = self._wanting.popleft()
            if not asked.done():
                asked.set_exception(failure)

    async def _talk_once(self) -> None:
        """Deliver what waits and, unless a poll does that already, ask for jobs."""
        batch = self._take_batch()
        if len(self._waiting) <= BACKLOG:
            self._drained.set()
        events = [waiting.event for waiting in batch]
        wanted = self._wanted() if self._poll is None else 0
        if wanted:  # nothing is leased ahead when nobody waits: who stops would lease for ever
            limit = wanted + max(0, self._spares.ahead() - len(self._spares))
            request = LeaseRequest(request_id=new_id(), limit=limit, sure=wanted, wait_secs=0.0, events=events)
            asked_at = now()
            answer = await self._insist_on_lease(request)
            self._hand_out(answer, wanted, is_final=False, asked_at=asked_at)
            results = answer.results
        else:
            results = await self._insist_on_events(EventBatch(events))
        self._settle(batch, results)

    def _take_batch(self) -> list[_Waiting]:
        """Return what goes next: as much as one request may carry, and what is larger alone."""
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < BATCH:
            size += self._waiting[0].size
            if batch and size > BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _poll_once(self) -> None:
        wanted = self._wanted()
        if not wanted:
            return
        request = LeaseRequest(
            request_id=new_id(),
            limit=wanted + self._spares.ahead(),
            sure=wanted,
            wait_secs=min(LEASE_WAIT_SECS, self.lease_ttl_secs / 4),
        )
        try:
            answer = await self._lease(request)
        except asyncio.CancelledError:
            request.wait_secs = 0.0
            with contextlib.suppress(ZBrainError, TimeoutError):
                async with asyncio.timeout(_CLOSE_SECS):
                    self._hand_out(await self.link.lease(self._info.id, request), wanted, is_final=True)
            raise
        self._hand_out(answer, wanted, is_final=True)

    def _wanted(self) -> int:
        """Return how many callers wait for a job; those that went away are forgotten."""
        if any(asked.done() for asked in self._wanting):
            self._wanting = deque(asked for asked in self._wanting if not asked.done())
        return len(self._wanting)

    def _hand_out(self, answer: LeaseAnswer, wanted: int, *, is_final: bool, asked_at: float | None = None) -> None:
        """Give jobs to who waits; with `is_final`, those who asked and got none are told so.

        The age of those that are kept counts from `asked_at`, for an answer may have come late.
        """
        for job in (lease.job for lease in answer.leases):
            while self._wanting and self._wanting[0].done():
                self._wanting.popleft()
            if self._wanting:
                self._wanting.popleft().set_result(self._begin(job))
            else:
                self._keep_spare(job, asked_at)
        if is_final and not answer.leases:
            for _ in range(min(wanted, len(self._wanting))):
                asked = self._wanting.popleft()
                if not asked.done():
                    asked.set_result(None)

    async def _lease(self, request: LeaseRequest) -> LeaseAnswer:
        try:
            return await self.link.lease(self._info.id, request)
        except WorkerNotFound:
            self._is_registered = False
            await self._register(self._info.id, self._info.org_id)
            return await self.link.lease(self._info.id, request)

    async def _insist_on_lease(self, request: LeaseRequest) -> LeaseAnswer:
        patience = Patience()
        while True:
            try:
                return await self._lease(request)
            except ZBrainError as error:
                if not (is_passing(error) or isinstance(error, WorkerNotFound)):
                    return LeaseAnswer(results=await self._insist_on_events(EventBatch(request.events)))
                log.warning("events wait for the queue", extra={"why": str(error)})
            await patience.wait()

    async def _insist_on_events(self, batch: EventBatch) -> list[EventResult]:
        patience = Patience()
        while True:
            try:
                return (await self.link.send_events(self._info.id, batch)).results
            except WorkerNotFound:
                self._is_registered = False
                with contextlib.suppress(ZBrainError):  # then the next try says so again
                    await self._register(self._info.id, self._info.org_id)
            except ZBrainError as error:
                if not is_passing(error):
                    if len(batch.events) == 1:
                        return _refused(batch.events, error)
                    # one of them is at fault, or they are too many: the others shall not suffer for it
                    alone = [await self._insist_on_events(EventBatch([event])) for event in batch.events]
                    return [result for results in alone for result in results]
                log.warning("events wait for the queue", extra={"why": str(error)})
            await patience.wait()

    def _settle(self, batch: list[_Waiting], results: list[EventResult]) -> None:
        by_key = {(result.job_id, result.attempt): result for result in results}
        for result in results:
            if result.status == "later":
                batch = self._hold(result, batch)
        for event, taken, _ in batch:
            key = event.job_id, event.attempt or 0
            self._giving.pop(key, None)
            error = _error_of(event, by_key.get(key))
            if error is not None and taken is None and key in self._running:
                self._trouble.setdefault(key, error)
            if taken is None or taken.done():
                continue
            if error is None:
                taken.set_result(None)
            else:
                taken.set_exception(self._trouble.get(key, error))

    def _hold(self, result: EventResult, batch: list[_Waiting]) -> list[_Waiting]:
        """Keep for a while what the queue wants later of an attempt; return the rest of the batch."""
        key = result.job_id, result.attempt

        def is_put_off(waiting: _Waiting) -> bool:
            event = waiting.event
            return (event.job_id, event.attempt or 0) == key and (event.seq or 0) > result.high

        self._put_off[key] = [waiting for waiting in (*batch, *self._waiting) if is_put_off(waiting)]
        self._waiting = deque(waiting for waiting in self._waiting if not is_put_off(waiting))
        asyncio.get_running_loop().call_later(result.wait_secs, self._go_on, key)
        return [waiting for waiting in batch if not is_put_off(waiting)]

    def _go_on(self, key: Key) -> None:
        self._waiting.extend(self._put_off.pop(key))
        self._drained.set()
        self._schedule()


def _size(event: AnyWorkerEvent) -> int:
    try:
        return len(msgspec.json.encode(event))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidSpec(f"What the event carries is not JSON: {error}.") from error


def _returned(job: Job, reason: str) -> AnyWorkerEvent:
    return JobFailed(
        job.id, attempt=job.attempt, after=0, seq=1, lost=True, unstarted=True, returned=True, reason=reason
    )


def _refused(events: list[AnyWorkerEvent], error: ZBrainError) -> list[EventResult]:
    keys = {(event.job_id, event.attempt or 0) for event in events}
    return [EventResult(*key, status="invalid", message=error.message) for key in keys]


def _error_of(event: AnyWorkerEvent, result: EventResult | None) -> ZBrainError | None:
    if result is None:
        return Unavailable("The queue said nothing of this event.")
    if result.status == "ok" or (result.status != "stale" and (event.seq or 0) <= result.high):
        return None
    if result.status == "stale":
        return StaleAttempt(f"Attempt {result.attempt} of job {result.job_id} is stale. {result.message}")
    if result.status == "gap":
        return Conflict(f"Events after {result.high} are missing.", high=result.high)
    return InvalidSpec(result.message)
