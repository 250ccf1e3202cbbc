"""What workers sent and the queue took, for who wants to watch in this process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import msgspec

from zbrain_nb.model.events import JobLogged, JobStarted, WorkerEvent
from zbrain_nb.store.footprint import extra_bytes
from zbrain_nb.store.lines import LINE_BYTES

MAX_EVENTS = 10_000
MAX_BYTES = 8 * 1024 * 1024
#: What an event takes beside what it carries, about.
_EVENT_BYTES = 400


class TakenEvents:
    """A bounded async iterator of worker events.

    When nobody reads, the oldest are dropped. The events carry their numbers, so handling one again changes
    nothing.

    Parameters
    ----------
    limit : int
        How many are kept.
    limit_bytes : int
        About how much memory they take; one event may be larger.
    """

    def __init__(self, limit: int = MAX_EVENTS, limit_bytes: int = MAX_BYTES) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._events: deque[tuple[WorkerEvent, int]] = deque()
        self._bytes = 0
        self._woken: asyncio.Future[None] | None = None

    def extend(self, events: list[WorkerEvent]) -> None:
        """Add events."""
        for event in events:
            size = _size(event)
            self._events.append((event, size))
            self._bytes += size
        while len(self._events) > self._limit or (self._bytes > self._limit_bytes and len(self._events) > 1):
            self._bytes -= self._events.popleft()[1]
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def __aiter__(self) -> AsyncIterator[WorkerEvent]:
        return self

    async def __anext__(self) -> WorkerEvent:
        while not self._events:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        event, size = self._events.popleft()
        self._bytes -= size
        return event


def _size(event: WorkerEvent) -> int:
    if isinstance(event, JobLogged):
        return _EVENT_BYTES + sum([len(line[2]) for line in event.lines]) + LINE_BYTES * len(event.lines)
    if isinstance(event, JobStarted):
        return _EVENT_BYTES
    try:
        text = msgspec.json.encode(event, enc_hook=str)
    except (ValueError, TypeError):  # callers in this process may send what JSON cannot say
        text = repr(event).encode()
    return _EVENT_BYTES + extra_bytes(text)
