"""The executor's side that lives in the client's loop: submits calls in lists, hears of all on one socket.

It knows calls and jobs, no futures: what becomes of a call is told to a `Desk`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

from msgspec.structs import replace

from zbrain_nb.client.asynchronous import AsyncClient
from zbrain_nb.client.blobs import FETCHES
from zbrain_nb.client.calls import PackedFunction, upload_function
from zbrain_nb.client.jobs import apply_event
from zbrain_nb.model.errors import InvalidSpec, JobNotFound, MissingBlobs, TooLarge, WrongState, ZBrainError
from zbrain_nb.model.events import Event
from zbrain_nb.model.job import CancelResult, Job, JobSpec, JobState
from zbrain_nb.model.packing import Parcel

log = logging.getLogger(__name__)
#: Calls in one submit.
SUBMIT_MANY = 1_000
#: Functions that are known to be at the server.
FUNCTIONS = 64


class Call:
    """One call on its way.

    Attributes
    ----------
    function : bytes
        As it was packed.
    arguments : Parcel or None
        As they were packed; None once the server has them.
    fields : mapping
        Fields of the spec.
    job : Job or None
        As last heard of; None until it was submitted.
    settled : asyncio.Event or None
        Set when it was submitted, or could not be; None while it is in line. One for all that leave it together.
    """

    __slots__ = ("arguments", "fields", "function", "job", "settled")

    def __init__(self, function: bytes, arguments: Parcel, fields: Mapping[str, Any]) -> None:
        self.function = function
        self.arguments: Parcel | None = arguments
        self.fields = fields
        self.job: Job | None = None
        self.settled: asyncio.Event | None = None


class Desk(Protocol):
    """Who is told what becomes of calls; all methods are called in the client's loop and must not block."""

    def started(self, call: Any) -> None:
        """Hear that the call's job runs."""

    def ended(self, call: Any, job: Job, data: bytes | None) -> None:
        """Hear that the call's job has ended; `data` is its pickled result."""

    def refused(self, call: Any, error: Exception) -> None:
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
        self._queue: OrderedDict[Call, None] = OrderedDict()  # in line; any can leave it at once
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
            self._queue[call] = None
            starts, self._is_pumping = not self._is_pumping, True
            return starts

    def withdraw(self, call: Call) -> bool:
        """Take a call out of the line, from any thread; return False if it has left it already."""
        with self._lock:
            if call not in self._queue:
                return False
            del self._queue[call]
            return True

    async def pump(self) -> None:
        """Submit what is in line until nothing is."""
        while calls := self._next():
            settled = asyncio.Event()
            for call in calls:
                call.settled = settled
            try:
                await self._try(calls)
            finally:
                settled.set()

    async def _try(self, calls: list[Call]) -> None:
        """Submit calls, or tell those that cannot be; of a list that is refused each half is tried again."""
        with self._telling(calls):
            try:
                await self._submit(calls)
            except (InvalidSpec, TooLarge):
                if len(calls) == 1:
                    raise
                middle = len(calls) // 2  # one is at fault, or they are too many: the others shall not suffer for it
                await self._try(calls[:middle])
                await self._try(calls[middle:])

    @contextmanager
    def _telling(self, calls: Iterable[Call] | None = None) -> Iterator[None]:
        """Tell these calls, or all that are followed, what goes wrong; these are then followed no more."""
        try:
            yield
        except Exception as error:  # whatever it is: a future that nobody tells waits for ever
            if calls is None:
                calls, self._calls = self._calls.values(), {}
            for call in calls:
                self._desk.refused(call, error)

    def _next(self) -> list[Call]:
        with self._lock:
            calls = [self._queue.popitem(last=False)[0] for _ in range(min(len(self._queue), SUBMIT_MANY))]
            self._is_pumping = bool(calls)
            return calls

    async def _submit(self, calls: list[Call]) -> None:
        seq: int | None = None
        if self._follower is None and not self._calls:  # from before the submit on, so that no event is missed
            _, seq = await self._client.lookup([])
        self._is_posting = True
        try:
            try:
                jobs = await self._client.submit(await self._specs(calls))
            except MissingBlobs:  # the server forgot a function that was not called for long
                self._functions.clear()
                jobs = await self._client.submit(await self._specs(calls))
            specs: dict[tuple[bytes, int], JobSpec] = {}
            for call, job in zip(calls, jobs, strict=True):
                # the arguments are with the server, and in all else the specs are equal: many calls shall take little
                if not job.spec.inputs:
                    job.spec = specs.setdefault((call.function, id(call.fields)), replace(job.spec, arguments=None))
                call.job, call.arguments = job, None
                self._calls[job.id] = call
            early, self._early = self._early, []
            self._take(early)
        finally:
            self._is_posting = False
            self._early.clear()
        if self._follower is None and self._calls:
            self._follower = asyncio.create_task(self._follow(f"orgs/{jobs[0].org_id}", seq))

    async def _specs(self, calls: list[Call]) -> list[JobSpec]:
        specs = []
        for call in calls:
            assert call.arguments is not None
            specs.append(await (await self._function(call)).spec_of(call.arguments, **call.fields))
        return specs

    async def _function(self, call: Call) -> PackedFunction:
        key = hashlib.sha256(call.function).digest()
        known = self._functions.get(key)
        if known is None:
            known = self._functions[key] = await upload_function(self._client, call.function, {})
            if len(self._functions) > FUNCTIONS:
                self._functions.popitem(last=False)
        return known

    async def _follow(self, topic: str, seq: int | None) -> None:
        """Hear of all calls that have not ended, from `seq` on; None is after a look at how they are now."""
        try:
            with self._telling():
                if seq is None:  # the follower before this one is gone: nobody has heard what happened since
                    seq = await self._look()
                async with aclosing(self._client.transport.events([topic], seq)) as events:
                    async for batch in events:
                        if any(event.kind == "reset" for event in batch):
                            await self._look()
                        self._take(batch)
        finally:
            if self._follower is asyncio.current_task():
                self._follower = None

    async def _look(self) -> int:
        """See how all calls are that have not ended; return from where on events tell of them."""
        asked = list(self._calls)
        jobs, seq = await self._client.lookup(asked)
        self._see(jobs)
        for job_id in set(asked).difference(job.id for job in jobs):
            call = self._calls.pop(job_id, None)
            if call is not None:
                self._desk.refused(call, JobNotFound(f"The server does not know job {job_id} any more."))
        return seq

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
        with self._telling([call]):
            async with self._room:
                data = await self._client.read(f"jobs/{job.id}/result")
            self._desk.ended(call, job, data)

    async def cancel(self, calls: list[Call]) -> list[bool]:
        """Cancel those of the calls that wait; return for each whether it is canceled."""
        # one that fails does not leave the others alone, with nobody to hear them
        answers = await asyncio.gather(*map(self._cancel, calls), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer is True for answer in answers]

    async def _cancel(self, call: Call) -> bool:
        if call.settled is not None:
            await call.settled.wait()
        if call.job is None:
            return False
        async with self._room:
            try:
                return await self._client.cancel(call.job.id, if_waiting=True) is CancelResult.CANCELED
            except WrongState:
                return False
            except ZBrainError as error:  # it was not canceled as far as anybody knows
                log.warning("call cannot be canceled", extra={"job": call.job.id, "why": str(error)})
                return False

    async def stop(self) -> None:
        """Close the socket; the next submit opens it again."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
