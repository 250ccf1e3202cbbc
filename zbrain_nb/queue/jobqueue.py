"""`JobQueue`: the face of the queue, in the process that owns the store."""

from __future__ import annotations

from collections.abc import Iterable

from zbrain_nb.queue.batches import BatchSide
from zbrain_nb.queue.bus import Subscription
from zbrain_nb.queue.operating import OperatorSide
from zbrain_nb.queue.submits import Accepted
from zbrain_nb.queue.workerside import WorkerSide

__all__ = ["Accepted", "JobQueue"]


class JobQueue(BatchSide, WorkerSide, OperatorSide):
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
    limits : Limits
        How many jobs an org or an owner may have; none unless given.
    """

    def subscribe(self, topics: Iterable[str] | None = None, after: int | None = None) -> Subscription:
        """Follow events.

        Parameters
        ----------
        topics : iterable of str, optional
            ``jobs/{id}`` and ``orgs/{org}``; None is everything.
        after : int, optional
            First all events with a greater number, from the store; None begins now.

        Returns
        -------
        Subscription
            Each matching event once, in order.

        Raises
        ------
        Malformed
            If a topic is none.
        """
        return self._bus.subscribe(topics, after)
