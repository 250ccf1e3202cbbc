"""What followers of events ask of the store: events that they missed, and jobs as they are now."""

from __future__ import annotations

from typing import Any, Protocol

from zbrain_nb.model.access import Principal
from zbrain_nb.model.job import Job, shown
from zbrain_nb.store.events import EventQuery, StoredEvent, events_between
from zbrain_nb.store.storage import Storage


class Look(Protocol):
    """`JobQueue.get`."""

    async def __call__(self, job_id: str, *, scope: Principal | None = None) -> Job | None:
        """Return a job as it is now, or None."""


class Past:
    """What subscriptions ask about events that they did not hear.

    Parameters
    ----------
    storage : Storage
        Where events are kept.
    look : callable
        Returns a job as it is now, or None.
    """

    def __init__(self, storage: Storage, look: Look) -> None:
        self._storage = storage
        self._look = look

    async def read(self, wanted: EventQuery) -> tuple[list[StoredEvent], int]:
        """Return events in order, and up to which number they are complete.

        Raises
        ------
        Unavailable
            If the database refused.
        """
        return await self._storage.read(events_between, wanted)

    def oldest(self) -> int:
        """Return the first number from which on all events are kept; it grows before events are dropped."""
        oldest: int = getattr(self._storage, "oldest_event_seq", 0)
        return oldest

    async def snapshot(self, job_ids: list[str], scope: Principal | None) -> list[dict[str, Any]]:
        """Return jobs as they are now, as readers see them; unknown and unseen ones are left out."""
        jobs = [await self._look(job_id, scope=scope) for job_id in job_ids]
        return [shown(job) | {"name": job.name} for job in jobs if job is not None]
