"""The face that workers see: register, lease, heartbeat, events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from zbrain_nb.model.access import EVERY_JOB, Principal
from zbrain_nb.model.errors import (
    Conflict,
    InvalidSpec,
    JobNotFound,
    StaleAttempt,
)
from zbrain_nb.model.events import JobStarted, WorkerEvent
from zbrain_nb.model.job import Job, Resources
from zbrain_nb.model.protocol import (
    EventBatch,
    EventBatchAnswer,
    EventResult,
    HeartbeatAnswer,
    HeartbeatRequest,
    Lease,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    WorkerInfo,
    check_heartbeat,
    check_lease_request,
    check_worker,
)
from zbrain_nb.queue.bindings import admits, right_of, want_of
from zbrain_nb.queue.core import MUCH_BYTES, QueueCore
from zbrain_nb.queue.files import keep_files
from zbrain_nb.queue.intake import Reporter
from zbrain_nb.queue.leases import is_seen
from zbrain_nb.queue.turn import LookAgain, Turn

#: Events that are decided in one go: the loop waits for it.
EVENTS_AT_ONCE = 2_000


class WorkerSide(QueueCore):
    """Methods for workers."""

    async def acquire_lease(
        self,
        worker_id: str,
        org_id: str | None = None,
        kinds: Iterable[str] | None = None,
        resources: Resources | dict[str, Any] | None = None,
    ) -> Job | None:
        """Lease the next job for a worker, or return None at once.

        Parameters
        ----------
        worker_id : str
            Registered by this call if it is not.
        org_id : str, optional
            Jobs of this org only.
        kinds : iterable of str, optional
            Kinds of jobs; None is the worker's own.
        resources : Resources or dict, optional
            What is free; None is no limit.
        """
        await self.open()
        if not self._desk.is_registered(worker_id):
            await self.register_worker(WorkerInfo(id=worker_id))
        info = self._desk.record(worker_id).info
        free = msgspec.convert(resources, Resources) if isinstance(resources, dict) else resources
        want = want_of([info.kind] if kinds is None else kinds, org_id or info.org_id, EVERY_JOB, free)
        return await self._desk.acquire(worker_id, want)

    async def renew_lease(self, job_id: str, worker_id: str | None = None, attempt: int | None = None) -> bool:
        """Give a running attempt's lease a full term; return False if it is over or not the worker's."""
        await self.open()
        return self._desk.renew(job_id, worker_id, attempt)

    async def register_worker(self, info: WorkerInfo, *, scope: Principal | None = None) -> Registered:
        """Register a worker; one that is known goes on with its leases.

        Parameters
        ----------
        scope : Principal, optional
            Whose worker it is: it gets what their `binding` admits, and only they speak for it from now on.

        Raises
        ------
        InvalidSpec
            If a value does not hold, for example an id that no route can address.
        Forbidden
            If the id is another's, who asks may have no workers, or the worker asks for more than it may have.
        OverQuota
            If who asks has too many.
        """
        check_worker(info)
        await self.open()
        with self._desk.claim(info, scope) as kept:
            kept.seen_at = self._clock.time()
            text, gone = msgspec.json.encode(kept).decode(), self._desk.take_forgotten()
            await self.storage.write(lambda database: database.save_worker(kept.id, text, gone))
            answer = await self._desk.register(kept, scope)
        answer.is_fenced = not await asyncio.to_thread(is_seen, kept)
        if not answer.is_fenced and (scope is None or scope.is_holder):
            answer.blobs = str(self.artifacts.folder)
        return answer

    async def lease(self, worker_id: str, req: LeaseRequest, *, scope: Principal | None = None) -> LeaseAnswer:
        """Answer when a job fits or a cancel is due, else, empty, after ``wait_secs``.

        Events in the request are taken first, in the same commit if they are not very many, and the answer is then not
        held back.
        May be cancelled: what was leased by then is found by a repeat with the same ``request_id``, or was given back
        if its owner was asked about, or the token of who asks has ended (see `Withdrawals`).

        Raises
        ------
        InvalidSpec
            If a value of the request does not hold.
        WorkerNotFound
            If the worker has to register first, or is another's.
        Forbidden
            If it asks for a kind of jobs that is not its pool's, or who asks may have no workers.
        """
        check_lease_request(req)
        await self.open()
        if not req.events:
            return await self._desk.lease(worker_id, req, scope)
        self._desk.record(worker_id, scope)
        reporter = worker_id, right_of(scope)
        at_once = msgspec.structs.replace(req, wait_secs=0.0)
        if len(req.events) > EVENTS_AT_ONCE or await self._is_much(req.events):
            results = await self._take(req.events, reporter, scope)
            answer = await self._desk.lease(worker_id, at_once, scope)
            answer.results = results
            return answer
        taken = await self._post_events(req.events, reporter, scope)
        answer = await self._desk.lease(worker_id, at_once, scope)
        answer.results = await taken
        return answer

    def take_back(self, leases: Iterable[Lease]) -> None:
        """Take leases back that an answer was to bring and does not, for the token of who asked has ended meanwhile.

        Another worker gets those jobs, as if they had not been leased, unless another answer has brought them.
        """
        self._withdrawals.take_back([lease.job for lease in leases])

    async def heartbeat(
        self, worker_id: str, req: HeartbeatRequest, *, scope: Principal | None = None
    ) -> HeartbeatAnswer:
        """Renew a worker's leases and say how each of its attempts stands.

        Raises
        ------
        WorkerNotFound
            If the worker has to register first, or is another's.
        InvalidSpec
            If a value of the request does not hold.
        """
        check_heartbeat(req)
        await self.open()
        return await self._desk.heartbeat(worker_id, req, scope)

    def is_leased_to(self, scope: Principal, job: Job, attempt: int) -> bool:
        """Whether this is the job's running attempt, and a worker of who asks has its lease.

        Whoever holds the data directory speaks for every worker.
        """
        running = self.running_attempt(job.id, attempt)
        if running is None or running.worker_id is None or not admits(scope.binding, running):
            return False
        return scope.is_holder or self._desk.holder_of(running.worker_id) == scope.holder

    def org_worked_for(self, worker_id: str, scope: Principal) -> str | None:
        """Return the org of the job that a worker of who asks runs, of the oldest if there are more; else None."""
        if self._desk.holder_of(worker_id) != scope.holder:
            return None
        held = self._index.leases.in_force_of(worker_id)
        return self._index.live[held[0]].job.org_id if held else None

    def workers(self, *, scope: Principal | None = None) -> list[WorkerInfo]:
        """Return the registered workers, by id: to who asks, their own and those that serve all of an org of theirs."""
        return self._desk.workers(scope)

    async def take_events(
        self, worker_id: str, batch: EventBatch, *, scope: Principal | None = None
    ) -> EventBatchAnswer:
        """Take a worker's events; what is answered with ``ok`` is durable.

        Raises
        ------
        WorkerNotFound
            If the worker has to register first, or is another's.
        """
        await self.open()
        self._desk.record(worker_id, scope)
        reporter = worker_id, right_of(scope)
        return EventBatchAnswer(await self._take(batch.events, reporter, scope))

    async def handle_worker_event(self, event: WorkerEvent) -> None:
        """Take one event in process; without numbers it means the current attempt, and the next.

        Raises
        ------
        JobNotFound
            If there is no such job.
        StaleAttempt
            If the attempt is over or another worker's.
        Conflict
            If events before it are missing.
        InvalidSpec
            If it does not hold.
        """
        if await self.get(event.job_id) is None:
            raise JobNotFound(f"No job {event.job_id}.")
        if isinstance(event, JobStarted) and event.worker_id and not self._desk.is_registered(event.worker_id):
            await self.register_worker(WorkerInfo(id=event.worker_id))
        (result,) = await self._take([event], (None, EVERY_JOB))
        if result.status == "stale":
            raise StaleAttempt(f"Attempt {result.attempt} of job {event.job_id} is stale. {result.message}")
        if result.status == "gap":
            raise Conflict(f"Events after {result.high} are missing.", high=result.high)
        if result.status == "invalid":
            raise InvalidSpec(result.message)

    async def _take(
        self, events: Sequence[WorkerEvent], reporter: Reporter, scope: Principal | None = None
    ) -> list[EventResult]:
        """Take events, in parts if they, or the jobs, are much: others have their turn between two."""
        results: dict[tuple[str, int | None], EventResult] = {}
        start, number = 0, EVENTS_AT_ONCE
        while start < len(events):
            part = []
            for event in events[start : start + number]:
                before = results.get((event.job_id, event.attempt))
                if before is None or before.status == "ok":
                    part.append(event)
            if len(part) > 1 and await self._is_much(part):
                number = len(part) // 2
                continue
            start += number
            attempts = dict.fromkeys((event.job_id, event.attempt) for event in part)
            results.update(zip(attempts, await self._take_part(part, reporter, scope), strict=True))
        return list(results.values())

    async def _is_much(self, events: Sequence[WorkerEvent]) -> bool:
        return await self._weigh({event.job_id for event in events}) > MUCH_BYTES

    async def _take_part(
        self, events: Sequence[WorkerEvent], reporter: Reporter, scope: Principal | None
    ) -> list[EventResult]:
        while True:
            try:
                return await (await self._post_events(events, reporter, scope))
            except LookAgain:
                continue

    async def _post_events(
        self, events: Sequence[WorkerEvent], reporter: Reporter, scope: Principal | None
    ) -> asyncio.Future[list[EventResult]]:
        """Put events before the decider; what the future gives is durable."""
        kept, named = await keep_files(self.artifacts, events)
        worker_id, right = reporter
        jobs = {job_id: await self.get(job_id) for job_id in {job_id for job_id, _ in named}}
        left = [
            (job, name)
            for job_id, name in named
            if (job := jobs[job_id]) and worker_id in (None, job.worker_id) and admits(right, job)
        ]
        absent = await self.grants.take_left(left, scope)
        borrowed = await self._borrow({event.job_id for event in events})
        taken: list[WorkerEvent] = []

        def decide(turn: Turn) -> list[EventResult]:
            turn.borrow(borrowed)
            return self._intake.take(turn, kept, reporter, absent, taken)

        results = self._commits.post(decide)
        results.add_done_callback(lambda done: self.events.extend(taken) if _succeeded(done) else None)
        return results


def _succeeded(done: asyncio.Future[Any]) -> bool:
    return not done.cancelled() and done.exception() is None
