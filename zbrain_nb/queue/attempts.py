"""The face that shows how a job was tried: its attempts, and the jobs that repeat it or that it repeats."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from zbrain_nb.model.access import Principal
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.queue.clock import as_datetime
from zbrain_nb.queue.jobside import JobSide
from zbrain_nb.store import attempts
from zbrain_nb.store.storage import is_id

#: So many jobs of a chain of retries are looked for, each way.
MAX_CHAIN = 50

AttemptState = Literal["running", "succeeded", "failed", "lost", "canceled"]
_ENDS: dict[str, AttemptState] = {
    "job_completed": "succeeded",
    "job_failed": "failed",
    "job_retrying": "failed",
    "job_canceled": "canceled",
}


class Attempt(msgspec.Struct, kw_only=True):
    """One attempt of a job.

    Attributes
    ----------
    attempt : int
        Its number.
    state : str
        ``running``, ``succeeded``, ``failed``, ``canceled``, or ``lost`` with its worker.
    worker_id : str or None
        Who ran it.
    started_at, finished_at : datetime or None
        When it began and ended.
    exit_code : int or None
        Of its process.
    peak_memory_mb : float or None
        The most memory that its processes were seen to take, in MiB.
    cpu_secs : float or None
        CPU time of all its processes.
    reason : str or None
        Why it ended, in a sentence.
    """

    attempt: int
    state: AttemptState = "running"
    worker_id: str | None = None
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    exit_code: int | None = None
    peak_memory_mb: float | None = None
    cpu_secs: float | None = None
    reason: str | None = None


class AttemptSide(JobSide):
    """Methods about how a job was tried."""

    async def list_attempts(self, job_id: str, *, scope: Principal | None = None) -> list[Attempt]:
        """Return the job's attempts, oldest first, as far back as events are kept, the last one in any case."""
        if not is_id(job_id) or await self._is_hidden(job_id, scope):
            return []
        await self.open()
        found = attempts_of(await self.storage.read(attempts.steps, job_id))
        job = await self.get(job_id)
        last = last_attempt(job) if job is not None and not found else None
        return found if last is None else [last]

    async def retry_chain(self, job: Job, *, scope: Principal | None = None) -> list[Job]:
        """Return the jobs that `job` repeats, itself, and those that repeat it, oldest first."""
        chain = {job.id: job}
        before = job.retry_of
        while before is not None and before not in chain and len(chain) <= MAX_CHAIN:
            earlier = await self.get_many([before], scope=scope)
            if not earlier:
                break
            chain[before] = earlier[0]
            before = earlier[0].retry_of
        behind = [job.id]
        for _ in range(MAX_CHAIN):
            found = await self.storage.read(attempts.repeats, behind)
            behind = [job_id for job_id in found if job_id not in chain][:MAX_CHAIN]
            if not behind:
                break
            chain |= {later.id: later for later in await self.get_many(behind, scope=scope)}
        return sorted(chain.values(), key=lambda each: each.id)


def attempts_of(steps: Iterable[attempts.Step]) -> list[Attempt]:
    """Make attempts of the transitions by which they began and ended."""
    found: dict[int, Attempt] = {}
    fields: dict[str, Any] = {}  # a patch holds only what it changed
    for step in steps:
        losses = fields.get("losses", 0)
        fields |= step.patch
        if step.kind not in _ENDS:
            one = found.setdefault(step.attempt, Attempt(attempt=step.attempt))
            one.worker_id = fields.get("worker_id")
            one.started_at = as_datetime(step.ts)
        elif step.attempt in found and found[step.attempt].finished_at is None:  # else it waited for the next
            one = found[step.attempt]
            lost = fields.get("losses", 0) > losses
            one.state = "lost" if lost and step.kind != "job_canceled" else _ENDS[step.kind]
            one.finished_at = as_datetime(step.ts)
            one.exit_code = fields.get("exit_code")
            one.peak_memory_mb, one.cpu_secs = fields.get("peak_memory_mb"), fields.get("cpu_secs")
            one.reason = fields.get("reason")
    return [found[number] for number in sorted(found)]


def last_attempt(job: Job) -> Attempt | None:
    """Return what the job itself tells of its last attempt; None if it was never tried."""
    if not job.attempt:
        return None
    states: dict[JobState, AttemptState] = {
        JobState.SUCCEEDED: "succeeded",
        JobState.CANCELED: "canceled",
        JobState.RUNNING: "running",
    }
    return Attempt(
        attempt=job.attempt,
        state=states.get(job.state, "failed"),
        worker_id=job.worker_id,
        started_at=job.started_at,
        finished_at=job.finished_at,
        exit_code=job.exit_code,
        peak_memory_mb=job.peak_memory_mb,
        cpu_secs=job.cpu_secs,
        reason=job.reason,
    )
