"""The face of who would rather not run what ran before: the job that gave it."""

from __future__ import annotations

import asyncio

from zbrain_nb.model.access import Principal
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.queue.core import QueueCore
from zbrain_nb.store import queries

#: So many of the newest jobs under a key are looked at, for one that has ended well and whose files are here.
LOOKED_AT = 20


class CachedSide(QueueCore):
    """Methods about what jobs gave under a cache key."""

    async def cached_job(self, cache_key: str, *, owner: str, scope: Principal | None = None) -> Job | None:
        """Return the owner's newest job that succeeded under a cache key, and of which everything is still here.

        That is its value, variables and files, and its log and outputs: a job that is older than the events that
        are kept is not found.
        """
        await self.open()
        rows = await self.storage.read(queries.jobs_of_cache_key, owner, cache_key, self._bus.past.oldest(), LOOKED_AT)
        for job in map(self._present, rows):
            if scope is not None and not scope.sees(job.org_id):
                continue
            if job.state is JobState.SUCCEEDED and await self._is_whole(job):
                return job
        return None

    async def _is_whole(self, job: Job) -> bool:
        """Whether all blobs are here that an ended job has left."""
        left = [one.sha256 for one in job.variables] + [one.sha256 for one in job.artifacts]
        if job.result is not None and job.result.data is None:
            left.append(job.result.sha256)
        return not await asyncio.to_thread(self.artifacts.missing, left)
