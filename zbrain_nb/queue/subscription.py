"""`Subscription`: one follower's place among the events.

It gets every matching event once and in order. Events wait for it in memory up to a bound of number and size. When
they do not fit, no more are kept: what is missing is read from the store, page by page and only as fast as the
follower takes them, so that a slow one costs others nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import Forbidden, Malformed, ZBrainError
from zbrain_nb.model.events import JOB_ONLY, Event
from zbrain_nb.queue.notices import Notice
from zbrain_nb.store.events import EventQuery

if TYPE_CHECKING:
    from zbrain_nb.queue.bus import Bus

#: Live events that wait for one subscriber, and how large they may be together.
LIVE_EVENTS = 10_000
LIVE_BYTES = 8 * 1024 * 1024
#: What is handed out at once; a larger event goes alone.
BATCH_EVENTS = 5_000
BATCH_BYTES = 1024 * 1024
#: Rows read from the store at a time: few at first, more while pages stay small.
FIRST_PAGE, LAST_PAGE = 100, 20_000

#: Returns who follows as they stand now, or raises what ends the subscription.
Renew = Callable[[], Awaitable[Principal]]


class Subscription:
    """An async iterator of `Event`; also an async context manager that closes it.

    Some events concern the subscription itself, with no job and an empty topic. ``lagged`` says that live events did
    not fit and that from here on, once, they come from the store. ``reset`` says that events behind `after` are not
    in the store any more: its data holds the followed jobs as they are now, and live events go on from there.
    ``detached`` says, once, that somebody asked who waits to do so no longer.

    Attributes
    ----------
    position : int
        ``event_seq`` up to which everything was delivered: `after` for a next subscription.
    scope : Principal or None
        Who follows.
    waits : bool
        Whether its follower is held up until a job ends, and may be asked to go on.
    """

    def __init__(
        self,
        bus: Bus,
        topics: Iterable[str] | None,
        after: int | None,
        kinds: Container[str] | None = None,
        scope: Principal | None = None,
        renew: Renew | None = None,
        *,
        waits: bool = False,
    ) -> None:
        self.waits = waits
        self._is_detached = False  # and not told yet
        self.job_ids: list[str] | None = None
        self.org_ids: list[str] | None = None
        self._quiet: frozenset[str] = frozenset()
        if topics is not None:
            self.job_ids, self.org_ids, self._quiet = parse_topics(topics)
        self._bus = bus
        self._after = after
        self._kinds = kinds
        self._renew = renew
        self._admit(scope)
        # What is to be delivered: a page from the store, live events, and then, with `_has_gap`, what is only stored.
        self._page: deque[Notice] = deque()
        self._page_end = 0
        self._page_limit = FIRST_PAGE
        self._live: deque[Notice] = deque()
        self._live_bytes = 0
        self._has_gap = False
        self._lagged = False  # and not told yet
        self._dropped = 0
        self._is_catching_up = False
        self._unread: deque[Event] = deque()
        self._woken: asyncio.Future[None] | None = None
        self._is_closed = False
        self._refusal: ZBrainError | None = None  # why it was closed, if by others than its follower
        self.position = 0
        self.start()

    def _admit(self, scope: Principal | None) -> None:
        self.scope = scope
        self._seen = None if scope is None else scope.orgs

    def sees(self, org_id: str) -> bool:
        """Whether who follows sees what belongs to the org."""
        return self._seen is None or org_id in self._seen

    def start(self) -> None:
        """Take the place from which to go on: behind `after`, or behind all that was published."""
        published = self._bus.published_seq
        self.position = published if self._after is None else self._after
        # A number that was not given yet comes from another database: that is seen when the past is read.
        self._has_gap = self._is_catching_up = self.position != published

    @property
    def lag(self) -> int:
        """How far, in numbers of events, it is behind what was published; 0 if nothing waits for it."""
        if not (self._page or self._live or self._has_gap):
            return 0
        return max(0, self._bus.published_seq - self.position)

    def push(self, notice: Notice) -> None:
        """Add a live event; one that does not fit, and all that follow, will be read from the store."""
        if not self._is_wanted(notice):
            return
        if not self.sees(notice.org_id):
            return
        size = notice.size_bytes
        if not self._has_gap and not self._fits(size):
            self._has_gap = True
            if not self._is_catching_up:
                self._lagged = True
                self._is_catching_up = True
        if self._has_gap:
            self._dropped += 1
            return
        self._live.append(notice)
        self._live_bytes += size
        self._bus.held_bytes += size

    def _is_wanted(self, notice: Notice) -> bool:
        if self._quiet and notice.kind in JOB_ONLY and notice.job_id in self._quiet:
            return False
        return self._kinds is None or notice.kind in self._kinds

    def _fits(self, size: int) -> bool:
        if not self._live:
            return True  # one may be larger than all bounds
        return (
            len(self._live) < LIVE_EVENTS
            and self._live_bytes + size <= LIVE_BYTES
            and self._bus.held_bytes + size <= self._bus.max_held_bytes
        )

    def wake(self) -> None:
        """Let `next_batch` look again."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def detach(self) -> None:
        """Have the follower told that it shall wait no longer."""
        self._is_detached = True
        self.wake()

    async def next_batch(self) -> list[Event]:
        """Wait for events and return some, in order; an empty list means closed.

        Raises
        ------
        Unavailable
            If the store could not be read; the next call goes on from the same place.
        Unauthorized
            If who follows is not known any more.
        Forbidden
            If they are no member any more of an org of which they follow something. Who follows all goes on with what
            they still see.
        """
        return [notice.event() for notice in await self._next()]

    async def next_frame(self, quiet_secs: float | None = None) -> bytes:
        """Like `next_batch`, as a JSON array: no bytes mean closed, an empty array nothing for `quiet_secs`."""
        notices = await self._next(quiet_secs)
        if not notices and self._is_closed:
            return b""
        return b"[%b]" % b",".join([notice.raw() for notice in notices])

    async def _next(self, quiet_secs: float | None = None) -> list[Notice]:
        loop = asyncio.get_running_loop()
        quiet_at = math.inf if quiet_secs is None else loop.time() + quiet_secs
        if not self._bus.is_open and not self._is_closed:
            await self._bus.open()
        while not self._is_closed:
            if self._renew is not None:
                await self._admit_again(await self._renew())
            if self._is_detached:
                self._is_detached = False
                return [Notice.told("detached", self.position, time.time(), {})]
            notices = self._take()
            if not notices and self._has_gap:
                notices = [self._tell_lag()] if self._lagged else await self._read_past()
            if notices:
                return notices
            if not (self._page or self._live or self._has_gap or self._is_closed):
                self._is_catching_up = False
                if loop.time() >= quiet_at:
                    return []
                self._woken = loop.create_future()
                timer = None if quiet_secs is None else loop.call_at(quiet_at, self.wake)
                try:
                    await self._woken
                finally:
                    if timer is not None:
                        timer.cancel()
        if self._refusal is not None:
            raise self._refusal
        return []

    async def _admit_again(self, scope: Principal) -> None:
        """Go on for who follows as they stand now: of an org that they lost they get nothing, whatever waits here."""
        gone = frozenset() if self._seen is None or scope.orgs is None else self._seen - scope.orgs
        if gone and (lost := await self._followed_among(gone)):
            raise Forbidden(f"You are not a member of {' and '.join(sorted(lost))} any more.")
        self._admit(scope)

    async def _followed_among(self, orgs: frozenset[str]) -> frozenset[str]:
        """Return those of the orgs that are followed by name, or by a job of theirs."""
        named = orgs.intersection(self.org_ids or ())
        jobs = await self._bus.past.snapshot(self.job_ids or [], self.scope)
        return named | orgs.intersection(job["org_id"] for job in jobs)

    def _take(self) -> list[Notice]:
        """Return what is at hand, up to the bounds of one batch."""
        taken: list[Notice] = []
        room = BATCH_BYTES
        while self._page or self._live:
            source = self._page or self._live
            size = source[0].size_bytes
            if taken and (size > room or len(taken) >= BATCH_EVENTS):
                break
            notice = source.popleft()
            if source is self._live:
                self._live_bytes -= size
                self._bus.held_bytes -= size
                if notice.seq <= self.position:
                    continue  # it came by another topic already
                self.position = notice.seq
            else:
                self.position = notice.seq if self._page else self._page_end
            if not self.sees(notice.org_id):
                continue
            room -= size
            taken.append(notice)
        return taken

    def _tell_lag(self) -> Notice:
        self._lagged = False
        data = {"after": self.position, "upto": self._bus.published_seq, "dropped": self._dropped}
        self._dropped = 0
        self._bus.lags += 1
        return Notice.told("lagged", self.position, time.time(), data)

    async def _read_past(self) -> list[Notice]:
        """Read the next page from the store; return a reset if it is not there any more."""
        upto = self._bus.published_seq
        if self._is_lost(upto):
            return [await self._reset()]
        self._has_gap = False  # what is published from here on follows the page, if the page reaches so far
        whole = -1
        try:
            wanted = EventQuery(self.position, upto, self._page_limit, self.job_ids, self.org_ids, self._seen)
            found, whole = await self._bus.past.read(wanted)
        finally:
            if whole < upto:
                self._drop_live()
                self._has_gap = True
        if self._is_lost(upto):  # it was dropped while it was read
            return [await self._reset()]
        self._page.extend(filter(self._is_wanted, map(Notice.read, found)))
        self._page_end = whole
        if not self._page:
            self.position = whole
        self._fit_page_limit(sum(notice.size_bytes for notice in self._page))
        return self._take()

    def _fit_page_limit(self, size: int) -> None:
        if size <= BATCH_BYTES // 2:
            self._page_limit = min(LAST_PAGE, self._page_limit * 2)
        elif size > 2 * BATCH_BYTES:
            self._page_limit = max(FIRST_PAGE, self._page_limit // 2)

    def _is_lost(self, published: int) -> bool:
        """Whether events behind the position are in the store no more, or never were."""
        return self.position + 1 < self._bus.past.oldest() or self.position > published

    async def _reset(self) -> Notice:
        """Go on from now, with the followed jobs as they are."""
        bus, asked = self._bus, self.position
        self._drop_live()
        self._has_gap = self._lagged = False
        self.position = bus.published_seq
        try:
            jobs = await bus.past.snapshot(self.job_ids or [], self.scope)
        except BaseException:
            self.position, self._has_gap = asked, True
            raise
        bus.resets += 1
        data = {"after": asked, "oldest": bus.past.oldest(), "jobs": jobs, "orgs": self.org_ids or []}
        return Notice.told("reset", self.position, time.time(), data)

    def _drop_live(self) -> None:
        self._bus.held_bytes -= self._live_bytes
        self._live_bytes = 0
        self._live.clear()

    def close(self, refusal: ZBrainError | None = None) -> None:
        """End the subscription; whoever iterates over it gets to the end, or the refusal."""
        self._is_closed = True
        self._refusal = self._refusal or refusal
        self._drop_live()
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


def parse_topics(topics: Iterable[str]) -> tuple[list[str], list[str], frozenset[str]]:
    """Return the ids of the jobs and the names of the orgs, and those of the jobs whose states alone are wanted.

    Raises
    ------
    Malformed
        If a topic is none of ``jobs/ID``, ``states/ID`` and ``orgs/ORG``.
    """
    named: dict[str, list[str]] = {"jobs": [], "states": [], "orgs": []}
    for topic in topics:
        room, _, name = topic.partition("/")
        if room not in named or not name:
            raise Malformed(f"{topic!r} is no topic.", "Topics are jobs/ID, states/ID and orgs/ORG.")
        named[room].append(name)
    quiet = frozenset(named["states"]).difference(named["jobs"])
    return [*named["jobs"], *quiet], named["orgs"], quiet
