"""The executor's side that lives in the client's loop: submits calls in lists, hears of all on one socket.

It knows calls and jobs, no futures: what becomes of a call is told to a `Desk`.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, Protocol

from zbrain_nb.client.asynchronous import FETCHES, AsyncClient, apply_event
from zbrain_nb.client.calls import PackedFunction, upload_function
from zbrain_nb.model.errors import MissingBlobs, WrongState, ZBrainError
from zbrain_nb.model.events import Event
from zbrain_nb.model.job import CancelResult, Job, JobSpec, JobState

#: Calls in one submit.
SUBMIT_MANY = 1_000
#: Functions that are known to be at the server.
FUNCTIONS = 64


class Call:
    """One call on its way.

    Attributes
    ----------
    function, arguments : bytes
        As they were packed.
    fields : mapping
        Fields of the spec.
    job : Job or None
        As last heard of; None until it was submitted.
    settled : asyncio.Event
        Set when it was submitted, or could not be.
    """

    __slots__ = ("arguments", "fields", "function", "job", "settled")

    def __init__(self, function: bytes, arguments: bytes, fields: Mapping[str, Any]) -> None:
        self.function = function
        self.arguments = arguments
        self.fields = fields
        self.job: Job | None = None
        self.settled = asyncio.Event()


class Desk(Protocol):
    """Who is told what becomes of calls; all methods are called in the client's loop and must not block."""

    def started(self, call: Any) -> None:
        """Hear that the call's job runs."""

    def ended(self, call: Any, job: Job, data: bytes | None) -> None:
        """Hear that the call's job has ended; `data` is its pickled result."""

    def refused(self, call: Any, error: ZBrainError) -> None:
        """Hear that the call could not be submitted, or that nothing more can be learned of it."""


class Dispatch:
    """Submits calls and follows them.

    Parameters
    ----------
    client : AsyncClient
        Asks the server.
    desk : Desk
        Is told.
    """

    def __init__(self, client: AsyncClient, desk: Desk) -> None:
        self._client = client
        self._desk = desk
        self._lock = threading.Lock()
        self._queue: deque[Call] = deque()
        self._is_pumping = False
        self._calls: dict[str, Call] = {}
        self._functions: OrderedDict[bytes, PackedFunction] = OrderedDict()
        self._is_posting = False
        self._early: list[Event] = []
        self._follower: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(FETCHES)

    def add(self, call: Call) -> bool:
        """Put a call in line, from any thread; return whether `pump` has to be started."""
        with self._lock:
            self._queue.append(call)
            starts, self._is_pumping = not self._is_pumping, True
            return starts

    def withdraw(self, call: Call) -> bool:
        """Take a call out of the line, from any thread; return False if it has left it already."""
        with self._lock:
            if call not in self._queue:
                return False
            self._queue.remove(call)
            return True

    async def pump(self) -> None:
        """Submit what is in line until nothing is."""
        while calls := self._next():
            try:
                await self._submit(calls)
            except ZBrainError as error:
                for call in calls:
                    self._desk.refused(call, error)
            finally:
                for call in calls:
                    call.settled.set()

    def _next(self) -> list[Call]:
        with self._lock:
            calls = [self._queue.popleft() for _ in range(min(len(self._queue), SUBMIT_MANY))]
            self._is_pumping = bool(calls)
            return calls

    async def _submit(self, calls: list[Call]) -> None:
        seq = 0
        if self._follower is None:  # events are read from before the submit on, so that none is missed
            _, seq = await self._client.lookup([])
        self._is_posting = True
        try:
            try:
                jobs = await self._client.submit(await self._specs(calls))
            except MissingBlobs:  # the server forgot a function that was not called for long
                self._functions.clear()
                jobs = await self._client.submit(await self._specs(calls))
            for call, job in zip(calls, jobs, strict=True):
                call.job = job
                self._calls[job.id] = call
            early, self._early = self._early, []
            self._take(early)
        finally:
            self._is_posting = False
            self._early.clear()
        if self._follower is None and self._calls:
            self._follower = asyncio.create_task(self._follow(f"orgs/{jobs[0].org_id}", seq))

    async def _specs(self, calls: list[Call]) -> list[JobSpec]:
        return [await (await self._function(call)).spec_of(call.arguments, **call.fields) for call in calls]

    async def _function(self, call: Call) -> PackedFunction:
        key = hashlib.sha256(call.function).digest()
        known = self._functions.get(key)
        if known is None:
            known = self._functions[key] = await upload_function(self._client, call.function, {})
            if len(self._functions) > FUNCTIONS:
                self._functions.popitem(last=False)
        return known

    async def _follow(self, topic: str, seq: int) -> None:
        events = self._client.transport.events([topic], seq)
        try:
            async for batch in events:
                for event in batch:
                    if event.kind == "reset":
                        self._see((await self._client.lookup(list(self._calls)))[0])
                self._take(batch)
        except ZBrainError as error:
            calls, self._calls = self._calls, {}
            for call in calls.values():
                self._desk.refused(call, error)
        finally:
            self._follower = None
            await events.aclose()

    def _take(self, events: list[Event]) -> None:
        for event in events:
            call = self._calls.get(event.job_id)
            if call is None:
                if self._is_posting:
                    self._early.append(event)
            elif call.job is not None and event.seq > call.job.event_seq:
                self._see([apply_event(call.job, event)])

    def _see(self, jobs: list[Job]) -> None:
        for job in jobs:
            call = self._calls.get(job.id)
            if call is None:
                continue
            call.job = job
            if job.state.ended:
                del self._calls[job.id]
                if job.result is None:
                    self._desk.ended(call, job, None)
                elif job.result.data is not None:
                    self._desk.ended(call, job, job.result.data)
                else:
                    task = asyncio.create_task(self._fetch(call, job))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
            elif job.state is JobState.RUNNING:
                self._desk.started(call)

    async def _fetch(self, call: Call, job: Job) -> None:
        try:
            async with self._room:
                data = await self._client.read(f"jobs/{job.id}/result")
        except ZBrainError as error:
            self._desk.refused(call, error)
        else:
            self._desk.ended(call, job, data)

    async def cancel(self, calls: list[Call]) -> list[bool]:
        """Cancel those of the calls that wait; return for each whether it is canceled."""
        return await asyncio.gather(*map(self._cancel, calls))

    async def _cancel(self, call: Call) -> bool:
        await call.settled.wait()
        if call.job is None:
            return False
        async with self._room:
            try:
                return await self._client.cancel(call.job.id, if_waiting=True) is CancelResult.CANCELED
            except WrongState:
                return False

    async def stop(self) -> None:
        """Close the socket."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
