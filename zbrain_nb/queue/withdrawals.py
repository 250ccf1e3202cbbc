"""Takes jobs from workers that may not have them any more, and from owners who may not have them run any more.

The desk asks at each registration, heartbeat and lease. What ends here ends at once: as long as an attempt runs, its
token is worth something.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from zbrain_nb.model.access import Principal, WorkerBinding
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.job import Job
from zbrain_nb.queue.bindings import admits
from zbrain_nb.queue.commits import Commits
from zbrain_nb.queue.endings import Endings
from zbrain_nb.queue.index import Index

log = logging.getLogger(__name__)

#: Returns whether the owner of a job may have it run by now; raises Unavailable if that cannot be told.
MayRun = Callable[[Job], Awaitable[bool]]


async def anybody_may(job: Job) -> bool:
    """Let every job run: where people have no other login, the tokens that they hold are their standing."""
    return True


class Withdrawals:
    """Ends attempts that must not go on.

    Parameters
    ----------
    index, commits, endings
        The queue's.
    may_run : callable
        See `MayRun`.
    """

    def __init__(self, index: Index, commits: Commits, endings: Endings, may_run: MayRun) -> None:
        self._index = index
        self._commits = commits
        self._endings = endings
        self._may_run = may_run

    async def dismiss(self, worker_id: str, right: WorkerBinding) -> None:
        """End the attempts of a worker to which it has no right any more: who it works for left the org, say."""
        for job_id in self._index.leases.held_by(worker_id):
            entry = self._index.live.get(job_id)
            if entry is None or admits(right, entry.job):
                continue
            attempt, reason = entry.job.attempt, f"Its worker {worker_id} may not run it any more."
            log.warning("A worker lost a job.", extra={"job_id": job_id, "attempt": attempt, "worker_id": worker_id})
            await self._commits.run(partial(self._endings.lose, job_id=job_id, attempt=attempt, reason=reason))

    async def still_allowed(self, jobs: list[Job], scope: Principal | None) -> list[Job]:
        """Return those of the jobs just leased whose owners may have them run; the others end here.

        A person's own worker needs no look: it gets jobs of that person, in orgs where they may submit by now.
        """
        if scope is not None and scope.worker is None and not scope.is_holder:
            return jobs
        return [job for job in jobs if await self._is_allowed(job)]

    async def _is_allowed(self, job: Job) -> bool:
        what = f"{job.owner} may have jobs run in the org {job.org_id}"
        try:
            if await self._may_run(job):
                return True
            end = partial(self._endings.withdraw, reason=f"{what.replace('may', 'may not')} any more.")
        except Unavailable as error:
            reason = f"It is not known whether {what}: {error.message}"
            end = partial(self._endings.lose, reason=reason, returned=True)
        await self._commits.run(partial(end, job_id=job.id, attempt=job.attempt))
        return False
