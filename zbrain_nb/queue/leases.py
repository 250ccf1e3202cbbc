"""Who runs what and until when, which workers there are, and the lease requests that wait for a job."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path

from zbrain_nb.model import datadir
from zbrain_nb.model.access import Principal
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import LeaseRequest, WorkerInfo
from zbrain_nb.queue.branches import Want
from zbrain_nb.queue.clock import Clock

#: Answers to lease requests kept for each worker, so that a repeat gets the same.
ANSWERS = 16


def is_seen(info: WorkerInfo) -> bool:
    """Whether this process sees the worker's locks, and so knows what of it lives, whatever the clock says.

    The boot id alone does not tell: containers of one machine have the same, and folders of their own.
    """
    if not info.folder or not info.boot_id or info.boot_id != datadir.boot_id():
        return False
    return datadir.is_locked(Path(info.folder) / "worker.lock")


class Lease:
    """A running attempt and until when, on the monotonic clock, its worker may stay silent.

    One that `is_revoked` is renewed no more, and nothing is taken from its attempt or given to it. It stands for the
    processes: their worker hears of this no more, and ends them when it has to without a word, or when they are done.

    Attributes
    ----------
    answers : int
        How many answers to its worker have brought the job: with none, nobody has it yet.
    """

    __slots__ = ("answers", "attempt", "ends_at", "is_revoked", "worker_id")

    def __init__(self, worker_id: str, attempt: int, ends_at: float, answers: int) -> None:
        self.worker_id = worker_id
        self.attempt = attempt
        self.ends_at = ends_at
        self.is_revoked = False
        self.answers = answers


class Leases:
    """Running attempts by job id. In memory only: after a restart each gets a full term of grace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ttl_secs = 300.0
        self.renewals = 0
        #: Workers that run jobs whose cancel was asked for since this was taken.
        self.canceling: set[str] = set()
        self._by_job: dict[str, Lease] = {}
        self._by_worker: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._by_job)

    def get(self, job_id: str) -> Lease | None:
        """Return the lease of a running job."""
        return self._by_job.get(job_id)

    def of(self, job_id: str, attempt: int) -> Lease | None:
        """Return the lease of this attempt, if it runs."""
        lease = self._by_job.get(job_id)
        return lease if lease is not None and lease.attempt == attempt else None

    def grant(self, job_id: str, worker_id: str, attempt: int, *, answers: int = 0) -> None:
        """Begin a lease."""
        self.release(job_id)
        self._by_job[job_id] = Lease(worker_id, attempt, self._clock.monotonic() + self.ttl_secs, answers)
        self._by_worker.setdefault(worker_id, set()).add(job_id)

    def renew(self, job_id: str) -> None:
        """Give the job's lease a full term from now."""
        self.renewals += 1
        self._by_job[job_id].ends_at = self._clock.monotonic() + self.ttl_secs

    def revoke(self, job_id: str) -> None:
        """Have the job's lease end when its time is over, and be worth nothing until then (see `Lease`)."""
        self._by_job[job_id].is_revoked = True

    def is_in_force(self, job_id: str, attempt: int | None = None, worker_id: str | None = None) -> bool:
        """Whether the job has a lease that was not revoked, of this attempt and worker if they are named."""
        lease = self._by_job.get(job_id)
        if lease is None or lease.is_revoked:
            return False
        return attempt in (None, lease.attempt) and worker_id in (None, lease.worker_id)

    def is_revoked(self, job_id: str, attempt: int) -> bool:
        """Whether the lease of this attempt was revoked."""
        lease = self.of(job_id, attempt)
        return lease is not None and lease.is_revoked

    def revoked(self) -> list[tuple[str, int]]:
        """Return the attempts whose leases were revoked."""
        return [(job_id, lease.attempt) for job_id, lease in self._by_job.items() if lease.is_revoked]

    def release(self, job_id: str) -> None:
        """End a lease; harmless if there is none."""
        lease = self._by_job.pop(job_id, None)
        if lease is not None:
            held = self._by_worker[lease.worker_id]
            held.discard(job_id)
            if not held:
                del self._by_worker[lease.worker_id]

    def jobs(self) -> list[str]:
        """Return the ids of all running jobs."""
        return list(self._by_job)

    def held_by(self, worker_id: str) -> list[str]:
        """Return the jobs that a worker runs, those of revoked leases too, in order of their ids."""
        return sorted(self._by_worker.get(worker_id, ()))

    def in_force_of(self, worker_id: str) -> list[str]:
        """Return the jobs that a worker may run, in order of their ids."""
        return [job_id for job_id in self.held_by(worker_id) if not self._by_job[job_id].is_revoked]

    def run_out(self) -> list[tuple[str, Lease]]:
        """Return the leases whose time is over."""
        now = self._clock.monotonic()
        return [(job_id, lease) for job_id, lease in self._by_job.items() if lease.ends_at <= now]


class Waiter:
    """A lease request in progress; the same for a repeat of the request.

    Attributes
    ----------
    scope : Principal or None
        Who asks.
    is_posted : bool
        Whether a command of it stands before the decider.
    is_over : bool
        Whether nobody waits any more: what is not decided yet shall not be.
    is_late : bool
        Whether the time to wait is over: what is decided next is the answer, whatever it is.
    """

    def __init__(self, worker: WorkerRecord, request: LeaseRequest, want: Want, scope: Principal | None = None) -> None:
        self.worker = worker
        self.scope = scope
        self.request = request
        self.want = want
        self.answered = asyncio.get_running_loop().create_future()
        self.is_posted = False
        self.is_over = False
        self.is_late = False
        self.listeners = 0

    answered: asyncio.Future[list[Job]]


class WorkerRecord:
    """A registered worker.

    Attributes
    ----------
    answers : dict of str to list of (job id, attempt)
        What its last lease requests got, by request id.
    waiting : dict of str to Waiter
        Its requests that wait, by request id.
    told : set of (job id, attempt)
        Cancels that were said to it in a lease answer: they do not cut short a long poll again.
    heard_at : float
        When it was last heard, on the monotonic clock.
    scope : Principal or None
        Who spoke for it then: when their token ends, so do its attempts.
    """

    def __init__(self, info: WorkerInfo) -> None:
        self.info = info
        self.scope: Principal | None = None
        self.answers: OrderedDict[str, list[tuple[str, int]]] = OrderedDict()
        self.waiting: dict[str, Waiter] = {}
        self.told: set[tuple[str, int]] = set()
        self.heard_at = 0.0

    def keep_answer(self, request_id: str, jobs: list[Job]) -> None:
        """Remember what a request got."""
        self.answers[request_id] = [(job.id, job.attempt) for job in jobs]
        if len(self.answers) > ANSWERS:
            self.answers.popitem(last=False)
