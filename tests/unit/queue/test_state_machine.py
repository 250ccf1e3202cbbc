"""The queue under every sequence of commands, messages, clocks and crashes that Hypothesis thinks of.

A real queue on a real database file is driven beside a `Ledger`, which holds what the guarantees demand. After
each step the jobs that were touched have to stand as the ledger says; now and then, and after each restart, all
that the queue says about anything has to agree: get, list, logs, history of events, and a follower that resumed.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.unit.queue.ledger import Attempt, Known, Ledger
from tests.unit.queue.stage import turns
from zbrain_nb import Event, Job, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import KeyConflict, WrongState
from zbrain_nb.model.events import (
    JOB_ONLY,
    JobCanceled,
    JobCompleted,
    JobFailed,
    JobLogged,
    JobProgress,
    JobStarted,
    LogStream,
    WorkerEvent,
)
from zbrain_nb.model.job import shown
from zbrain_nb.model.protocol import AttemptRef, EventBatch, HeartbeatRequest, LeaseAnswer, LeaseRequest, WorkerInfo
from zbrain_nb.store import texts
from zbrain_nb.store.opening import wal_of

TTL_SECS = 60.0
LONG_SECS = 3600.0
PATIENCE_SECS = 20.0
WORKERS = ("w0", "w1")
SLOTS = 100  # never all busy: of a job in line `get` says its place, and lists do not
KEYS = ("alpha", "beta")
#: Searches, runs of each, and steps of a run. The first run of a search is the simplest there is: the others take more
#: than 10,000 steps. From the tenth on, most runs would be variations of those before, many of them cut short.
SEARCHES, EXAMPLES, STEPS = 7, 9, 200
PENDING, RUNNING, RETRYING = JobState.PENDING, JobState.RUNNING, JobState.RETRYING

picks = st.integers(min_value=0, max_value=10_000)
orgs = st.sampled_from(["default", "default", "lab"])
priorities = st.sampled_from([0, 0, 0, 100_000, -100_000])  # so far apart that no age makes up for it


class TwoClocks:
    """The wall clock, which people set, and the one that nobody sets."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.mono = 1_000.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.mono


@dataclass(eq=False)
class Asked:
    """A lease request, and the task that waits for its answer."""

    worker_id: str
    request: LeaseRequest
    task: asyncio.Task[LeaseAnswer] | None = None


@dataclass(eq=False)
class InFlight:
    """A command that was under way when the power went."""

    task: asyncio.Task[Any]
    subject: Any
    was_answered: bool = False

    @classmethod
    def begin(cls, command: Coroutine[Any, Any, Any], subject: Any = None) -> InFlight:
        return cls(asyncio.get_running_loop().create_task(command), subject)

    def note_whether_it_was_answered(self) -> None:
        self.was_answered = self.task.done() and self.task.exception() is None


class QueueMachine(RuleBasedStateMachine):
    """See the module."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="zbrain-machine-"))
        self.clock = TwoClocks()
        self.ledger = Ledger()
        self.lives = 0
        self.age = 0
        self.sent: list[tuple[str, WorkerEvent]] = []
        self.parked: list[Asked] = []
        self.answered: list[tuple[Asked, list[Attempt]]] = []
        self.requests = 0
        self.lines = 0
        self.heard: list[Event] = []
        self.sentinels: set[str] = set()
        self.payloads: dict[str, bool] = {}
        self.touched: set[Known] = set()

    def go(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Take one step, let waiting requests have what is theirs, and look at the jobs that were touched."""

        async def whole() -> None:
            await step()
            await self.settle()
            for known in self.touched:
                self.compare(known, await self.queue.get(known.id))
            self.touched.clear()

        type(self).steps += 1
        self.age += 1
        self.runner.run(whole())

    # The life of a queue

    @initialize(moment=picks)
    def begin(self, moment: int) -> None:
        self.moment = moment
        self.go(lambda: self.open(self.folder / "life0"))

    async def open(self, home: Path) -> None:
        """Open a queue on what lies in `home`; the workers come, the follower goes on where it was."""
        self.home, self.age = home, 0
        self.queue = JobQueue(
            Storage(home / "zbrain.duckdb"),
            self.folder / "blobs",
            lease_ttl_secs=TTL_SECS,
            owner="ada",
            clock=self.clock,
        )
        await self.queue.open()
        for attempt in self.ledger.running():
            attempt.ends_at = self.clock.mono + TTL_SECS
        self.present = set[str]()
        self.follower = self.queue.subscribe(after=self.heard[-1].seq if self.heard else 0)
        self.parked, self.answered = [], []

    async def come(self, worker_id: str) -> None:
        """Let a worker register if it has not since the queue was opened: it is told exactly what it runs."""
        if worker_id in self.present:
            return
        self.present.add(worker_id)
        registered = await self.queue.register_worker(WorkerInfo(id=worker_id, slots=SLOTS))
        mine = self.ledger.running(worker_id)
        for attempt in mine:
            attempt.ends_at = self.clock.mono + TTL_SECS
        told = {(ref.job_id, ref.attempt, ref.high) for ref in registered.attempts}
        assert told == {(attempt.job.id, attempt.number, attempt.high) for attempt in mine}

    def copy_files(self, name: str) -> Path:
        """Copy the database as the disk has it at this moment; this is what a kill leaves.

        No kill leaves a database of before a checkpoint with a log of after it. No run writes so much that one is due.
        """
        home, database = self.folder / name, self.home / "zbrain.duckdb"
        home.mkdir()
        written = database.stat().st_mtime_ns
        for file in (database, wal_of(database)):
            if file.exists():
                shutil.copyfile(file, home / file.name)
        assert database.stat().st_mtime_ns == written, "a checkpoint came in between"
        return home

    async def crash(self, *, folded: bool) -> None:
        """Open a new queue on what the disk has now, and throw the old one away."""
        if folded:
            await self.queue.fold()
        self.lives += 1
        old, waiting, left = self.queue, self.parked, self.home
        await self.open(self.copy_files(f"life{self.lives}"))
        await dismiss(old, [asked.task for asked in waiting])
        shutil.rmtree(left)

    @precondition(lambda self: self.age >= 25)
    @rule(
        kind=st.sampled_from(["close", "crash", "folded crash", "folded crash"]),
        silence_secs=st.sampled_from([0.0, 59.0, 61.0]),
    )
    def restart(self, kind: str, silence_secs: float) -> None:
        """Come back; the workers have one full term to do so too."""

        async def step() -> None:
            if kind == "close":
                self.lives += 1
                await self.queue.close()
                await asyncio.gather(*(asked.task for asked in self.parked))
                await self.open(self.home)
            else:
                await self.crash(folded=kind == "folded crash")
            await self.let_pass(silence_secs)
            await self.expire_leases()
            await self.look_at_everything()

        self.go(step)

    # The last moment of each run: a crash in the middle of commits. How it goes is up to the threads, so that
    # nothing may be drawn after it.

    async def crash_in_a_commit(self, moment: int) -> None:
        """Crash with commands under way: what was answered holds, the rest is there as a whole or not at all."""
        await self.stop_waiting()
        for worker_id in WORKERS:
            await self.come(worker_id)
        orphans = [self.new_job(0), self.new_job(0), self.new_job(0)]
        submits = [InFlight.begin(self.queue.submit(job), job) for job in orphans]
        said = self.something_to_say(moment)
        asking = InFlight.begin(self.queue.lease(WORKERS[0], self.request(limit=1)))
        under_way = [one for one in (*submits, said, asking) if one is not None]
        for _ in range(moment % 40):
            await asyncio.sleep(0)
        for one in under_way:
            one.note_whether_it_was_answered()
        self.lives += 1
        old, left = self.queue, self.home
        await self.open(self.copy_files("last life"))
        await self.find_submits(submits)
        if said is not None:
            await self.find_what_was_said(said)
        await self.find_leases(asking)
        await dismiss(old, [one.task for one in under_way], cancel=False)
        shutil.rmtree(left)

    def something_to_say(self, pick: int) -> InFlight | None:
        """Let a worker begin to send a line, or an ending, of one of its attempts."""
        running = self.ledger.running()
        if not running:
            return None
        attempt = self.some(running, pick)
        event = self.line(attempt, attempt.high) if pick % 2 else self.ending(attempt, "completed")
        return InFlight.begin(self.queue.take_events(attempt.worker_id, EventBatch([event])), (attempt, event))

    async def find_submits(self, submits: list[InFlight]) -> None:
        for one in submits:
            job = await self.queue.get(one.subject.id)
            assert job is not None or not one.was_answered, "an acknowledged job is lost"
            if job is not None:
                self.touch(self.ledger.submitted(msgspec.structs.replace(one.subject, org_id=job.org_id)))

    async def find_what_was_said(self, said: InFlight) -> None:
        attempt, event = said.subject
        refs = (await self.queue.register_worker(WorkerInfo(id=attempt.worker_id, slots=SLOTS))).attempts
        high = next((ref.high for ref in refs if ref.job_id == attempt.job.id), None)
        if high in (event.seq, None):
            self.ledger.told(event, self.clock.wall)
            self.touch(attempt.job)
        else:
            assert not said.was_answered, "an acknowledged event is lost"

    async def find_leases(self, asking: InFlight) -> None:
        for known in self.ledger.ready(self.clock.wall):
            job = await self.queue.get(known.id)
            assert job is not None
            if job.state is RUNNING:
                self.ledger.leased(job, WORKERS[0], self.clock.mono + TTL_SECS, self.clock.wall)
        if asking.was_answered:
            for lease in asking.task.result().leases:
                assert self.ledger.jobs[lease.job.id].state is RUNNING, "an acknowledged lease is lost"

    def teardown(self) -> None:
        try:
            if hasattr(self, "queue"):
                self.runner.run(self.finish())
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)

    async def finish(self) -> None:
        try:
            await self.settle()
            await self.look_at_everything()
            await self.crash_in_a_commit(self.moment)
            await self.look_at_everything()
            await self.compare_lease_orders()
        finally:
            await dismiss(self.queue, [asked.task for asked in self.parked])

    # What callers do

    def new_job(self, priority: int, org: str = "default", **fields: Any) -> Job:
        return Job(JobSpec(cmd=["true"], priority=priority, org_id=org, **fields))

    def some(self, found: list[Any], pick: int) -> Any:
        return found[pick % len(found)]

    def touch(self, *known: Known) -> None:
        """Look at these jobs, and at all that hang on them, when the step is over."""
        stack = list(known)
        while stack:
            one = stack.pop()
            if one not in self.touched:
                self.touched.add(one)
                stack += one.children

    @rule(
        org=orgs,
        priority=priorities,
        max_retries=st.integers(0, 3),
        rerun_if_lost=st.sampled_from([None, True, True, True, False]),
        parents=st.lists(picks, max_size=2),
        after_any=st.booleans(),
    )
    def submit(self, org: str, parents: list[int], **fields: Any) -> None:
        async def step() -> None:
            family = [known for known in self.ledger.jobs.values() if known.org_id == org]
            after = [self.some(family, pick).id for pick in parents if family]
            job = self.new_job(org=org, after=after, **fields)
            assert await self.queue.submit(job) == job.id
            self.touch(self.ledger.submitted(msgspec.structs.replace(job, org_id=org)))

        self.go(step)

    @rule(links=st.lists(st.tuples(picks, st.booleans(), priorities), min_size=1, max_size=6), order=st.randoms())
    def submit_batch(self, links: list[tuple[int, bool, int]], order: Any) -> None:
        async def step() -> None:
            jobs: list[Job] = []
            for pick, has_parent, priority in links:
                after = [self.some(jobs, pick).id] if has_parent and jobs else []
                jobs.append(self.new_job(priority, after=after))
            shuffled = list(jobs)
            order.shuffle(shuffled)
            accepted = await self.queue.accept(shuffled)
            assert [one.job.id for one in accepted] == [job.id for job in shuffled]
            for one in sorted(accepted, key=lambda one: one.job.event_seq):
                self.touch(self.ledger.submitted(one.job))

        self.go(step)

    @rule(key=st.sampled_from(KEYS), other_payload=st.booleans())
    def submit_with_key(self, key: str, other_payload: bool) -> None:
        async def step() -> None:
            spec = JobSpec(cmd=["true"], idempotency_key=key, org_id="default", input=other_payload)
            first = self.ledger.keys.get(key)
            if first is not None and self.payloads[key] is not other_payload:
                with pytest.raises(KeyConflict):
                    await self.queue.submit(spec)
                return
            (accepted,) = await self.queue.accept([spec])
            assert accepted.deduplicated is (first is not None)
            if first is None:
                self.payloads[key] = other_payload
                self.touch(self.ledger.submitted(accepted.job))
            else:
                assert accepted.job.id == first.id
                self.compare(first, accepted.job)

        self.go(step)

    @precondition(lambda self: self.ledger.jobs)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        async def step() -> None:
            known = self.some(list(self.ledger.jobs.values()), pick)
            result = await self.queue.cancel_job(known.id)
            assert result == self.ledger.canceled(known)
            self.touch(known)

        self.go(step)

    @precondition(lambda self: self.ledger.jobs)
    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        async def step() -> None:
            known = self.some(list(self.ledger.jobs.values()), pick)
            if not known.state.ended:
                with pytest.raises(WrongState):
                    await self.queue.retry_job(known.id)
                return
            again = await self.queue.retry_job(known.id)
            assert again.retry_of == known.id
            self.touch(known, self.ledger.submitted(again, retry_of=known.id))

        self.go(step)

    # What workers do

    def request(self, limit: int, wait_secs: float = 0.0) -> LeaseRequest:
        self.requests += 1
        return LeaseRequest(request_id=f"r{self.requests}", limit=limit, wait_secs=wait_secs)

    def took(self, asked: Asked, answer: LeaseAnswer) -> None:
        """Note what a lease request got, and check what it was told to cancel."""
        got = []
        for lease in answer.leases:
            got.append(self.ledger.leased(lease.job, asked.worker_id, self.clock.mono + TTL_SECS, self.clock.wall))
            self.touch(got[-1].job)
        assert len(got) <= asked.request.limit
        self.compare_cancels(asked.worker_id, answer.cancels)
        if got:
            self.answered.append((asked, got))

    def compare_cancels(self, worker_id: str, cancels: list[AttemptRef]) -> None:
        due = {(a.job.id, a.number) for a in self.ledger.running(worker_id) if a.job.cancel_requested}
        assert {(ref.job_id, ref.attempt) for ref in cancels} == due

    @rule(worker_id=st.sampled_from(WORKERS), limit=st.integers(1, 3))
    def lease(self, worker_id: str, limit: int) -> None:
        async def step() -> None:
            ready = self.ledger.ready(self.clock.wall)
            await self.come(worker_id)
            asked = Asked(worker_id, self.request(limit))
            news = any(a.job.cancel_requested for a in self.ledger.running(worker_id))
            answer = await self.queue.lease(worker_id, asked.request)
            self.took(asked, answer)
            if not news:
                assert len(answer.leases) == min(limit, len(ready)), "what may run is handed out"
            for org in ("default", "lab"):
                got = [self.ledger.jobs[lease.job.id] for lease in answer.leases if lease.job.org_id == org]
                self.compare_order(got, [known for known in ready if known.org_id == org])

        self.go(step)

    def compare_order(self, got: list[Known], ready: list[Known]) -> None:
        """What was handed out has to be the head of what was ready."""
        assert got == ready[: len(got)]

    @rule(worker_id=st.sampled_from(WORKERS), org=orgs)
    def acquire(self, worker_id: str, org: str) -> None:
        async def step() -> None:
            ready = [known for known in self.ledger.ready(self.clock.wall) if known.org_id == org]
            await self.come(worker_id)
            job = await self.queue.acquire_lease(worker_id, org)
            assert (job is None) == (not ready)
            if job is not None:
                self.compare_order([self.ledger.jobs[job.id]], ready)
                self.touch(self.ledger.leased(job, worker_id, self.clock.mono + TTL_SECS, self.clock.wall).job)

        self.go(step)

    @precondition(lambda self: len(self.parked) < 2)
    @rule(worker_id=st.sampled_from(WORKERS), limit=st.integers(1, 2))
    def wait_for_a_job(self, worker_id: str, limit: int) -> None:
        async def step() -> None:
            await self.come(worker_id)
            asked = Asked(worker_id, self.request(limit, LONG_SECS))
            asked.task = asyncio.create_task(self.queue.lease(worker_id, asked.request))
            self.parked.append(asked)

        self.go(step)

    async def stop_waiting(self) -> None:
        """Let the workers give up their requests."""
        await dismiss(None, [asked.task for asked in self.parked])
        self.parked = []

    async def settle(self) -> None:
        """Let waiting requests be answered; one that could have a job has to get it, with nobody's further help."""
        while self.parked:
            await turns()
            done = [asked for asked in self.parked if asked.task.done()]
            for asked in done:
                self.parked.remove(asked)
                self.took(asked, asked.task.result())
            if not done:
                if not self.ledger.ready(self.clock.wall):
                    return
                tasks = [asked.task for asked in self.parked]
                finished, _ = await asyncio.wait(tasks, timeout=PATIENCE_SECS, return_when=asyncio.FIRST_COMPLETED)
                assert finished, "a worker waits, a job may run, and they do not find each other"

    @precondition(lambda self: self.answered)
    @rule(pick=picks)
    def ask_again(self, pick: int) -> None:
        async def step() -> None:
            asked, got = self.some(self.answered[-10:], pick)
            repeat = msgspec.structs.replace(asked.request, wait_secs=0.0)
            answer = await self.queue.lease(asked.worker_id, repeat)
            held = [(a.job.id, a.number) for a in got if a.is_running]
            assert [(lease.job.id, lease.job.attempt) for lease in answer.leases] == held
            self.compare_cancels(asked.worker_id, answer.cancels)

        self.go(step)

    @rule(worker_id=st.sampled_from(WORKERS), picks=st.lists(picks, max_size=3))
    def heartbeat(self, worker_id: str, picks: list[int]) -> None:
        async def step() -> None:
            if not self.ledger.attempts:
                return
            await self.come(worker_id)
            asked = [self.some(self.ledger.attempts, pick) for pick in picks]
            request = HeartbeatRequest([AttemptRef(a.job.id, a.number) for a in asked])
            answer = await self.queue.heartbeat(worker_id, request)
            for attempt, verdict in zip(asked, answer.verdicts, strict=True):
                mine = attempt.is_running and attempt.worker_id == worker_id
                due = "cancel" if attempt.job.cancel_requested else "ok"
                assert (verdict.verdict, verdict.high) == ((due, attempt.high) if mine else ("stale", 0))
                if mine:
                    attempt.ends_at = self.clock.mono + TTL_SECS

        self.go(step)

    def line(self, attempt: Attempt, after: int, count: int = 2) -> JobLogged:
        """Return the next message of an attempt: lines that were never said before."""
        lines = []
        for _ in range(count):
            self.lines += 1
            lines.append((LogStream.STDOUT, 5.0, f"line {self.lines} of attempt {attempt.number}"))
        return JobLogged(attempt.job.id, lines, attempt=attempt.number, after=after, seq=after + count)

    def ending(self, attempt: Attempt, how: str, ahead: int = 0) -> WorkerEvent:
        numbers = {
            "attempt": attempt.number,
            "after": attempt.high + ahead,
            "seq": attempt.high + ahead + 1,
        }
        if how == "completed":
            return JobCompleted(attempt.job.id, output={"n": attempt.number}, **numbers)
        if how == "canceled":
            return JobCanceled(attempt.job.id, **numbers)
        lost, final = how == "lost", how == "failed for good"
        return JobFailed(attempt.job.id, exit_code=3, lost=lost, final=final, **numbers)

    async def send(self, worker_id: str, *events: WorkerEvent) -> None:
        """Send one attempt's events; the queue has to take exactly those that the ledger takes."""
        await self.come(worker_id)
        self.sent += [(worker_id, event) for event in events]
        expected: tuple[str, int] | None = None
        for event in events:
            expected = self.ledger.expected_status(event, worker_id)
            if expected[0] != "ok":
                break
            self.ledger.told(event, self.clock.wall)
        (result,) = (await self.queue.take_events(worker_id, EventBatch(list(events)))).results
        assert (result.status, result.high) == expected
        self.touch(self.ledger.jobs[events[0].job_id])

    @precondition(lambda self: self.ledger.running())
    @rule(pick=picks, shape=st.sampled_from(["plain", "plain", "twice", "swapped", "hole", "started", "progress"]))
    def report(self, pick: int, shape: str) -> None:
        async def step() -> None:
            attempt = self.some(self.ledger.running(), pick)
            one = self.line(attempt, attempt.high)
            two = self.line(attempt, one.seq, count=1)
            numbers = {"attempt": attempt.number, "after": attempt.high, "seq": attempt.high + 1}
            batch: dict[str, list[WorkerEvent]] = {
                "plain": [one, two],
                "twice": [one, one, two, one],
                "swapped": [two, one],
                "hole": [one, self.line(attempt, two.seq)],
                "started": [JobStarted(attempt.job.id, worker_id=attempt.worker_id, **numbers)],
                "progress": [JobProgress(attempt.job.id, progress=0.5, **numbers)],
            }
            await self.send(attempt.worker_id, *batch[shape])

        self.go(step)

    @precondition(lambda self: self.ledger.running())
    @rule(
        pick=picks,
        how=st.sampled_from(
            ["completed", "completed", "failed", "failed", "failed for good", "lost", "lost", "lost", "canceled"]
        ),
        too_early=st.sampled_from([0, 0, 0, 2]),
        with_line=st.booleans(),
    )
    def end(self, pick: int, how: str, too_early: int, with_line: bool) -> None:
        async def step() -> None:
            attempt = self.some(self.ledger.running(), pick)
            if with_line and not too_early:
                line = self.line(attempt, attempt.high)
                await self.send(attempt.worker_id, line, self.ending(attempt, how, ahead=2))
            else:
                await self.send(attempt.worker_id, self.ending(attempt, how, ahead=too_early))

        self.go(step)

    @precondition(lambda self: self.ledger.running())
    @rule(pick=picks, fates=st.lists(st.sampled_from(["lost", "lost", "failed"]), min_size=2, max_size=5))
    def meet_one_bad_end_after_another(self, pick: int, fates: list[str]) -> None:
        async def step() -> None:
            attempt = self.some(self.ledger.running(), pick)
            for fate in fates:
                await self.send(attempt.worker_id, self.ending(attempt, fate))
                self.compare(attempt.job, await self.queue.get(attempt.job.id))
                await self.let_pass(8.0)
                await self.settle()
                if attempt.job.state is RETRYING:
                    asked = Asked(attempt.worker_id, self.request(limit=100))
                    self.took(asked, await self.queue.lease(attempt.worker_id, asked.request))
                attempt = attempt.job.attempts[-1]
                if not attempt.is_running:
                    return

        self.go(step)

    @precondition(lambda self: self.sent)
    @rule(picks=st.lists(picks, min_size=1, max_size=3))
    def send_again(self, picks: list[int]) -> None:
        async def step() -> None:
            for pick in picks:
                await self.send(*self.some(self.sent, pick))

        self.go(step)

    @precondition(lambda self: any(not a.is_running for a in self.ledger.attempts))
    @rule(pick=picks, forge=st.booleans())
    def speak_from_the_grave(self, pick: int, forge: bool) -> None:
        """Send a line of an attempt that is over; forged, with the worker and the number of the present one."""

        async def step() -> None:
            attempt = self.some([a for a in self.ledger.attempts if not a.is_running], pick)
            present = attempt.job.attempts[-1]
            after = present.high if forge else attempt.high
            await self.send(present.worker_id if forge else attempt.worker_id, self.line(attempt, after))

        self.go(step)

    @precondition(lambda self: self.ledger.running())
    @rule(pick=picks)
    def speak_for_another(self, pick: int) -> None:
        async def step() -> None:
            attempt = self.some(self.ledger.running(), pick)
            thief = next(worker_id for worker_id in WORKERS if worker_id != attempt.worker_id)
            await self.send(thief, self.line(attempt, attempt.high))

        self.go(step)

    # What time does

    async def let_pass(self, secs: float) -> None:
        self.clock.wall += secs
        self.clock.mono += secs
        self.queue.tick()

    @rule(secs=st.sampled_from([0.5, 3.0, 30.0, 61.0]))
    def pass_time(self, secs: float) -> None:
        self.go(lambda: self.let_pass(secs))

    @rule(secs=st.sampled_from([-1800.0, 1800.0]))
    def set_the_wall_clock(self, secs: float) -> None:
        async def step() -> None:
            self.clock.wall += secs
            self.queue.tick()

        self.go(step)

    async def expire_leases(self) -> None:
        silent = [a for a in self.ledger.running() if a.ends_at <= self.clock.mono]
        assert await self.queue.expire_leases() == len(silent)
        for attempt in silent:
            self.ledger.lost(attempt.job, self.clock.wall)
            self.touch(attempt.job)

    @rule()
    def expire(self) -> None:
        self.go(self.expire_leases)

    # What has to agree

    def compare(self, known: Known, job: Job | None) -> None:
        """A job has to stand where the ledger has it; one that ended never changes again."""
        assert job is not None, "an acknowledged job is lost"
        assert (job.state, job.attempt) == (known.state, len(known.attempts))
        assert (job.failures, job.losses) == (known.failures, known.losses)
        assert (job.retry_of, job.org_id) == (known.retry_of, known.org_id)
        assert (job.cancel_requested_at is not None) == known.cancel_requested
        assert (job.finished_at is not None) == job.state.ended
        if known.attempts:
            assert job.worker_id == known.attempts[-1].worker_id
        if job.state is RETRYING:
            assert job.not_before is not None
            assert job.not_before.timestamp() <= known.not_before + 0.001
            known.not_before = job.not_before.timestamp()
        if job.state is JobState.FAILED:
            assert job.reason
            if not known.attempts:
                assert any(parent.id in job.reason for parent in known.parents), "the reason names the parent"
        if job.state.ended:
            assert known.epitaph in (None, job), "a terminal state changed"
            known.epitaph = job

    async def look_at_everything(self) -> None:
        """All faces of the queue have to tell one story, and that of the ledger."""
        queue = self.queue
        listed = {job.id: job for job in await queue.list(limit=10_000)}
        assert set(listed) - self.sentinels == set(self.ledger.jobs), "list and what was acknowledged"
        jobs = await asyncio.gather(*(queue.get(job_id) for job_id in self.ledger.jobs))
        for known, job in zip(self.ledger.jobs.values(), jobs, strict=True):
            self.compare(known, job)
            assert listed[known.id] == job
        lists = await asyncio.gather(*(queue.list(state=state, limit=10_000) for state in JobState))
        for state, some in zip(JobState, lists, strict=True):
            found = {job.id for job in some} - self.sentinels
            assert found == {known.id for known in self.ledger.in_state(state)}, f"the list of what is {state}"
        assert queue.active_jobs() == len(self.ledger.in_state(PENDING, RUNNING, RETRYING))
        history = await self.read_history()
        self.compare_states(history, listed)
        await self.compare_logs(history)

    async def read_history(self) -> list[Event]:
        """Return all events from the first on; the follower has to have heard the same, each once."""
        sentinel = await self.queue.submit(JobSpec(cmd=["true"], worker="nobody", org_id="sentinel"))
        await self.queue.cancel_job(sentinel)
        self.sentinels.add(sentinel)
        async with self.queue.subscribe(after=0) as whole:
            history = await self.listen(whole, sentinel, [])
        await self.listen(self.follower, sentinel, self.heard)
        assert self.heard == history, "a follower that resumes hears everything once"
        seqs = [event.seq for event in history]
        assert seqs == sorted(set(seqs))
        return history

    @staticmethod
    async def listen(subscription: Any, sentinel: str, heard: list[Event]) -> list[Event]:
        while not heard or (heard[-1].job_id, heard[-1].kind) != (sentinel, "job_canceled"):
            batch = await asyncio.wait_for(subscription.next_batch(), PATIENCE_SECS)
            assert batch, "the subscription ended"
            heard += batch
        return heard

    def compare_states(self, history: list[Event], listed: dict[str, Job]) -> None:
        """Replaying the history has to give each job as it is now, with one terminal state at the most."""
        replayed: dict[str, dict[str, Any]] = {}
        for event in history:
            if event.kind == "job_submitted":
                assert event.job_id not in replayed
                replayed[event.job_id] = dict(event.data)
            elif event.kind not in JOB_ONLY:
                was = replayed[event.job_id]
                assert not JobState(was["state"]).ended, "an event after the end"
                assert event.data.get("attempt", was["attempt"]) >= was["attempt"]
                was |= event.data
        for job_id, fields in replayed.items():
            present = shown(listed[job_id]) if job_id in self.ledger.jobs else None
            if present is not None:
                if present["state"] == PENDING:  # why it waits is no event
                    present["reason"] = fields["reason"]
                assert present == fields

    async def compare_logs(self, history: list[Event]) -> None:
        """Each acknowledged line has to stand in the log once, in order, under the next number."""
        told: dict[str, list[dict[str, Any]]] = {}
        for event in history:
            if event.kind == "job_logged":
                told.setdefault(event.job_id, []).extend(event.data["entries"])
        begun = [known for known in self.ledger.jobs.values() if known.attempts]
        assert told.keys() <= {known.id for known in begun}
        for known, log in zip(begun, await asyncio.gather(*map(self.log_of, begun)), strict=True):
            entries = [msgspec.to_builtins(entry) for entry in log]
            assert [(entry["attempt"], entry["line"]) for entry in entries] == known.lines
            assert [entry["seq"] for entry in entries] == list(range(len(entries)))
            assert entries == told.get(known.id, [])

    async def log_of(self, known: Known) -> list[Any]:
        assert await self.queue.count_log_lines(known.id) == len(known.lines)
        return await self.queue.get_logs(known.id)

    async def compare_lease_orders(self) -> None:
        """What waits has to be handed out in the same, the right, order with the memory warm and rebuilt."""
        await self.stop_waiting()
        storage = Storage(self.copy_files("cold") / "zbrain.duckdb")
        async with JobQueue(storage, self.folder / "blobs", owner="ada", clock=self.clock) as cold:
            orders = [await drain(queue) for queue in (self.queue, cold)]
        ready = self.ledger.ready(self.clock.wall)
        for order in orders:
            assert {job.id for job in order} == {known.id for known in ready}
            for org in {job.org_id for job in order}:
                got = [self.ledger.jobs[job.id] for job in order if job.org_id == org]
                self.compare_order(got, [known for known in ready if known.org_id == org])


async def drain(queue: JobQueue) -> list[Job]:
    """Lease all that may run now."""
    await queue.register_worker(WorkerInfo(id="drain", slots=10_000))
    answer = await queue.lease("drain", LeaseRequest(request_id="drain", limit=10_000, wait_secs=0.0))
    return [lease.job for lease in answer.leases]


async def dismiss(queue: JobQueue | None, tasks: list[Awaitable[Any]], *, cancel: bool = True) -> None:
    """End who waits for a queue that is thrown away, and the queue."""
    for task in tasks:
        if cancel:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if queue is not None:
        await queue.close()


def queue_at(home: Path, clock: TwoClocks) -> JobQueue:
    return JobQueue(Storage(home / "zbrain.duckdb"), home / "blobs", lease_ttl_secs=TTL_SECS, owner="ada", clock=clock)


@pytest.mark.anyio
async def test_list_by_state_after_a_crash_finds_what_runs(tmp_path: Path) -> None:
    async with queue_at(tmp_path, TwoClocks()) as queue:
        job_id = await queue.submit(JobSpec(cmd=["true"]))
        await queue.acquire_lease("w")
        (tmp_path / "copy").mkdir()
        for file in tmp_path.glob("zbrain.duckdb*"):
            shutil.copyfile(file, tmp_path / "copy" / file.name)
    async with queue_at(tmp_path / "copy", TwoClocks()) as queue:
        assert (await queue.get(job_id)).state is RUNNING
        assert [job.id for job in await queue.list(state=RUNNING)] == [job_id]


@pytest.mark.anyio
async def test_lost_job_is_run_again_though_the_wall_clock_went_back_for_a_while(tmp_path: Path) -> None:
    clock = TwoClocks()
    async with queue_at(tmp_path, clock) as queue:
        job_id = await queue.submit(JobSpec(cmd=["true"], max_retries=1))
        job = await queue.acquire_lease("w")
        await queue.handle_worker_event(JobFailed(job.id, attempt=1, lost=True))
        clock.wall -= 1
        await queue.acquire_lease("w")
        clock.wall += 1
        queue.tick()
        await queue.acquire_lease("w")
        assert [job.attempt for job in await queue.list(state=RUNNING) if job.id == job_id] == [2]


@pytest.mark.anyio
async def test_job_that_retries_keeps_its_place_in_line_over_a_restart(tmp_path: Path) -> None:
    clock = TwoClocks()
    async with queue_at(tmp_path, clock) as queue:
        first = await queue.submit(JobSpec(cmd=["true"], max_retries=1))
        await queue.acquire_lease("w")
        await queue.submit(JobSpec(cmd=["true"]))
        await queue.handle_worker_event(JobFailed(first, attempt=1, lost=True))
    async with queue_at(tmp_path, clock) as queue:
        job = await queue.acquire_lease("w")
        assert job.id == first


@pytest.fixture
def short_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let most specs, and what became of jobs that failed, lie apart from their rows."""
    monkeypatch.setattr(texts, "CELL_BYTES", 400)
    monkeypatch.setattr(texts, "_SHORT", 100)


QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("short_cells")
def test_every_sequence_of_commands_and_crashes_keeps_the_guarantees() -> None:
    QueueMachine.steps = 0
    for number in range(SEARCHES):
        run_state_machine_as_test(
            seed(number)(QueueMachine),
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                database=None,
                deadline=None,
                suppress_health_check=QUIET,
            ),
        )
    assert QueueMachine.steps - SEARCHES * STEPS >= 10_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("short_cells")
def test_every_sequence_of_commands_and_crashes_keeps_the_guarantees_for_long() -> None:
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=1_000,
            stateful_step_count=200,
            database=None,
            deadline=None,
            suppress_health_check=QUIET,
            phases=[Phase.generate, Phase.shrink],
            print_blob=True,
        ),
    )
