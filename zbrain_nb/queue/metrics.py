"""What the queue counts of itself: plain numbers, added up as it works and read when somebody asks.

Nothing here names a person, an org or a job.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

import msgspec

from zbrain_nb.model.job import Job, JobState
from zbrain_nb.queue.turn import Fact

#: Upper bounds of buckets: seconds that jobs wait and run, seconds that commits take, and commands in a commit.
WAIT_SECS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)
RUN_SECS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
COMMIT_SECS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
COMMIT_COMMANDS = (1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10000.0)


class Histogram:
    """Counts of values by bucket.

    Parameters
    ----------
    bounds : tuple of float
        Upper bounds of the buckets, inclusive, growing; a last one takes the rest.
    """

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return, for each bound and then for infinity, how many values are not above it."""
        total, found = 0, []
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            total += count
            found.append((bound, total))
        return found


class Metrics:
    """Numbers since the queue was made, but for `states`, which are those of now.

    Attributes
    ----------
    states : Counter of JobState
        Jobs that have not ended, by state.
    ended : Counter of JobState
        Jobs that ended, by state.
    wait_secs : Histogram
        From submit to the first lease.
    run_secs : Histogram
        From lease to the end of an attempt.
    commit_secs, commit_commands : Histogram
        Time from hand-over to the writer until it is durable, and commands in a commit.
    commits_failed, log_lines, losses, poisoned, retries : int
        Commits of which nothing was written; lines; attempts lost; jobs ended for it; attempts that failed and are
        tried again.
    """

    def __init__(self) -> None:
        self.states: Counter[JobState] = Counter()
        self.ended: Counter[JobState] = Counter()
        self.wait_secs = Histogram(WAIT_SECS)
        self.run_secs = Histogram(RUN_SECS)
        self.commit_secs = Histogram(COMMIT_SECS)
        self.commit_commands = Histogram(COMMIT_COMMANDS)
        self.commits_failed = 0
        self.log_lines = 0
        self.losses = 0
        self.poisoned = 0
        self.retries = 0

    def begin(self, states: Iterable[JobState], *, parked: int) -> None:
        """Count the jobs that were found in the store: those in memory by state, and those that wait there."""
        self.states = Counter(states)
        self.states[JobState.PENDING] += parked

    def committed(self, commands: int, secs: float, *, failed: bool) -> None:
        """Count a commit."""
        self.commit_secs.add(secs)
        self.commit_commands.add(commands)
        self.commits_failed += failed

    def moved(self, fact: Fact, job: Job, before: Job) -> bool:
        """Count a change of a job; return whether it was the loss of an attempt."""
        state, old = job.state, before.state
        if state is not old:
            self.states[old] -= 1
            if state.ended:
                self.ended[state] += 1
            else:
                self.states[state] += 1
        if old is JobState.RUNNING:
            if state is not JobState.RUNNING and before.started_at is not None:
                self.run_secs.add(max(0.0, fact.ts - before.started_at.timestamp()))
        elif state is JobState.RUNNING and job.attempt == 1:
            self.wait_secs.add(max(0.0, fact.ts - job.created_at.timestamp()))
        if job.failures > before.failures and state is JobState.RETRYING:
            self.retries += 1
        if job.losses == before.losses:
            return False
        self.losses += 1
        self.poisoned += state is JobState.FAILED and job.spec.reruns_if_lost
        return True


class Measures(msgspec.Struct, kw_only=True):
    """All that a scrape shows: `Metrics`, and what is true at this moment.

    Attributes
    ----------
    blocked, canceling : int
        Pending jobs that wait for other jobs; running ones whose cancel was requested.
    lease_renewals : int
        Since the queue was opened.
    database_bytes, wal_bytes : int
        Sizes of the store's files.
    subscribers, event_lag, subscriber_lags, subscriber_resets, held_event_bytes : int
        See `zbrain_nb.queue.bus.Bus`.
    ring_jobs, ring_bytes : int
        What the ring holds.
    workers, slots, free_slots : int
        Registered workers and what they take at once, together.
    """

    metrics: Metrics
    blocked: int
    canceling: int
    lease_renewals: int
    database_bytes: int
    wal_bytes: int
    published_seq: int
    subscribers: int
    event_lag: int
    subscriber_lags: int
    subscriber_resets: int
    held_event_bytes: int
    ring_jobs: int
    ring_bytes: int
    workers: int
    slots: int
    free_slots: int
