"""`JobQueue`: the face of the queue, in the process that owns the store."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from pathlib import Path

from zbrain_nb.model.access import Principal
from zbrain_nb.model.job import Job
from zbrain_nb.queue.attempts import AttemptSide
from zbrain_nb.queue.batches import BatchSide
from zbrain_nb.queue.cached import CachedSide
from zbrain_nb.queue.history import HistorySide
from zbrain_nb.queue.metrics import Measures
from zbrain_nb.queue.operating import OperatorSide
from zbrain_nb.queue.overview import OverviewSide
from zbrain_nb.queue.submits import Accepted
from zbrain_nb.queue.subscription import Renew, Subscription
from zbrain_nb.queue.workerside import WorkerSide

__all__ = ["Accepted", "JobQueue"]


class JobQueue(BatchSide, CachedSide, AttemptSide, WorkerSide, OperatorSide, HistorySide, OverviewSide):
    """A durable job queue.

    All methods belong to one event loop. The queue opens itself when it is first used.

    Parameters
    ----------
    storage : Storage
        Where jobs are kept. Closed together with the queue, unless it is in memory.
    artifacts : path or ArtifactStore
        Where blobs are kept.
    lease_ttl_secs : float
        How long a silent worker keeps its jobs; may be changed later.
    default_org_id : str
        The org of jobs that name none.
    owner : str or None
        The owner of jobs submitted without one; None is the account of this process.
    clock : Clock
        For tests.
    quotas : Quotas
        How much an org or an owner may use; no limits unless given. Orgs may have own ones besides (`set_limits`).
    """

    def subscribe(
        self,
        topics: Iterable[str] | None = None,
        after: int | None = None,
        kinds: Container[str] | None = None,
        *,
        scope: Principal | None = None,
        renew: Renew | None = None,
        waits: bool = False,
    ) -> Subscription:
        """Follow events.

        Parameters
        ----------
        topics : iterable of str, optional
            ``jobs/{id}``, ``states/{id}`` (without log and outputs) and ``orgs/{org}``; None is everything.
        after : int, optional
            First all events with a greater number, from the store; None begins now.
        kinds : container of str, optional
            Only events of these kinds; None is all.
        scope : Principal, optional
            Who follows: events of orgs that they do not see are left out, and unseen jobs are like unknown ones.
        renew : callable, optional
            Asked before events are handed out: returns who follows, as it stands by then, or raises what ends it.
        waits : bool
            Whether the follower waits for the end of a job, and wants to hear when it shall not (see `detach`).

        Returns
        -------
        Subscription
            Each matching event once, in order.

        Raises
        ------
        Malformed
            If a topic is none.
        OverQuota
            If `scope` has no room for one more follower.
        """
        return self._bus.subscribe(topics, after, kinds, scope, renew, waits=waits)

    def count_waiting(self, job: Job) -> int:
        """Return how many followers wait for the job's end now."""
        return len(self._bus.waiting(job.id, job.org_id))

    def detach(self, job: Job, *, scope: Principal | None = None) -> int:
        """Ask all who wait for the job to do so no longer; return how many they are. The job goes on.

        Raises
        ------
        Forbidden
            If who asks may not cancel the job either.
        """
        if scope is not None:
            scope.check_cancel(job.org_id, job.owner)
        waiting = self._bus.waiting(job.id, job.org_id)
        for subscription in waiting:
            subscription.detach()
        return len(waiting)

    def expel(self, is_out: Callable[[Principal], bool]) -> None:
        """End what is open for principals whose token has ended: subscriptions, lease requests, their workers' leases.

        A worker that was heard with another token since goes on with its attempts, as when a token is replaced.
        Requests for jobs that are on their way, and do not wait here yet, ask `is_out` before they get any.
        """
        self._bus.expel(is_out)
        self._desk.expel(is_out)

    def database_bytes(self) -> int:
        """Return the size of the database, with its write-ahead log."""
        path = self.storage.path
        return _size(path) + _size(path and path.with_name(path.name + ".wal"))

    def measures(self, *, scope: Principal | None = None) -> Measures:
        """Return the queue's numbers, over all orgs, for a scrape.

        Raises
        ------
        Forbidden
            If who asks does not hold the data directory.
        """
        if scope is not None:
            scope.check_holder("read the metrics of all orgs")
        bus, ring, path = self._bus, self._watch.ring, self.storage.path
        live, workers = self._index.live, self.workers()
        blocked = {child for children in self._index.children.values() for child in children}
        held = [live[job_id] for job_id in self._index.leases.jobs() if job_id in live]
        return Measures(
            metrics=self._watch.metrics,
            blocked=sum(job_id in live for job_id in blocked),
            canceling=sum(entry.job.cancel_requested_at is not None for entry in held),
            lease_renewals=self._index.leases.renewals,
            database_bytes=_size(path),
            wal_bytes=_size(path and path.with_name(path.name + ".wal")),
            published_seq=bus.published_seq,
            subscribers=len(bus),
            event_lag=bus.lag,
            subscriber_lags=bus.lags,
            subscriber_resets=bus.resets,
            held_event_bytes=bus.held_bytes,
            ring_jobs=len(ring),
            ring_bytes=ring.held_bytes,
            workers=len(workers),
            slots=sum(info.slots for info in workers),
            free_slots=sum(info.free for info in workers),
        )


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path is not None else 0
    except FileNotFoundError:
        return 0
