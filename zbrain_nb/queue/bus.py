"""The bus: who follows which events. It receives subscribers; it knows none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable

from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import Unauthorized
from zbrain_nb.model.events import JOB_ONLY
from zbrain_nb.model.job import Job
from zbrain_nb.queue.notices import Notice
from zbrain_nb.queue.past import Past
from zbrain_nb.queue.quotas import QuotaBook, over_sockets
from zbrain_nb.queue.subscription import Renew, Subscription
from zbrain_nb.queue.turn import Fact

#: What all live events that wait for subscribers may take together, an event counted for each of them.
MAX_HELD_BYTES = 64 * 1024 * 1024


class Bus:
    """Publishes committed facts.

    Parameters
    ----------
    past : Past
        Where a subscription reads what it missed.
    open : callable
        Opens the queue; the first to wait for events does so if nobody did before.
    quotas : QuotaBook
        How many may follow.

    Attributes
    ----------
    published_seq : int
        Number of the last event that was published.
    held_bytes : int
        About what the events take that wait for subscribers.
    lags, resets : int
        How often a subscriber fell behind, and asked for what is kept no more.
    """

    def __init__(self, past: Past, open: Callable[[], Awaitable[object]], quotas: QuotaBook) -> None:
        self.past = past
        self.open = open
        self._quotas = quotas
        self.is_open = False
        self.published_seq = 0
        self.held_bytes = 0
        self.max_held_bytes = MAX_HELD_BYTES
        self.lags = 0
        self.resets = 0
        self._all: set[Subscription] = set()
        self._by_job: dict[str, set[Subscription]] = {}
        self._by_org: dict[str, set[Subscription]] = {}

    def __len__(self) -> int:
        return len(self._everybody())

    @property
    def lag(self) -> int:
        """How far, in numbers of events, the slowest subscriber is behind."""
        return max((subscription.lag for subscription in self._everybody()), default=0)

    def subscribe(
        self,
        topics: Iterable[str] | None,
        after: int | None,
        kinds: Container[str] | None = None,
        scope: Principal | None = None,
        renew: Renew | None = None,
        *,
        waits: bool = False,
    ) -> Subscription:
        """Add a subscriber (see `JobQueue.subscribe`)."""
        if scope is not None:
            self._check_room(scope)
        subscription = Subscription(self, topics, after, kinds, scope, renew, waits=waits)
        for members in self._places(subscription):
            members.add(subscription)
        return subscription

    def _check_room(self, scope: Principal) -> None:
        for what, name in (("org", scope.home), ("owner", scope.owner)):
            most = self._quotas.of(what, name).sockets
            if most is not None and (used := self.count_followers(what, name)) >= most:
                raise over_sockets(what, name, most, used)

    def count_followers(self, what: str, name: str) -> int:
        """Return how many follow events for an ``owner``, or for who has their home in an ``org``."""
        scopes = [subscription.scope for subscription in self._everybody()]
        return sum(name == (scope.home if what == "org" else scope.owner) for scope in scopes if scope is not None)

    def waiting(self, job_id: str, org_id: str) -> list[Subscription]:
        """Return who follows a job of an org that they see because they wait for its end."""
        followers = self._by_job.get(job_id, ())
        return [subscription for subscription in followers if subscription.waits and subscription.sees(org_id)]

    def start(self, last_seq: int) -> None:
        """Begin behind the last event that is committed."""
        self.published_seq = last_seq
        self.is_open = True
        for subscription in self._everybody():
            subscription.start()

    def _everybody(self) -> set[Subscription]:
        return {*self._all, *(s for table in (self._by_job, self._by_org) for m in table.values() for s in m)}

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscriber; harmless if it is forgotten."""
        for members in self._places(subscription):
            members.discard(subscription)
        for table, names in ((self._by_job, subscription.job_ids), (self._by_org, subscription.org_ids)):
            for name in names or ():
                if name in table and not table[name]:
                    del table[name]

    def _places(self, subscription: Subscription) -> Iterable[set[Subscription]]:
        if subscription.job_ids is None:
            return [self._all]
        jobs = [self._by_job.setdefault(name, set()) for name in subscription.job_ids]
        return jobs + [self._by_org.setdefault(name, set()) for name in subscription.org_ids or ()]

    def publish(self, facts: list[Fact | Job]) -> None:
        """Hand the facts of one commit to who follows them; a job stands for its submit."""
        if not facts:
            return
        last = facts[-1]
        self.published_seq = last.event_seq if isinstance(last, Job) else last.seq
        everything, by_job, by_org = self._all, self._by_job, self._by_org
        if not (everything or by_job or by_org):
            return
        woken: set[Subscription] = set()
        for said in facts:
            job_id, kind = (said.id, "job_submitted") if isinstance(said, Job) else (said.job_id, said.kind)
            of_org = by_org.get(said.org_id) if by_org and kind not in JOB_ONLY else None
            groups = [members for members in (everything, by_job.get(job_id), of_org) if members]
            if groups:
                notice = Notice.of(said)
                for members in groups:
                    woken |= members
                    for subscription in members:
                        subscription.push(notice)
        for subscription in woken:
            subscription.wake()

    def expel(self, is_out: Callable[[Principal], bool]) -> None:
        """End the subscriptions of the principals that are out, and say so to them."""
        for subscription in self._everybody():
            if subscription.scope is not None and is_out(subscription.scope):
                subscription.close(Unauthorized("The token that opened this was revoked, or has expired."))

    def close(self) -> None:
        """End every subscription."""
        self.is_open = False
        for subscription in self._everybody():
            subscription.close()
