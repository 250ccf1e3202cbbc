"""The bus: who follows which events. It receives subscribers; it knows none.

A subscription gets every matching event once and in order. Live events wait for it in memory up to a bound; one
that lags behind that, or that begins in the past, reads from the store until it has caught up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any

import msgspec

from zbrain_nb.model.errors import Malformed
from zbrain_nb.model.events import JOB_ONLY, Event, WorkerEvent
from zbrain_nb.model.job import Job, shown
from zbrain_nb.queue.turn import Fact
from zbrain_nb.store.queries import StoredEvent

#: Live events that wait for one subscriber.
BACKLOG = 10_000
#: Rows read from the store at a time.
PAGE = 2_000

#: ``read(after, upto, job_ids, org_ids, limit)``: events from the store, and up to where they are complete.
Reader = Callable[[int, int, list[str] | None, list[str] | None, int], Awaitable[tuple[list[StoredEvent], int]]]


class Bus:
    """Publishes committed facts.

    Parameters
    ----------
    read : Reader
        How a subscription reads what it missed.
    open : callable
        Opens the queue; the first to wait for events does so if nobody did before.
    """

    def __init__(self, read: Reader, open: Callable[[], Awaitable[object]]) -> None:
        self.read = read
        self.open = open
        self.is_open = False
        self.published_seq = 0
        self._all: set[Subscription] = set()
        self._by_job: dict[str, set[Subscription]] = {}
        self._by_org: dict[str, set[Subscription]] = {}

    def __len__(self) -> int:
        return len(self._everybody())

    def subscribe(self, topics: Iterable[str] | None, after: int | None) -> Subscription:
        """Add a subscriber (see `JobQueue.subscribe`)."""
        subscription = Subscription(self, topics, after)
        for members in self._places(subscription):
            members.add(subscription)
        return subscription

    def start(self, last_seq: int) -> None:
        """Begin behind the last event that is committed."""
        self.published_seq = last_seq
        self.is_open = True
        for subscription in self._everybody():
            subscription.start()

    def _everybody(self) -> set[Subscription]:
        return {*self._all, *(s for table in (self._by_job, self._by_org) for m in table.values() for s in m)}

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscriber; harmless if it is forgotten."""
        for members in self._places(subscription):
            members.discard(subscription)
        for table, names in ((self._by_job, subscription.job_ids), (self._by_org, subscription.org_ids)):
            for name in names or ():
                if name in table and not table[name]:
                    del table[name]

    def _places(self, subscription: Subscription) -> Iterable[set[Subscription]]:
        if subscription.job_ids is None:
            return [self._all]
        jobs = [self._by_job.setdefault(name, set()) for name in subscription.job_ids]
        return jobs + [self._by_org.setdefault(name, set()) for name in subscription.org_ids or ()]

    def publish(self, facts: list[Fact | Job]) -> None:
        """Hand the facts of one commit to who follows them; a job stands for its submit."""
        if not facts:
            return
        last = facts[-1]
        self.published_seq = last.event_seq if isinstance(last, Job) else last.seq
        if not (self._all or self._by_job or self._by_org):
            return
        woken: set[Subscription] = set()
        for said in facts:
            job_id, kind = (said.id, "job_submitted") if isinstance(said, Job) else (said.job_id, said.kind)
            targets = self._all | self._by_job.get(job_id, _NOBODY)
            if kind not in JOB_ONLY:
                targets |= self._by_org.get(said.org_id, _NOBODY)
            if targets:
                event = _event(_submitted(said) if isinstance(said, Job) else said)
                for subscription in targets:
                    subscription.push(event)
                woken |= targets
        for subscription in woken:
            subscription.wake()

    def close(self) -> None:
        """End every subscription."""
        self.is_open = False
        for subscription in self._everybody():
            subscription.close()


_NOBODY: frozenset[Any] = frozenset()


def _submitted(job: Job) -> Fact:
    ts = job.created_at.timestamp()
    return Fact(job.event_seq, "job_submitted", job.id, job.org_id, 0, ts, shown(job))


def _event(fact: Fact) -> Event:
    topic = f"jobs/{fact.job_id}"
    return Event(fact.seq, topic, fact.kind, fact.job_id, fact.attempt, fact.ts, fact.data, fact.org_id)


def _stored(event: StoredEvent) -> Event:
    if event.job is not None:
        data = shown(event.job)
    elif event.kind == "job_logged":
        data = {"entries": msgspec.to_builtins(event.entries)}
    else:
        data = event.data or {}
    return Event(
        event.seq, f"jobs/{event.job_id}", event.kind, event.job_id, event.attempt, event.ts, data, event.org_id
    )


class Subscription:
    """An async iterator of `Event`; also an async context manager that closes it.

    Attributes
    ----------
    position : int
        ``event_seq`` up to which everything was delivered: `after` for a next subscription.
    """

    def __init__(self, bus: Bus, topics: Iterable[str] | None, after: int | None) -> None:
        self.job_ids: list[str] | None = None
        self.org_ids: list[str] | None = None
        if topics is not None:
            self.job_ids, self.org_ids = _parse(topics)
        self._bus = bus
        self._after = after
        self.position = 0
        self._is_behind = False
        self.start()
        self._live: deque[Event] = deque()
        self._unread: deque[Event] = deque()
        self._woken: asyncio.Future[None] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Take the place from which to go on: behind `after`, or behind all that was published."""
        self.position = self._bus.published_seq if self._after is None else self._after
        self._is_behind = self._after is not None and self._after < self._bus.published_seq

    def push(self, event: Event) -> None:
        """Add a live event; past the bound all are dropped and will be read from the store."""
        if len(self._live) >= BACKLOG:
            self._live.clear()
            self._is_behind = True
        if not self._is_behind:
            self._live.append(event)

    def wake(self) -> None:
        """Let `next_batch` look again."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def next_batch(self) -> list[Event]:
        """Wait for events and return all that are there, in order; an empty list means closed."""
        if not self._bus.is_open and not self._is_closed:
            await self._bus.open()
        while not self._is_closed:
            if self._is_behind:
                events = await self._read_page()
            else:
                events = [event for event in self._live if event.seq > self.position]
                self._live.clear()
                if events:
                    self.position = events[-1].seq
            if events:
                return events
            if not self._is_behind and not self._live and not self._is_closed:
                self._woken = asyncio.get_running_loop().create_future()
                await self._woken
        return []

    async def _read_page(self) -> list[Event]:
        upto = self._bus.published_seq
        found, whole = await self._bus.read(self.position, upto, self.job_ids, self.org_ids, PAGE)
        self.position = whole
        # What was published while the page was read is not in it, and push() kept none of it.
        self._is_behind = whole < self._bus.published_seq
        return [_stored(event) for event in found]

    def close(self) -> None:
        """End the subscription; whoever iterates over it gets to the end."""
        self._is_closed = True
        self._bus.unsubscribe(self)
        self.wake()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if not self._unread:
            self._unread.extend(await self.next_batch())
        if not self._unread:
            raise StopAsyncIteration
        return self._unread.popleft()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _parse(topics: Iterable[str]) -> tuple[list[str], list[str]]:
    jobs, orgs = [], []
    for topic in topics:
        room, _, name = topic.partition("/")
        if room == "jobs" and name:
            jobs.append(name)
        elif room == "orgs" and name:
            orgs.append(name)
        else:
            raise Malformed(f"{topic!r} is no topic.", "Topics are jobs/ID and orgs/ORG.")
    return jobs, orgs


class TakenEvents:
    """What workers sent and the queue took, for who wants to watch: a bounded async iterator.

    When nobody reads, the oldest are dropped. The events carry their numbers, so handling one again changes
    nothing.
    """

    def __init__(self, limit: int = BACKLOG) -> None:
        self._events: deque[WorkerEvent] = deque(maxlen=limit)
        self._woken: asyncio.Future[None] | None = None

    def extend(self, events: list[WorkerEvent]) -> None:
        """Add events."""
        self._events.extend(events)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def __aiter__(self) -> AsyncIterator[WorkerEvent]:
        return self

    async def __anext__(self) -> WorkerEvent:
        while not self._events:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        return self._events.popleft()
