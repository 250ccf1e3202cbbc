"""The desk at which workers register, ask for jobs and say that they live; it also notices who fell silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from zbrain_nb.model import datadir
from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import Forbidden
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.protocol import (
    AttemptRef,
    HeartbeatAnswer,
    HeartbeatRequest,
    Lease,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    Verdict,
    WorkerInfo,
    WorkerState,
)
from zbrain_nb.queue import ready
from zbrain_nb.queue.background import Background
from zbrain_nb.queue.bindings import admits, binding_of, check_pool, notice_of, refusal, right_of, want_of
from zbrain_nb.queue.branches import Want
from zbrain_nb.queue.clock import Clock, as_datetime
from zbrain_nb.queue.commits import Commits
from zbrain_nb.queue.endings import Endings
from zbrain_nb.queue.index import Entry, Index
from zbrain_nb.queue.leases import Waiter, WorkerRecord
from zbrain_nb.queue.offers import is_enough, named, shortfall
from zbrain_nb.queue.parked import Parked
from zbrain_nb.queue.roster import Roster
from zbrain_nb.queue.turn import Turn
from zbrain_nb.queue.withdrawals import Withdrawals, token_ended

log = logging.getLogger(__name__)
#: Requests of one worker that wait at once; one more, and the first gets nothing.
MAX_WAITING = 4
#: Jobs that one answer brings at most, whatever it was asked for: the loop waits for it. A worker asks again.
LEASES_AT_ONCE = 1_000


class WorkerDesk:
    """Leases.

    Parameters
    ----------
    index, commits, endings, clock, withdrawals
        The queue's.
    """

    def __init__(
        self, index: Index, commits: Commits, endings: Endings, clock: Clock, withdrawals: Withdrawals
    ) -> None:
        self._index = index
        self._commits = commits
        self._endings = endings
        self._clock = clock
        self._withdrawals = withdrawals
        self._roster = Roster(index.leases, clock)
        self._parked = Parked()
        self._is_closed = False
        self._looking = Background(self._look_again)
        #: Workers of before a restart, which may still hold the locks of their attempts.
        self.known_before: dict[str, WorkerInfo] = {}
        #: Who registers each worker just now, once for each request: a client may send its own a second time.
        self._registering: dict[str, list[str]] = {}

    async def close(self) -> None:
        """Answer the requests that wait, with nothing, as those that come to it later."""
        self._is_closed = True
        await self._looking.stop()
        for waiter in self._parked:
            self._give_up(waiter)

    def expel(self, is_out: Callable[[Principal], bool]) -> None:
        """Answer the requests of the principals that are out, with nothing, and revoke the leases of their workers."""
        for waiter in self._parked:
            if waiter.scope is not None and is_out(waiter.scope):
                self._give_up(waiter)
        deaf = [record.info.id for record in self._roster if record.scope is not None and is_out(record.scope)]
        if deaf:
            self._withdrawals.take_from(deaf)

    def workers(self, scope: Principal | None = None) -> list[WorkerInfo]:
        """Return the registered workers of which `scope` knows, by id."""

        def is_seen(job_id: str) -> bool:
            return scope is None or scope.sees(self._index.live[job_id].job.org_id)

        return self._roster.list(scope, is_seen)

    def holder_of(self, worker_id: str) -> str | None:
        """Return who registered the worker, before a restart too; None if nobody did."""
        if worker_id in self._registering:
            return self._registering[worker_id][0]
        record = self._roster.get(worker_id)
        info = record.info if record is not None else self.known_before.get(worker_id)
        return None if info is None else info.holder

    @contextmanager
    def claim(self, info: WorkerInfo, scope: Principal | None) -> Iterator[WorkerInfo]:
        """Give the worker's record as the queue keeps it; meanwhile nobody else gets its id.

        Raises
        ------
        Forbidden
            If the id is another's, who asks may have no workers, or the worker asks for more than it may have.
        OverQuota
            If who asks has too many.
        """
        self._roster.forgotten.discard(info.id)
        binding = binding_of(scope, info)
        if scope is None or scope.is_holder:
            yield msgspec.structs.replace(info, owner=binding.owner, orgs=None, is_shared=scope is not None, holder="")
            return
        scope.check_works()
        holder = self.holder_of(info.id)
        if holder not in (None, scope.holder):
            raise Forbidden(f"The worker {info.id} is another's.", "Give this one an id of its own.")
        if info.org_id is not None and binding.orgs is not None and info.org_id not in binding.orgs:
            raise Forbidden(f"A worker of {scope.owner} gets no jobs of the org {info.org_id}.")
        check_pool(binding, [info.kind])
        self._check_room(info.id, scope)
        claims = self._registering.setdefault(info.id, [])
        claims.append(scope.holder)
        try:
            # Of a folder that a stranger names nothing is read: its worker is as one on another machine.
            orgs = None if binding.orgs is None else sorted(binding.orgs)
            known: dict[str, Any] = {"owner": binding.owner, "orgs": orgs, "is_shared": scope.binding.owner is None}
            known |= {"isolates": binding.isolates, "runs_others": False}
            yield msgspec.structs.replace(info, **known, holder=scope.holder, folder=None)
        finally:
            claims.pop()
            if not claims:
                del self._registering[info.id]

    def _check_room(self, worker_id: str, scope: Principal) -> None:
        if worker_id in self._roster or worker_id in self._registering:
            return
        others = [other for other, claims in self._registering.items() if claims[0] == scope.holder]
        self._roster.make_room(scope, sum(other not in self._roster for other in others))

    def take_forgotten(self) -> list[str]:
        """Return which workers are forgotten since this was asked."""
        forgotten = list(self._roster.forgotten)
        self._roster.forgotten.clear()
        return forgotten

    async def register(self, info: WorkerInfo, scope: Principal | None) -> Registered:
        """Add a worker, or take a new process of one for the old."""
        await self._withdrawals.dismiss(info.id, right_of(scope))
        old = self._roster.get(info.id)
        state = WorkerState.DRAINING if info.state is WorkerState.DRAINING else WorkerState.LIVE
        record = WorkerRecord(msgspec.structs.replace(info, state=state))
        if old is not None:
            record.answers = old.answers
            for waiter in list(old.waiting.values()):
                self._give_up(waiter)
        else:
            log.info("A worker registered.", extra={"worker_id": info.id, "kind": info.kind, "host": info.host})
        self._roster.add(record, scope)
        attempts = []
        for job_id in self._index.leases.in_force_of(info.id):
            self._index.leases.renew(job_id)
            entry = self._index.live[job_id]
            attempts.append(AttemptRef(job_id, entry.job.attempt, entry.high))
        return Registered(self._index.leases.ttl_secs, attempts, notice=notice_of(info))

    def is_registered(self, worker_id: str) -> bool:
        """Whether the worker registered since the queue was opened."""
        return worker_id in self._roster

    def record(self, worker_id: str, scope: Principal | None = None) -> WorkerRecord:
        """Return a worker that was just heard.

        Raises
        ------
        WorkerNotFound
            If it has to register first, or is another's than who speaks.
        Forbidden
            If who speaks may have no workers.
        """
        return self._roster.hear(worker_id, scope)

    async def lease(self, worker_id: str, request: LeaseRequest, scope: Principal | None = None) -> LeaseAnswer:
        """Answer a lease request (see `JobQueue.lease`)."""
        record = self.record(worker_id, scope)
        right = right_of(scope)
        check_pool(right, request.kinds or ())
        await self._withdrawals.dismiss(worker_id, right)
        record.info.free = max(0, request.limit)
        jobs = self._repeated(record, request.request_id)
        are_new = jobs is None
        if jobs is None:
            is_over = self._is_closed or self._withdrawals.is_out(scope)
            jobs = [] if is_over else await self._wait_for_jobs(record, request, scope)
        jobs = [job for job in jobs if admits(right, job)]
        jobs = await self._withdrawals.still_allowed(jobs, scope, are_new=are_new)
        cancels = self._cancels(worker_id)
        record.told = {(ref.job_id, ref.attempt) for ref in cancels}
        return LeaseAnswer([Lease(job) for job in jobs], cancels)

    def _repeated(self, record: WorkerRecord, request_id: str) -> list[Job] | None:
        answer = record.answers.get(request_id)
        if answer is None:
            return None
        held = []
        for job_id, attempt in answer:
            if self._index.leases.is_in_force(job_id, attempt, record.info.id):
                held.append(self._index.live[job_id].job)
        return held

    async def _wait_for_jobs(self, record: WorkerRecord, request: LeaseRequest, scope: Principal | None) -> list[Job]:
        waiter = record.waiting.get(request.request_id)
        if waiter is None:
            kinds = request.kinds if request.kinds is not None else [record.info.kind]
            binding = binding_of(scope, record.info)
            want = want_of(kinds, record.info.org_id, binding, request.resources)
            if self._withdrawals.concern(scope):
                want.without = self._withdrawals.doubts.keys()
                if self._withdrawals.is_due():
                    self._looking.start()
            waiter = Waiter(record, request, want, scope)
            if len(record.waiting) >= MAX_WAITING:
                self._give_up(next(iter(record.waiting.values())))
            record.waiting[request.request_id] = waiter
            self._parked.add(waiter)
            if self._has_news(record):
                self._settle(waiter, [])
            elif request.limit > 0 or request.ahead > 0:
                waiter.is_late = request.limit == 0  # for what runs ahead nobody waits
                self._post(waiter)
        waiter.listeners += 1
        timer = asyncio.get_running_loop().call_later(max(0.0, request.wait_secs), self._time_out, waiter)
        try:
            return await asyncio.shield(waiter.answered)
        finally:
            timer.cancel()
            waiter.listeners -= 1
            if not waiter.listeners and not waiter.answered.done():
                self._give_up(waiter)

    async def acquire(self, worker_id: str, want: Want) -> Job | None:
        """Lease one job at once, or none (see `JobQueue.acquire_lease`)."""
        record = self.record(worker_id)
        waiter = Waiter(record, LeaseRequest(request_id="", limit=1, wait_secs=0), want)
        jobs: list[Job] = await self._commits.run(lambda turn: self._decide(turn, waiter))
        return next(filter(self._withdrawals.hand_out, jobs), None)

    def serve(self) -> None:
        """Let waiting requests look again whom a change of the index concerns."""
        leases, ready = self._index.leases, self._index.ready
        while leases.canceling:
            record = self._roster.get(leases.canceling.pop())
            for waiter in list(record.waiting.values()) if record is not None else ():
                if not waiter.is_posted and self._has_news(waiter.worker):
                    self._settle(waiter, [])
        lanes = ready.take_fresh()
        if not lanes or not self._parked:
            return
        for waiter in self._parked.wanting(lanes):
            want = waiter.want
            if self._may_post(waiter) and any(
                ready.may_give(lane, want) for lane in lanes if lane.key.kind in want.kinds
            ):
                self._post(waiter)

    def serve_all(self) -> None:
        """Let all waiting requests look again, after a pause or a limit changed."""
        for waiter in self._parked:
            if self._may_post(waiter) and self._index.ready.may_fit(waiter.want):
                self._post(waiter)

    async def _look_again(self) -> None:
        """Ask about owners in doubt, as long as something is told of some; their jobs go to who waits meanwhile."""
        while await self._withdrawals.look_again():
            self.serve_all()

    @staticmethod
    def _may_post(waiter: Waiter) -> bool:
        return waiter.request.limit > 0 and not waiter.is_posted

    def _has_news(self, record: WorkerRecord) -> bool:
        return any((ref.job_id, ref.attempt) not in record.told for ref in self._cancels(record.info.id))

    def _cancels(self, worker_id: str) -> list[AttemptRef]:
        refs = []
        for job_id in self._index.leases.in_force_of(worker_id):
            entry = self._index.live[job_id]
            if entry.job.cancel_requested_at is not None:
                refs.append(AttemptRef(job_id, entry.job.attempt, entry.high))
        return refs

    def _post(self, waiter: Waiter) -> None:
        waiter.is_posted = True
        decided = self._commits.post(lambda turn: self._decide(turn, waiter))
        decided.add_done_callback(lambda future: self._decided(waiter, future))

    def _decided(self, waiter: Waiter, future: asyncio.Future[list[Job]]) -> None:
        waiter.is_posted = False
        error = future.exception()
        if error is not None and waiter.listeners and not waiter.answered.done():
            waiter.answered.set_exception(error)
        jobs = [] if error is not None else future.result()
        if jobs or error is not None or waiter.is_over or waiter.is_late or self._has_news(waiter.worker):
            self._settle(waiter, jobs)
        elif self._index.ready.may_fit(waiter.want):  # a job came in with the very commit that found none
            self._post(waiter)

    def _time_out(self, waiter: Waiter) -> None:
        waiter.is_late = True  # what stands before the decider is still decided: somebody waits for that
        if not waiter.is_posted:
            self._settle(waiter, [])

    def _give_up(self, waiter: Waiter) -> None:
        waiter.is_over = True
        if not waiter.is_posted:  # else its jobs may be leased already: a repeat shall find them
            self._settle(waiter, [], keep=False)

    def _settle(self, waiter: Waiter, jobs: list[Job], *, keep: bool = True) -> None:
        self._parked.discard(waiter)
        record, request_id = waiter.worker, waiter.request.request_id
        record.waiting.pop(request_id, None)
        if keep and jobs:
            record.keep_answer(request_id, jobs)
        if not waiter.answered.done():
            waiter.answered.set_result(jobs)

    def _decide(self, turn: Turn, waiter: Waiter) -> list[Job]:
        if self._withdrawals.is_out(waiter.scope):
            waiter.is_over = True
        jobs: list[Job] = []
        want, sure, most = waiter.want, waiter.request.sure, min(waiter.request.limit, LEASES_AT_ONCE)
        while len(jobs) < most and not waiter.is_over:
            entry = turn.next_ready(want)
            if entry is None:
                break
            job = self.start(turn, entry, waiter.worker.info.id).job
            want = want.less(job.spec.resources)
            jobs.append(job)
            if sure is not None and len(jobs) >= sure:
                want = msgspec.structs.replace(want, only_rerunnable=True)
        if waiter.request.ahead and not waiter.is_over:
            self._lease_ahead(turn, waiter, jobs)
        return jobs

    def _lease_ahead(self, turn: Turn, waiter: Waiter, jobs: list[Job]) -> None:
        """Add plain calls: they will run in slots that the worker has, one after the other."""
        most = min(len(jobs) + waiter.request.ahead, LEASES_AT_ONCE)
        want = msgspec.structs.replace(waiter.want, cpus=1.0, memory_mb=None, gpus=0.0, only_calls=True)
        while len(jobs) < most:
            entry = turn.next_ready(want)
            if entry is None:
                return
            jobs.append(self.start(turn, entry, waiter.worker.info.id).job)

    def start(self, turn: Turn, entry: Entry, worker_id: str) -> Entry:
        """Begin the next attempt of a job."""
        job = entry.job
        patch = {
            "state": JobState.RUNNING,
            "attempt": job.attempt + 1,
            "worker_id": worker_id,
            "started_at": as_datetime(turn.now),
        }
        for name in ("reason", "not_before", "error", "exit_code", "peak_memory_mb", "cpu_secs", "progress"):
            if getattr(job, name) is not None:
                patch[name] = None
        turn.count_leased(entry)
        return turn.move(entry, "job_leased", patch)

    async def heartbeat(
        self, worker_id: str, request: HeartbeatRequest, scope: Principal | None = None
    ) -> HeartbeatAnswer:
        """Renew a worker's leases and say how each of its attempts stands."""
        self._roster.beat(worker_id, request, scope)
        right = right_of(scope)
        await self._withdrawals.dismiss(worker_id, right)
        verdicts = []
        for ref in request.attempts:
            verdict = Verdict(ref.job_id, ref.attempt, "stale")
            entry = self._index.live.get(ref.job_id)
            is_its = entry is not None and admits(right, entry.job)
            if entry is not None and is_its and self.renew(ref.job_id, worker_id, ref.attempt):
                verdict.high = entry.high
                verdict.verdict = "ok" if entry.job.cancel_requested_at is None else "cancel"
            verdicts.append(verdict)
        return HeartbeatAnswer(verdicts)

    def renew(self, job_id: str, worker_id: str | None, attempt: int | None) -> bool:
        """Give a lease a full term, if it is the one that is meant, and was not revoked."""
        if not self._index.leases.is_in_force(job_id, attempt, worker_id):
            return False
        self._index.leases.renew(job_id)
        return True

    async def expire(self) -> int:
        """End the attempts whose worker fell silent, or has them no more; return how many.

        A worker on this machine whose attempt still holds its lock is only cut off from us: its lease goes on. If that
        was revoked, the job is run again, or given up, only when the lock is free, or when a cancel was requested: no
        word of that reaches the process, which may never end.
        """
        ended = 0
        for job_id, lease in self._index.leases.run_out():
            is_kept = self._withdrawals.is_asking(job_id, lease.attempt)
            if not is_kept and not (lease.is_revoked and self._is_canceling(job_id)):
                is_kept = await asyncio.to_thread(self._still_runs, lease.worker_id, job_id, lease.attempt)
            if is_kept:
                self.renew(job_id, lease.worker_id, lease.attempt)
                continue
            ended += await self._commits.run(self._loss(job_id, lease.worker_id, lease.attempt))
        return ended

    def _is_canceling(self, job_id: str) -> bool:
        entry = self._index.live.get(job_id)
        return entry is not None and entry.job.cancel_requested_at is not None

    def _loss(self, job_id: str, worker_id: str, attempt: int) -> Callable[[Turn], bool]:
        def decide(turn: Turn) -> bool:
            lease = self._index.leases.get(job_id)
            if lease is None or lease.attempt != attempt or lease.ends_at > self._clock.monotonic():
                return False  # it was heard of meanwhile
            reason = f"Its worker {worker_id} was not heard of for {self._index.leases.ttl_secs:g} s."
            if lease.is_revoked:
                reason = token_ended(worker_id)
            log.warning("A lease ran out.", extra={"job_id": job_id, "attempt": attempt, "worker_id": worker_id})
            return self._endings.lose(turn, job_id, attempt, reason)

        return decide

    def _still_runs(self, worker_id: str, job_id: str, attempt: int) -> bool:
        record = self._roster.get(worker_id)
        info = record.info if record is not None else self.known_before.get(worker_id)
        if info is None or not info.folder or not info.boot_id or info.boot_id != datadir.boot_id():
            return False
        try:
            return datadir.is_locked(datadir.spool_path(Path(info.folder), job_id, attempt))
        except OSError as error:  # too many open files, say: no reason to run it twice, or to look after no other lease
            extra = {"job_id": job_id, "attempt": attempt, "worker_id": worker_id, "why": str(error)}
            log.warning("It could not be told whether an attempt still runs; its lease goes on.", extra=extra)
            return True

    def why_waiting(self, entry: Entry, *, in_line: bool = False, reader: Principal | None = None) -> str | None:
        """Return one sentence on why a pending job waits.

        With its place in line, which takes a look at the line, or what else there is, as far as `reader` may know it.
        """
        job = entry.job
        if job.state is not JobState.PENDING:
            return job.reason
        if entry.blockers:
            if len(entry.blockers) > 1:
                return f"Waiting for {len(entry.blockers)} jobs to end."
            parent = self._index.live.get(next(iter(entry.blockers)))
            return f"Waiting for the job {parent.job.name!r} to end." if parent else "Waiting for another job."
        held = self._index.ready.why_held(job)
        if held is not None:
            return held
        kind = job.spec.kind
        serving = list(self._roster.serving(job))
        if not serving:
            if self._roster.refuses(job):
                return refusal(kind, job.owner)
            # in a long list no job is worth a look at all workers
            others = self._roster.kinds_for(job, reader) if in_line else ()
            some = f", only some of kind {named(others)}" if others else ""
            return f"Waiting for a worker of kind {kind}; none is here{some}."
        need = job.spec.resources
        if not any(is_enough(info.resources, need) for info in serving):
            return f"Waiting for a worker of kind {kind} with {shortfall([info.resources for info in serving], need)}."
        if job.owner in self._withdrawals.doubts and all(info.is_shared or not info.holder for info in serving):
            return f"It is not known now whether {job.owner} may have jobs run in the org {job.org_id}."
        place = self._index.ready.place_of(entry, self._index.live) if in_line else None
        leases = self._index.leases
        if place is None or any(len(leases.held_by(info.id)) < info.slots for info in serving):
            return f"Waiting for a free worker of kind {kind}."
        slots = sum(info.slots for info in serving)
        busy = "its slot is" if slots == 1 else f"all {slots} slots are"
        if place > ready.MAX_PLACE:
            return f"At least {ready.MAX_PLACE:,} jobs are before it in line for a worker of kind {kind}; {busy} busy."
        return f"{_ordinal(place)} in line for a worker of kind {kind}; {busy} busy."


def _ordinal(place: int) -> str:
    if place == 1:
        return "Next"
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place:,}{ending}"
