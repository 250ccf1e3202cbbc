"""The face that overviews see: how many jobs an org has in each state, how the last minutes went, what is stored."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import Counter

import msgspec

from zbrain_nb.model.access import Principal, among
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.quotas import QuotaUse
from zbrain_nb.queue.jobreads import FOLD_BEFORE_LIST
from zbrain_nb.queue.usage import UsageSide
from zbrain_nb.store import overviews
from zbrain_nb.store.artifacts import Usage

#: How far back the series of an overview go.
MINUTES = 40
#: The artifact store is walked through at most so often, and for at most this part of the time.
USAGE_SECS, USAGE_SHARE = 60.0, 0.05
#: Is no org's name: its overview is that of an org without jobs.
NO_ORG = ""


class Overview(msgspec.Struct, kw_only=True):
    """What stands above the table of an org's jobs.

    Attributes
    ----------
    org_id : str
        Which org.
    orgs : list of str
        All that have jobs, and are seen by who asks.
    states : dict of JobState to int
        Jobs by state, all of them.
    oldest_pending_at : datetime or None
        When the job that waits longest was submitted.
    failed_last_day : int
        Jobs that failed in the last 24 hours.
    minutes : Minutes
        How the last `MINUTES` minutes went.
    quotas : list of QuotaUse
        How much is used of each limit that is set for the org, and for who asks.
    event_seq : int
        Events behind it change `states`.
    now : float
        The queue's clock, seconds since the epoch.
    """

    org_id: str
    orgs: list[str]
    states: dict[JobState, int]
    oldest_pending_at: dt.datetime | None
    failed_last_day: int
    minutes: overviews.Minutes
    quotas: list[QuotaUse]
    event_seq: int
    now: float


class OverviewSide(UsageSide):
    """Methods about all jobs of an org, and about the store."""

    _usage: Usage | None = None
    _usage_until = 0.0
    _measuring: asyncio.Task[Usage] | None = None

    async def overview(self, org_id: str | None = None, *, scope: Principal | None = None) -> Overview:
        """Return what stands above the table of an org's jobs; None is the home of who asks, or the default org."""
        await self.open()
        named = org_id or (self.default_org_id if scope is None else scope.home)
        org = named if scope is None or scope.sees(named) else NO_ORG
        if len(self._index.unfolded) > FOLD_BEFORE_LIST:
            await self._folder.fold()
        seq, now = self._bus.published_seq, self._clock.time()
        yesterday = now - overviews.DAY_SECS
        # Taken before the store is read: a row may be folded, and leave the memory, meanwhile.
        moved = [job for job in self._index.unfolded.values() if job.org_id == org]
        without = [job.id for job in moved]
        states = Counter(await self.storage.read(overviews.count_states, org, without))
        states.update(job.state.value for job in moved)
        return Overview(
            org_id=named,
            orgs=await self.storage.read(overviews.orgs, among(scope, None)),
            states={state: states[state.value] for state in JobState},
            # Nothing becomes pending again, so none of those that moved is.
            oldest_pending_at=await self.storage.read(overviews.oldest_pending, org, without),
            failed_last_day=await self.storage.read(overviews.failed_since, org, yesterday, without)
            + sum(job.state == JobState.FAILED and _end_of(job) >= yesterday for job in moved),
            minutes=await self.storage.read(overviews.minutes, org, now, MINUTES),
            quotas=self.uses(org, self.owner if scope is None else scope.owner),
            event_seq=seq,
            now=now,
        )

    async def artifact_usage(self) -> Usage:
        """Return what the artifact store holds; measured in a thread, and only now and then."""
        if self._usage is not None and time.monotonic() < self._usage_until:
            return self._usage
        if self._measuring is None or self._measuring.done():
            self._measuring = asyncio.get_running_loop().create_task(self._measure())
        return await asyncio.shield(self._measuring)

    async def _measure(self) -> Usage:
        begun = time.monotonic()
        self._usage = await asyncio.to_thread(self.artifacts.usage)
        ended = time.monotonic()
        self._usage_until = ended + max(USAGE_SECS, (ended - begun) / USAGE_SHARE)
        return self._usage


def _end_of(job: Job) -> float:
    return 0.0 if job.finished_at is None else job.finished_at.timestamp()
