"""Jobs that a worker has leased ahead: how many, in what order they are handed out, and which go back.

Where jobs are so brief that a round trip takes longer than they do, more are leased than are wanted at the moment:
jobs that are run again when they are lost, for nobody would know which of them had begun. One that cannot start soon
after all goes back, as if it had never been leased.

Called by `RemoteQueue`, which leases them and sends back what has waited too long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from zbrain_nb.model.job import Job
from zbrain_nb.worker.fence import now

Key = tuple[str, int]
#: Jobs are leased ahead for so many seconds of work, and given back when they have waited for longer.
AHEAD_SECS = 0.02
RETURN_SECS = 0.1
AHEAD_JOBS = 256
_DECAY = 0.9


class _Spare(NamedTuple):
    job: Job
    since: float


class Spares:
    """Jobs leased ahead, or whose asker went away; and how brief jobs are of late.

    Parameters
    ----------
    slots : int
        How many jobs the worker runs at once.
    late : callable
        Takes each job that has waited too long; it is not run here any more.
    """

    def __init__(self, slots: int, late: Callable[[Job], None]) -> None:
        self._slots = slots
        self._late = late
        self._spares: deque[_Spare] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._job_secs = RETURN_SECS  # how long jobs take of late; a guess on the long side
        self._begun: dict[Key, float] = {}  # of those that have not said their end: when they were handed out

    def __len__(self) -> int:
        return len(self._spares)

    def keys(self) -> set[Key]:
        """Return the attempts that are here."""
        return {(job.id, job.attempt) for job, _ in self._spares}

    def take(self) -> Job | None:
        """Return the next job, if there is one that has not waited too long."""
        if self._spares and now() - self._spares[0].since > RETURN_SECS:
            self._return_late()
        return self._spares.popleft().job if self._spares else None

    def keep(self, job: Job, since: float | None = None) -> None:
        """Keep a job for who asks next; it waits from `since` on, or from now."""
        self.forget((job.id, job.attempt))
        self._spares.append(_Spare(job, now() if since is None else since))
        if self._timer is None and not self._is_closed:
            self._look_later()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(RETURN_SECS, self._return_late)

    def _return_late(self) -> None:
        """Give back the jobs that have waited too long, and look again when the next may have."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._spares and now() - self._spares[0].since > RETURN_SECS:
            self._late(self._spares.popleft().job)
        if self._spares and not self._is_closed:
            self._look_later()

    def begin(self, key: Key) -> None:
        """Hear that an attempt was handed out."""
        self._begun[key] = now()

    def end(self, key: Key) -> None:
        """Hear that it has ended."""
        if began := self._begun.pop(key, None):
            self._learn(now() - began)

    def _learn(self, secs: float) -> None:
        """Hear how long a job took: long ones are believed at once, short ones slowly."""
        self._job_secs = max(secs, _DECAY * self._job_secs + (1 - _DECAY) * secs)

    def forget(self, key: Key) -> None:
        """Hear that it is not run here any more, which says nothing of how long jobs take."""
        self._begun.pop(key, None)

    def ahead(self) -> int:
        """Return how many jobs to lease beyond those that are wanted now."""
        if self._is_closed:
            return 0
        moment = now()
        brisk = self._slots - sum(moment - began > AHEAD_SECS for began in self._begun.values())
        return min(AHEAD_JOBS, int(brisk * AHEAD_SECS / max(self._job_secs, 1e-6))) if brisk > 0 else 0

    def close(self) -> None:
        """Want no more ahead, and look no more whether any are late."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def clear(self) -> list[Job]:
        """Give up all that are here, and return them."""
        jobs = [spare.job for spare in self._spares]
        self._spares.clear()
        return jobs
