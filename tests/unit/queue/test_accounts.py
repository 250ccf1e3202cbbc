"""Whatever is done to jobs, what is counted of them is what there is, and nothing is left when they have ended."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.queue.stage import FakeClock
from tests.unit.queue.test_scopes import HOLDER, ScopedHand, person, pool
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import Unavailable, ZBrainError
from zbrain_nb.model.events import JobCompleted, JobFailed, WorkerEvent
from zbrain_nb.model.protocol import EventBatch, HeartbeatRequest, LeaseRequest, WorkerInfo
from zbrain_nb.queue import index, memory, ready
from zbrain_nb.queue.lanes import LaneKey
from zbrain_nb.store.footprint import JOB_BYTES

pytestmark = pytest.mark.anyio

PEOPLE = [person("ann", green="submitter"), person("abe"), person("bob", "blue", green="submitter")]
STEPS = 40


@pytest.fixture(autouse=True)
def little_room(monkeypatch):
    monkeypatch.setattr(ready, "WINDOW", 3)
    monkeypatch.setattr(ready, "SMALLEST_WINDOW", 2)
    monkeypatch.setattr(ready, "ORGS", 2)
    monkeypatch.setattr(memory, "WINDOWS_BYTES", 60_000)
    monkeypatch.setattr(memory, "LANE_BYTES", 9_000)
    monkeypatch.setattr(memory, "KEPT_BYTES_EACH", 60_000)
    monkeypatch.setattr(memory, "BEGUN_BYTES_EACH", 20_000)
    monkeypatch.setattr(memory, "FIRST_BYTES_EACH", 60_000)
    monkeypatch.setattr(index, "RECENT", 5)


class Life:
    """A queue, its workers, and what chance does to them."""

    def __init__(self, seed: int, home: Path, clock: FakeClock) -> None:
        self.chance = random.Random(seed)
        self.clock = clock
        self.queue = JobQueue(Storage(home), home / "blobs", clock=clock, owner="ada", lease_ttl_secs=60)
        self.queue.may_run = self.may_run
        self.ended: set[str] = set()
        self.is_out = lambda principal: principal.origin in self.ended
        self.queue.is_out = self.is_out
        self.hands: dict[str, ScopedHand] = {}
        self.held: set[tuple[str, str, int]] = set()  # worker, job and attempt
        self.known: list[str] = []
        self.fails = False
        self.append = self.queue.storage.append
        self.queue.storage.append = self.write

    async def may_run(self, job: Any) -> bool:
        await asyncio.sleep(0)
        word = self.chance.choice([True] * 6 + [False, None])
        if word is None:
            raise Unavailable("The Hub does not answer.")
        return word

    def write(self, changes: Any, done: Any) -> None:
        if self.fails and self.chance.random() < 0.3:
            done(None, OSError("no"))
        else:
            self.append(changes, done)

    async def submit(self) -> None:
        specs = [self.spec() for _ in range(self.chance.choice([1, 1, 4]))]
        self.known += [one.job.id for one in await self.queue.accept(specs, scope=self.chance.choice(PEOPLE))]

    def spec(self) -> JobSpec:
        pick = self.chance.choice
        after = pick([0, 0, 0, 2]) if self.known else 0
        return JobSpec(
            cmd=["true"],
            worker=pick(["local", "big"]),
            input="x" * pick([0, 0, 1_000, 11_000]),
            priority=pick([0, 0, 5]),
            max_retries=pick([0, 3]),
            rerun_if_lost=pick([True, False]),
            concurrency_group=pick([None, None, "g"]),
            after=self.chance.choices(self.known, k=after) if after else [],
            after_any=pick([True, False]),
        )

    async def come(self) -> None:
        """Let a worker come, or come back with another token."""
        name, kind = self.chance.choice("vw"), self.chance.choice(["local", "big"])
        base = self.chance.choice([HOLDER, *PEOPLE, pool(kind, "red", "green", isolates=True)])
        hand = ScopedHand(self.queue, name, msgspec.structs.replace(base, token_id=f"t{len(self.ended)}"))
        await hand.register(kind=kind, runs_others=True)
        self.hands[name] = hand

    def hand(self) -> ScopedHand:
        return self.hands[self.chance.choice(sorted(self.hands))]

    async def lease(self) -> None:
        hand = self.hand()
        asking = asyncio.ensure_future(hand.lease(limit=self.chance.choice([1, 3])))
        if self.chance.random() < 0.2:
            for _ in range(self.chance.randrange(6)):
                await asyncio.sleep(0)
            asking.cancel()
        (jobs,) = await asyncio.gather(asking, return_exceptions=True)
        if isinstance(jobs, list):
            self.held |= {(hand.id, job.id, job.attempt) for job in jobs}

    async def report(self) -> None:
        if not self.held:
            return
        worker_id, job_id, attempt = one = self.chance.choice(sorted(self.held))
        numbers = {"attempt": attempt, "after": 0, "seq": 1}
        ends: list[WorkerEvent] = [
            JobCompleted(job_id, output="y" * 2_000, **numbers),
            JobFailed(job_id, error="E" * 2_000, **numbers),
            JobFailed(job_id, lost=True, **numbers),
            JobFailed(job_id, lost=True, unstarted=True, returned=True, **numbers),
        ]
        scope = self.hands[worker_id].scope
        await self.queue.take_events(worker_id, EventBatch([self.chance.choice(ends)]), scope=scope)
        self.held.discard(one)

    async def beat(self) -> None:
        hand = self.hand()
        await self.queue.heartbeat(hand.id, HeartbeatRequest(attempts=[]), scope=hand.scope)

    async def cancel(self) -> None:
        await self.queue.cancel_many(self.chance.choices(self.known, k=3))

    async def end_token(self) -> None:
        self.ended.add(self.hand().scope.token_id)
        self.queue.expel(self.is_out)

    async def pass_time(self) -> None:
        self.clock.advance(self.chance.choice([1, 6, 61]))
        self.queue.tick()
        await self.queue.expire_leases()

    async def reopen(self) -> None:
        await self.queue.close()
        await self.queue.open()

    async def step(self) -> None:
        usual = [self.submit, self.submit, self.lease, self.lease, self.report, self.report]
        rare = [self.come, self.beat, self.cancel, self.pass_time, self.end_token]
        acts = self.chance.choices([*usual, *usual, *rare], k=self.chance.choice([1, 2, 4]))
        self.fails = self.chance.random() < 0.3
        if self.chance.random() < 0.05:
            acts = [self.reopen]
        for result in await asyncio.gather(*(act() for act in acts), return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, ZBrainError):
                raise result
        self.fails = False

    async def settle(self) -> None:
        queue = self.queue
        async with asyncio.timeout(30):
            while True:
                await queue._commits.drain()
                await queue.storage.read(lambda cursor: None)
                if not (queue._refill._tasks or queue._commits._waiting or queue._commits._under_way):
                    return

    async def compare(self) -> None:
        """Count all there is, and compare."""
        known, queues = self.queue._index, self.queue._index.ready
        rows = await self.queue.storage.read(
            lambda cursor: cursor.execute("SELECT id::VARCHAR, lane FROM jobs WHERE state = 'pending'").fetchall()
        )
        parked = Counter(lane for job_id, lane in rows if job_id not in known.live and job_id not in known.unfolded)
        counted: Counter[tuple[str, str]] = Counter()
        waiting: Counter[str] = Counter()
        for entry in known.live.values():
            job, extra, lane = entry.job, entry.size - JOB_BYTES, LaneKey.of(entry.job).as_text()
            runs = job.state is JobState.RUNNING
            if entry.may_park():
                counted["held", lane] += entry.size
                assert extra <= queues.lanes[LaneKey.of(job)].largest
            else:
                counted["kept", job.owner] += 0 if runs else extra
                counted["begun", job.owner] += extra if job.attempt else 0
            counted["running", job.owner] += runs
            waiting[lane] += not runs
        assert {lane.text for lane in queues.lanes.values()} >= {*waiting, *parked}
        owners: Counter[tuple[str, str]] = Counter()
        for lane in queues.lanes.values():
            owners["waiting", lane.key.owner] += waiting[lane.text] + parked[lane.text]
            owners["first", lane.key.owner] += lane.largest
            assert (lane.parked, lane.held) == (parked[lane.text], counted["held", lane.text])
            assert lane.members - lane.running == waiting[lane.text] + parked[lane.text]
            assert lane.owner is queues.owners[lane.key.owner]
        counted += owners
        for name, account in queues.owners.items():
            for what in ("waiting", "running", "kept", "begun", "first"):
                assert getattr(account, what) == counted[what, name], f"{what} of {name}"
        assert queues.memory.held == sum(size for (what, _), size in counted.items() if what == "held")
        assert queues.memory.kept == sum(size for (what, _), size in counted.items() if what == "kept")
        assert set(known.leases.jobs()) == {i for i, one in known.live.items() if one.job.state is JobState.RUNNING}
        assert not (self.queue._withdrawals._returning or self.queue._withdrawals._asking)

    async def end(self) -> None:
        """Let a worker that takes everything do all that is left."""
        await self.queue.register_worker(WorkerInfo(id="last", kind="local"))
        async with asyncio.timeout(60):
            while self.queue.active_jobs():
                self.clock.advance(400)
                self.queue.tick()
                await self.queue.expire_leases()
                request = LeaseRequest(request_id=str(self.clock.now), limit=50, kinds=["local", "big"], wait_secs=0)
                leases = (await self.queue.lease("last", request)).leases
                ends: list[WorkerEvent] = [JobCompleted(one.job.id, attempt=one.job.attempt) for one in leases]
                await self.queue.take_events("last", EventBatch(ends))
                await self.settle()
        queues = self.queue._index.ready
        assert (queues.lanes, queues.owners, queues.groups) == ({}, {}, {})
        assert (queues.parked, queues.memory.held, queues.memory.kept) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_counted_of_jobs_is_what_there_is_and_nothing_is_left(tmp_path, clock, seed):
    await live(Life(seed, tmp_path, clock))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000, 1_060))
async def test_what_is_counted_of_jobs_is_what_there_is_for_long(tmp_path, clock, seed):
    await live(Life(seed, tmp_path, clock))


async def live(life: Life) -> None:
    async with life.queue:
        await life.come()
        await life.submit()
        for _ in range(STEPS):
            await life.step()
            await life.settle()
            await life.compare()
        await life.end()
