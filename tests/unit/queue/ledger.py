"""What must be so: the guarantees about jobs as plain arithmetic, kept beside a real queue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from zbrain_nb import Job, JobState
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, JobLogged, WorkerEvent

MAX_LOSSES = 3
Ending = JobCompleted | JobFailed | JobCanceled


@dataclass(eq=False, repr=False)
class Attempt:
    """One lease of one job, as its worker knows it.

    Attributes
    ----------
    high
        The highest ``worker_seq`` that was acknowledged.
    ends_at
        When the lease runs out, on the monotonic clock.
    """

    job: Known
    number: int
    worker_id: str
    ends_at: float
    high: int = 0

    def __repr__(self) -> str:
        return f"<{self.job.id} attempt {self.number}>"

    @property
    def is_running(self) -> bool:
        return self.job.state is JobState.RUNNING and self.job.attempts[-1] is self


@dataclass(eq=False, repr=False)
class Known:
    """One job: what it asked for, and where it has to stand."""

    id: str
    org_id: str
    priority: int
    order: int
    parents: list[Known]
    after_any: bool
    max_retries: int
    reruns_if_lost: bool
    retry_of: str | None = None
    key: str | None = None
    state: JobState = JobState.PENDING
    attempts: list[Attempt] = field(default_factory=list)
    failures: int = 0
    losses: int = 0
    cancel_requested: bool = False
    not_before: float = 0.0
    lines: list[tuple[int, str]] = field(default_factory=list)
    children: list[Known] = field(default_factory=list)
    epitaph: Job | None = None

    def __repr__(self) -> str:
        return f"<{self.id} {self.state} attempt {len(self.attempts)}>"

    def is_ready(self, now: float) -> bool:
        """Whether a worker could take it."""
        if self.state is JobState.PENDING:
            return all(parent.state.ended for parent in self.parents)
        return self.state is JobState.RETRYING and self.not_before <= now


class Ledger:
    """All jobs that were acknowledged."""

    def __init__(self) -> None:
        self.jobs: dict[str, Known] = {}
        self.attempts: list[Attempt] = []
        self.keys: dict[str, Known] = {}

    def submitted(self, job: Job, retry_of: str | None = None) -> Known:
        """Note a job that the queue took."""
        spec = job.spec
        known = Known(
            id=job.id,
            org_id=job.org_id,
            priority=spec.priority,
            order=len(self.jobs),
            parents=[self.jobs[parent] for parent in spec.after],
            after_any=spec.after_any,
            max_retries=spec.max_retries,
            reruns_if_lost=spec.reruns_if_lost,
            retry_of=retry_of,
            key=spec.idempotency_key,
        )
        assert known.id not in self.jobs, "an id was given twice"
        self.jobs[known.id] = known
        if known.key is not None:
            self.keys[known.key] = known
        for parent in known.parents:
            parent.children.append(known)
        if self._has_broken_parent(known):
            self._end(known, JobState.FAILED)
        return known

    def leased(self, job: Job, worker_id: str, ends_at: float, now: float) -> Attempt:
        """Note that the queue handed a job to a worker; it has to be one that may run."""
        known = self.jobs[job.id]
        assert known.is_ready(now), f"a job that is {known.state} was leased"
        known.state = JobState.RUNNING
        attempt = Attempt(known, len(known.attempts) + 1, worker_id, ends_at)
        assert job.attempt == attempt.number, "the attempt grows by one with each lease"
        known.attempts.append(attempt)
        self.attempts.append(attempt)
        return attempt

    def expected_status(self, event: WorkerEvent, worker_id: str) -> tuple[str, int]:
        """Return how the queue has to answer a worker's event, and with which high."""
        attempt = self._attempt_of(event)
        if event.seq <= attempt.high:
            return "ok", attempt.high
        if not attempt.is_running or worker_id != attempt.worker_id:
            return "stale", attempt.high
        return ("ok", event.seq) if event.after == attempt.high else ("gap", attempt.high)

    def told(self, event: WorkerEvent, now: float) -> None:
        """Note an event that the queue took; one that it took before changes nothing."""
        attempt = self._attempt_of(event)
        if event.seq <= attempt.high:
            return
        assert attempt.is_running
        assert event.after == attempt.high
        attempt.high = event.seq
        if isinstance(event, JobLogged):
            attempt.job.lines += [(attempt.number, text) for _, _, text in event.lines]
        elif isinstance(event, Ending):
            self._told_the_end(attempt.job, event, now)

    def _told_the_end(self, known: Known, event: Ending, now: float) -> None:
        if isinstance(event, JobFailed) and event.lost:
            self.lost(known, now)
        elif known.cancel_requested or isinstance(event, JobCanceled):
            self._end(known, JobState.CANCELED)
        elif isinstance(event, JobCompleted):
            self._end(known, JobState.SUCCEEDED)
        else:
            known.failures += 1
            if event.final or known.failures > known.max_retries:
                self._end(known, JobState.FAILED)
            else:
                known.state = JobState.RETRYING
                known.not_before = now + min(300.0, 2.0 ** (known.failures - 1))  # at the latest

    def lost(self, known: Known, now: float) -> None:
        """Note that the running attempt vanished."""
        known.losses += 1
        if known.cancel_requested:
            self._end(known, JobState.CANCELED)
        elif known.reruns_if_lost and known.losses < MAX_LOSSES:
            known.state = JobState.RETRYING
            known.not_before = now
        else:
            self._end(known, JobState.FAILED)

    def canceled(self, known: Known) -> str:
        """Note a cancel; return what it has to answer."""
        if known.state.ended:
            return "canceled" if known.state is JobState.CANCELED else "already_finished"
        known.cancel_requested = True
        if known.state is JobState.RUNNING:
            return "canceling"
        self._end(known, JobState.CANCELED)
        return "canceled"

    def ready(self, now: float) -> list[Known]:
        """Return the jobs that may run, within each org in the order in which they have to."""
        found = [known for known in self.jobs.values() if known.is_ready(now)]
        return sorted(found, key=lambda known: (-known.priority, known.order))

    def running(self, worker_id: str | None = None) -> list[Attempt]:
        """Return the attempts that run."""
        return [a for a in self.attempts if a.is_running and worker_id in (None, a.worker_id)]

    def in_state(self, *states: JobState) -> list[Known]:
        """Return the jobs in one of `states`, oldest first."""
        return [known for known in self.jobs.values() if known.state in states]

    def _attempt_of(self, event: WorkerEvent) -> Attempt:
        return self.jobs[event.job_id].attempts[event.attempt - 1]

    def _end(self, known: Known, state: JobState) -> None:
        assert not known.state.ended, "a terminal state absorbs"
        known.state = state
        broken: Iterable[Known] = () if state is JobState.SUCCEEDED else known.children
        for child in broken:
            if not child.state.ended and not child.after_any:
                self._end(child, JobState.FAILED)

    @staticmethod
    def _has_broken_parent(known: Known) -> bool:
        ends = [parent.state for parent in known.parents if parent.state.ended]
        return not known.after_any and any(state is not JobState.SUCCEEDED for state in ends)
