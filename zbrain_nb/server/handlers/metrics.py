"""``GET metrics``: the queue's numbers for Prometheus, gathered when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from zbrain_nb.model.job import JobState
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.queue.metrics import Histogram, Measures
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PERSONS, Content, operation


class QueueCollector(Collector):
    """Turns a queue's numbers into families of samples. No label names a person, an org or a job.

    Parameters
    ----------
    queue : JobQueue
        Whose numbers.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def describe(self) -> list[Metric]:
        """Say nothing beforehand, so that registering asks for no numbers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families as they are now."""
        now = self._queue.measures()
        yield _jobs(now)
        yield from _histories(now)
        yield from _counters(now)
        yield from _gauges(now)


def registry_of(queue: JobQueue) -> CollectorRegistry:
    """Return a registry of this queue and this process, and nothing else."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(QueueCollector(queue))
    ProcessCollector(registry=registry)
    return registry


class MetricsHandler(ApiHandler):
    """``GET metrics``."""

    counts_as_client = False

    @operation(admits=PERSONS, answers={200: Content("text/plain")})
    def get(self) -> None:
        """Show all numbers, in the format that the caller prefers."""
        self.principal.check_holder("read the metrics of all orgs")
        registry: CollectorRegistry = self.context.metrics
        encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        self.set_header("Content-Type", content_type)
        self.finish(encode(registry))


def _jobs(now: Measures) -> Metric:
    family = GaugeMetricFamily("zbrain_jobs", "Jobs that have not ended, and what they wait for.", labels=_LABELS)
    states = now.metrics.states
    pending, running = states[JobState.PENDING], states[JobState.RUNNING]
    for state, reason, count in (
        (JobState.PENDING, "worker", pending - now.blocked),
        (JobState.PENDING, "jobs", now.blocked),
        (JobState.RETRYING, "backoff", states[JobState.RETRYING]),
        (JobState.RUNNING, "", running - now.canceling),
        (JobState.RUNNING, "cancel", now.canceling),
    ):
        family.add_metric([state.value, reason], count)
    return family


_LABELS = ("state", "reason")


def _histories(now: Measures) -> Iterator[Metric]:
    metrics = now.metrics
    for name, text, histogram in (
        ("zbrain_job_wait_seconds", "From submit to the first lease.", metrics.wait_secs),
        ("zbrain_attempt_run_seconds", "From lease to the end of an attempt.", metrics.run_secs),
        ("zbrain_commit_seconds", "From hand-over to the writer until all is durable.", metrics.commit_secs),
        ("zbrain_commit_commands", "Commands that one commit made durable.", metrics.commit_commands),
    ):
        yield _histogram(name, text, histogram)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in histogram.cumulative()]
    family.add_metric([], buckets, histogram.sum)
    return family


def _counters(now: Measures) -> Iterator[Metric]:
    metrics = now.metrics
    ended = CounterMetricFamily("zbrain_jobs_ended", "Jobs that ended since the start.", labels=("state",))
    for state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED):
        ended.add_metric([state.value], metrics.ended[state])
    yield ended
    for name, text, value in (
        ("zbrain_commits_failed", "Commits of which nothing was written.", metrics.commits_failed),
        ("zbrain_log_lines", "Log lines that were committed.", metrics.log_lines),
        ("zbrain_attempts_lost", "Attempts whose worker vanished.", metrics.losses),
        ("zbrain_jobs_poisoned", "Jobs that failed for being lost too often.", metrics.poisoned),
        ("zbrain_attempts_retried", "Attempts that failed and are tried again.", metrics.retries),
        ("zbrain_lease_renewals", "Leases that were given a new term.", now.lease_renewals),
        ("zbrain_event_subscriber_lags", "How often a subscriber fell behind.", now.subscriber_lags),
        ("zbrain_event_subscriber_resets", "How often a subscriber asked for a lost past.", now.subscriber_resets),
    ):
        yield CounterMetricFamily(name, text, value=value)


def _gauges(now: Measures) -> Iterator[Metric]:
    for name, text, value in (
        ("zbrain_store_database_bytes", "Size of the database file.", now.database_bytes),
        ("zbrain_store_wal_bytes", "Size of the write-ahead log.", now.wal_bytes),
        ("zbrain_event_seq", "Number of the last event.", now.published_seq),
        ("zbrain_event_lag", "Events by which the slowest subscriber is behind.", now.event_lag),
        ("zbrain_event_subscribers", "Subscribers to events.", now.subscribers),
        ("zbrain_event_held_bytes", "Events that wait for subscribers, about.", now.held_event_bytes),
        ("zbrain_ring_jobs", "Jobs whose recent lines are in memory.", now.ring_jobs),
        ("zbrain_ring_bytes", "Recent lines in memory, about.", now.ring_bytes),
        ("zbrain_workers", "Registered workers.", now.workers),
        ("zbrain_worker_slots", "Jobs that all workers run at once.", now.slots),
        ("zbrain_worker_slots_free", "Jobs that they would take now.", now.free_slots),
    ):
        yield GaugeMetricFamily(name, text, value=value)
