"""The roster: which workers have registered, and how each is, for who asks and for what is said to who waits.

The desk alone writes in it. How long a worker was silent counts on the monotonic clock: a clock that is set makes
nobody lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import WorkerNotFound
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import (
    MAX_LISTED_JOBS,
    HeartbeatRequest,
    WorkerInfo,
    WorkerState,
)
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.leases import Leases, WorkerRecord
from zbrain_nb.queue.quotas import over_workers

#: A worker is stale that has let so many heartbeats pass; they come this often, or more often if leases are short.
STALE_BEATS = 3
BEATS_IN_LEASE, LONGEST_BEAT_SECS = 5, 10.0
#: Who was lost is listed for so long.
LISTED_SECS = 86_400.0
#: So many workers of one person, and of one pool's token, are known at once: to list jobs takes a look at each.
MAX_PERSONS_WORKERS, MAX_POOLS_WORKERS = 100, 1_000


class Roster:
    """The registered workers.

    Parameters
    ----------
    leases : Leases
        Who runs what, and how long leases last.
    clock : Clock
        The queue's.
    """

    def __init__(self, leases: Leases, clock: Clock) -> None:
        self._leases = leases
        self._clock = clock
        self._records: dict[str, WorkerRecord] = {}
        self._by_holder: dict[str, dict[str, WorkerRecord]] = {}
        self._by_service: dict[tuple[str, str | None], dict[str, WorkerRecord]] = {}  # by kind of job and owner
        self._shared: dict[str, dict[str, WorkerRecord]] = {}  # those meant for several people, by kind of job
        #: What the store may forget.
        self.forgotten: set[str] = set()

    def __contains__(self, worker_id: object) -> bool:
        return worker_id in self._records

    def get(self, worker_id: str) -> WorkerRecord | None:
        """Return a worker, or None if it never registered; it was not heard by this."""
        return self._records.get(worker_id)

    def __iter__(self) -> Iterator[WorkerRecord]:
        return iter(self._records.values())

    def add(self, record: WorkerRecord, scope: Principal | None) -> None:
        """Take a worker in, in place of an older process of it, and forget who was lost long ago."""
        self._hear(record, scope)
        self._remove(record.info.id)
        for held in self._shelves(record.info):
            held[record.info.id] = record
        now = self._clock.monotonic()
        for worker_id, other in list(self._records.items()):
            if now - other.heard_at > max(LISTED_SECS, self._leases.ttl_secs) and not self._leases.held_by(worker_id):
                self._forget(worker_id)

    def make_room(self, scope: Principal, coming: int) -> None:
        """Forget the one of a principal's workers that was lost first, if no more fits beside `coming` others.

        Raises
        ------
        OverQuota
            If none of them is lost.
        """
        limit = MAX_PERSONS_WORKERS if scope.worker is None else MAX_POOLS_WORKERS
        known = self._by_holder.get(scope.holder, {})
        if len(known) + coming < limit:
            return
        lost = [record for record in known.values() if self._state(record) is WorkerState.LOST]
        idle = [record for record in lost if not self._leases.held_by(record.info.id)]
        if not idle:
            raise over_workers(scope.owner, limit, len(known) + coming)
        self._forget(min(idle, key=lambda record: record.heard_at).info.id)

    def _shelves(self, info: WorkerInfo) -> list[dict[str, WorkerRecord]]:
        """Return where the worker's record stands."""
        of_holder = self._by_holder.setdefault(info.holder, {})
        shelves = [self._records, of_holder, self._by_service.setdefault((info.kind, info.owner), {})]
        return [*shelves, self._shared.setdefault(info.kind, {})] if info.is_shared else shelves

    def _remove(self, worker_id: str) -> None:
        record = self._records.get(worker_id)
        if record is None:
            return
        info = record.info
        for held in self._shelves(info):
            del held[worker_id]
        if not self._by_holder[info.holder]:
            del self._by_holder[info.holder]
        if not self._by_service[info.kind, info.owner]:
            del self._by_service[info.kind, info.owner]

    def _forget(self, worker_id: str) -> None:
        self._remove(worker_id)
        self.forgotten.add(worker_id)

    def hear(self, worker_id: str, scope: Principal | None = None) -> WorkerRecord:
        """Return a worker that was just heard.

        Raises
        ------
        WorkerNotFound
            If it has to register first, or is another's than who speaks.
        Forbidden
            If who speaks may have no workers: some of a person's tokens may less than the one of the worker.
        """
        if scope is not None:
            scope.check_works()
        record = self._records.get(worker_id)
        if record is None or not speaks_for(scope, record.info):
            raise WorkerNotFound(f"No worker {worker_id!r} is registered.", "Register it again.")
        self._hear(record, scope)
        return record

    def beat(self, worker_id: str, request: HeartbeatRequest, scope: Principal | None = None) -> WorkerRecord:
        """Take what a worker says of itself.

        Raises
        ------
        WorkerNotFound, Forbidden
            As `hear` does.
        """
        record = self.hear(worker_id, scope)
        record.info.free = request.free
        record.info.state = request.state
        if request.health is not None:
            record.info.health = request.health
        if request.state is WorkerState.STOPPED and not self._leases.held_by(worker_id):
            self._forget(worker_id)
        return record

    def _hear(self, record: WorkerRecord, scope: Principal | None) -> None:
        record.scope = scope
        record.info.seen_at = self._clock.time()
        record.heard_at = self._clock.monotonic()

    def _state(self, record: WorkerRecord) -> WorkerState:
        said = record.info.state
        if said is WorkerState.STOPPED:
            return said
        ttl_secs = self._leases.ttl_secs
        silent_secs = self._clock.monotonic() - record.heard_at
        if silent_secs > ttl_secs:
            return WorkerState.LOST
        beat_secs = min(ttl_secs / BEATS_IN_LEASE, LONGEST_BEAT_SECS)
        return WorkerState.STALE if silent_secs > STALE_BEATS * beat_secs else said

    def list(self, scope: Principal | None, is_seen: Callable[[str], bool]) -> list[WorkerInfo]:
        """Return the workers of which `scope` knows as they are now, by id, with what is seen of jobs and orgs."""
        infos = []
        for worker_id in sorted(self._records):
            record = self._records[worker_id]
            if not knows(scope, record.info):
                continue
            held = self._leases.held_by(worker_id)
            jobs = [job_id for job_id in held if is_seen(job_id)][:MAX_LISTED_JOBS]
            orgs = record.info.orgs
            if orgs is not None and scope is not None:
                orgs = [org_id for org_id in orgs if scope.sees(org_id)]
            shown = {"state": self._state(record), "running": len(held), "jobs": jobs, "orgs": orgs, "holder": ""}
            infos.append(msgspec.structs.replace(record.info, **shown))
        return infos

    def serving(self, job: Job) -> Iterator[WorkerInfo]:
        """Return the workers that may take the job, as far as its kind, org and owner go."""
        kind = job.spec.kind
        own, anybodys = (self._by_service.get((kind, owner), {}).values() for owner in (job.owner, None))
        return self._fit((*own, *anybodys), job)

    def kinds_for(self, job: Job, reader: Principal | None) -> Sequence[str]:
        """Return of which kinds there are workers for the job's owner and org, of those that `reader` may know of."""
        offered = (held.values() for (_, owner), held in self._by_service.items() if owner in (None, job.owner))
        return sorted({info.kind for records in offered for info in self._fit(records, job) if knows(reader, info)})

    def refuses(self, job: Job) -> bool:
        """Whether a worker that is meant for several people would take the job if it kept them apart."""
        others = (
            one for one in self._shared.get(job.spec.kind, {}).values() if one.info.owner not in (None, job.owner)
        )
        return any(True for _ in self._fit(others, job))

    def _fit(self, records: Iterable[WorkerRecord], job: Job) -> Iterator[WorkerInfo]:
        for record in records:
            info = record.info
            if (
                info.org_id in (None, job.org_id)
                and (info.orgs is None or job.org_id in info.orgs)
                and self._state(record) in (WorkerState.LIVE, WorkerState.STALE)
            ):
                yield info


def speaks_for(scope: Principal | None, info: WorkerInfo) -> bool:
    """Whether who speaks is the worker's own principal, or may speak for all."""
    return scope is None or scope.is_holder or scope.holder == info.holder


def knows(scope: Principal | None, info: WorkerInfo) -> bool:
    """Whether who asks is told of the worker: it is theirs, or takes the jobs of everybody in an org of theirs."""
    if speaks_for(scope, info) or scope is None:
        return True
    if info.org_id is not None and not scope.sees(info.org_id):
        return False
    return info.owner is None and (info.orgs is None or any(map(scope.sees, info.orgs)))
