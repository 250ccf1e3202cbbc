"""Takes jobs from workers that may not have them any more, and from owners who may not have them run any more.

The desk asks at each registration, heartbeat and lease. What ends here is worth nothing at once: as long as an attempt
runs, its token opens something. An attempt ends at once too if its worker hears of that. If it does not, the processes
go on, and so the job counts as running until they have ended.

Of owners of whom nothing can be told now, workers of others get nothing until it can: such jobs wait, and are not
leased again and again. The desk has them asked about again beside everything else: no request waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from zbrain_nb.model.access import Principal, WorkerBinding
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.events import LogStream
from zbrain_nb.model.job import Job
from zbrain_nb.queue.bindings import admits
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.commits import Commits
from zbrain_nb.queue.endings import Endings, running
from zbrain_nb.queue.index import Index
from zbrain_nb.queue.loglines import as_columns
from zbrain_nb.queue.turn import Turn
from zbrain_nb.store import waiting
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)
#: After so long an owner is asked about again of whom nothing could be told, and of so many owners in one go.
ASK_AGAIN_SECS = 5.0
ASKED_AT_ONCE = 16
#: Under this key the store keeps of which attempts the leases were revoked, some that have ended since among them.
_REVOKED = "revoked_leases"

#: Returns whether the owner of a job may have it run by now; raises Unavailable if that cannot be told.
MayRun = Callable[[Job], Awaitable[bool]]


async def anybody_may(job: Job) -> bool:
    """Let every job run: where people have no other login, the tokens that they hold are their standing."""
    return True


class _Doubt(msgspec.Struct):
    """An owner of whom nothing can be told, by a job of theirs, and from when on they are asked about again."""

    job: Job
    ask_at: float


class Withdrawals:
    """Ends attempts that must not go on.

    Parameters
    ----------
    index, commits, endings, clock, storage
        The queue's.
    may_run : callable
        Returns whom to ask (see `MayRun`), which answers, or raises, within a few seconds.
    is_out : callable
        Returns what gets a principal and returns whether the token of that has ended.

    Attributes
    ----------
    doubts : dict of str to _Doubt
        Owners of whom it could not be told whether they may have jobs run: workers of others get none of theirs.
    """

    def __init__(
        self,
        index: Index,
        commits: Commits,
        endings: Endings,
        clock: Clock,
        storage: Storage,
        may_run: Callable[[], MayRun],
        is_out: Callable[[], Callable[[Principal], bool]],
    ) -> None:
        self._index = index
        self._commits = commits
        self._endings = endings
        self._clock = clock
        self._storage = storage
        self._may_run = may_run
        self._is_out = is_out
        self.doubts: dict[str, _Doubt] = {}
        self._asking: set[tuple[str, int]] = set()
        self._returning: set[tuple[str, int]] = set()  # being given back: no repeat of the request gets them

    async def load(self) -> None:
        """Revoke again what was revoked before a restart, and may still run."""
        text = await self._storage.read(waiting.meta, _REVOKED)
        for job_id, attempt in msgspec.json.decode(text or "[]", type=list[tuple[str, int]]):
            if self._index.leases.is_in_force(job_id, attempt):
                self._index.leases.revoke(job_id)

    async def dismiss(self, worker_id: str, right: WorkerBinding) -> None:
        """End the attempts of a worker to which it has no right any more: who it works for left the org, say."""
        for job_id in self._index.leases.in_force_of(worker_id):
            entry = self._index.live.get(job_id)
            if entry is None or admits(right, entry.job):
                continue
            attempt, reason = entry.job.attempt, f"Its worker {worker_id} may not run it any more."
            log.warning("A worker lost a job.", extra={"job_id": job_id, "attempt": attempt, "worker_id": worker_id})
            await self._commits.run(partial(self._endings.lose, job_id=job_id, attempt=attempt, reason=reason))

    def take_from(self, worker_ids: list[str]) -> None:
        """Revoke all leases of workers, for the token has ended with which they were heard.

        They cannot be told so any more. What they were not handed yet is given back.
        """
        given_back = set[tuple[str, int]]()

        def decide(turn: Turn) -> None:
            leases = self._index.leases
            for worker_id in worker_ids:
                for job_id in leases.in_force_of(worker_id):
                    entry = self._index.live[job_id]
                    attempt = entry.job.attempt
                    if self._is_unanswered(job_id, attempt) and not entry.high:
                        given_back.add((job_id, attempt))
                    else:
                        leases.revoke(job_id)
                        _say_revoked(turn, worker_id, job_id, attempt)
            self._returning.update(given_back)
            self._give_back(turn, given_back)
            # When the host is started again nobody knows who spoke for which worker.
            text = msgspec.json.encode(leases.revoked()).decode()
            self._storage.put(lambda database: database.save_meta(_REVOKED, text), _note_unkept)

        self._commits.post(decide).add_done_callback(partial(self._gave_back, given_back))

    def is_out(self, scope: Principal | None) -> bool:
        """Whether the token of who asks has ended, since their request came too: they get nothing more."""
        return scope is not None and self._is_out()(scope)

    @staticmethod
    def concern(scope: Principal | None) -> bool:
        """Whether the owners of jobs are asked about before workers of who asks get them.

        A person's own worker needs no look: it gets jobs of that person, in orgs where they may submit by now.
        """
        return scope is None or scope.worker is not None or scope.is_holder

    def is_asking(self, job_id: str, attempt: int) -> bool:
        """Whether the job was leased, and its owner is asked about before the worker learns of it."""
        return (job_id, attempt) in self._asking

    async def still_allowed(self, jobs: list[Job], scope: Principal | None, *, are_new: bool) -> list[Job]:
        """Return those of the jobs leased whose owners may have them run; the others end here, in one commit.

        Those that `are_new` were handed to nobody yet. If the request is cancelled meanwhile, or fails, or its token
        ends, they are given back: their worker may be gone, and what it never had would pass for lost with it.
        """
        asked = {(job.id, job.attempt) for job in jobs}
        if are_new:
            self._asking |= asked
        try:
            if not self.is_out(scope) and self.concern(scope):
                jobs = await self._allowed(jobs)
            return [] if self.is_out(scope) else [job for job in jobs if self.hand_out(job)]
        finally:
            if are_new:
                self._asking -= asked
                self._return(asked)

    async def _allowed(self, jobs: list[Job]) -> list[Job]:
        """Return those of the jobs whose owners may have them run, and end the others."""
        if not jobs or self._may_run() is anybody_may:
            return jobs
        words = await self._ask(jobs)
        allowed = [job for job, word in zip(jobs, words, strict=True) if word is True]
        if len(allowed) < len(jobs):
            await self._commits.run(partial(self._end, jobs=jobs, words=words))
        for job in allowed:
            if self._index.leases.is_in_force(job.id, job.attempt):
                self._index.leases.renew(job.id)  # the asking took some of it
        return allowed

    def hand_out(self, job: Job) -> bool:
        """Note that an answer brings the job; return False if its attempt ended meanwhile, or is about to."""
        lease = self._index.leases.of(job.id, job.attempt)
        if lease is None or lease.is_revoked or (job.id, job.attempt) in self._returning:
            return False
        lease.answers += 1
        return True

    def take_back(self, jobs: list[Job]) -> None:
        """Give back jobs that an answer was to bring, and does not after all; not those that another has brought."""
        for job in jobs:
            lease = self._index.leases.of(job.id, job.attempt)
            if lease is not None:
                lease.answers -= 1
        self._return({(job.id, job.attempt) for job in jobs})

    def _return(self, attempts: set[tuple[str, int]]) -> None:
        """Give back those of the attempts that no answer brings."""
        left = {one for one in attempts if self._is_unanswered(*one)}
        if left:
            self._returning |= left
            given_back = self._commits.post(partial(self._give_back, attempts=left))
            given_back.add_done_callback(partial(self._gave_back, left))

    def _is_unanswered(self, job_id: str, attempt: int) -> bool:
        lease = self._index.leases.of(job_id, attempt)
        return lease is not None and not lease.answers

    def is_due(self) -> bool:
        """Whether it is time to ask again about an owner of whom nothing could be told."""
        now = self._clock.monotonic()
        return any(doubt.ask_at <= now for doubt in self.doubts.values())

    async def look_again(self) -> bool:
        """Ask again about some owners of whom nothing could be told; return whether it can be now, of any of them.

        Who was asked about longest ago comes first, so that those who stay in doubt keep nobody from their turn.
        """
        now = self._clock.monotonic()
        due = [doubt for doubt in self.doubts.values() if doubt.ask_at <= now]
        due = sorted(due, key=lambda doubt: doubt.ask_at)[:ASKED_AT_ONCE]
        for doubt in due:
            doubt.ask_at = now + ASK_AGAIN_SECS  # meanwhile nobody else asks
        words = await self._ask([doubt.job for doubt in due])
        told = [one.job.owner for one, word in zip(due, words, strict=True) if not isinstance(word, Unavailable)]
        for owner in told:
            self.doubts.pop(owner, None)
        return bool(told)

    async def _ask(self, jobs: list[Job]) -> list[bool | Unavailable]:
        """Return for each job whether it may run, or why that cannot be told; alike ones are asked about once."""
        alike = {_standing_of(job): job for job in jobs}
        words = dict(zip(alike, await asyncio.gather(*map(self._word, alike.values())), strict=True))
        return [words[_standing_of(job)] for job in jobs]

    async def _word(self, job: Job) -> bool | Unavailable:
        try:
            return await self._may_run()(job)
        except Unavailable as error:
            if job.owner not in self.doubts:
                log.warning("It is not known who may have jobs run.", extra={"owner": job.owner, "why": error.message})
            self.doubts[job.owner] = _Doubt(job, self._clock.monotonic() + ASK_AGAIN_SECS)
            return error

    def _end(self, turn: Turn, jobs: list[Job], words: list[bool | Unavailable]) -> None:
        for job, word in zip(jobs, words, strict=True):
            what = f"{job.owner} may have jobs run in the org {job.org_id}"
            if isinstance(word, Unavailable):
                reason = f"It is not known whether {what}: {word.message}"
                self._endings.lose(turn, job.id, job.attempt, reason, returned="It waits until that is known.")
            elif not word:
                self._endings.withdraw(turn, job.id, job.attempt, f"{what.replace('may', 'may not')} any more.")

    def _give_back(self, turn: Turn, attempts: set[tuple[str, int]]) -> None:
        for job_id, attempt in attempts:
            reason = "Its worker went, or the token of that ended, before it was handed the job."
            self._endings.lose(turn, job_id, attempt, reason, returned="It waits for another.")

    def _gave_back(self, attempts: set[tuple[str, int]], done: asyncio.Future[None]) -> None:
        self._returning -= attempts
        _note_failure(done)


def token_ended(worker_id: str) -> str:
    """Return why a lease was revoked, in a sentence."""
    return f"The token of its worker {worker_id} has ended."


def why_running(worker_id: str) -> str:
    """Return why a job still runs whose lease was revoked, in sentences."""
    return f"{token_ended(worker_id)} It counts as running while its process may go on, or until canceled."


def _say_revoked(turn: Turn, worker_id: str, job_id: str, attempt: int) -> None:
    log.warning("A worker's token ended.", extra={"job_id": job_id, "attempt": attempt, "worker_id": worker_id})
    entry = running(turn, job_id, attempt)
    if entry is not None:  # else it ends with this very commit
        line = f"{token_ended(worker_id)} Of what it runs yet nothing more is taken."
        turn.append_log(entry, as_columns([(LogStream.SYSTEM, turn.now, line)]), None)


def _note_unkept(result: None, error: BaseException | None) -> None:
    if error is not None:
        log.warning("Revoked leases were not noted: a restart puts them in force again.", extra={"why": str(error)})


def _note_failure(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        log.warning("Jobs could not be taken from a worker: they end with their leases.", extra={"why": str(error)})


def _standing_of(job: Job) -> tuple[str, str, str]:
    """Return what the word on a job depends on."""
    return job.owner, job.org_id, job.origin
