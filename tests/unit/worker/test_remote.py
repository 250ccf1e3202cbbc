"""`RemoteQueue`: a scheduler whose queue is elsewhere, over HTTP, with a host that goes away and comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import eventually
from zbrain_nb import FifoScheduler, Job, JobSpec, JobState, RemoteQueue
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import InvalidSpec, StaleAttempt
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, JobLogged, JobProgress, JobStarted, LogStream
from zbrain_nb.model.protocol import LeaseAnswer, LeaseRequest
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.server.host import Host
from zbrain_nb.worker.fence import now
from zbrain_nb.worker.kinds import EventSender
from zbrain_nb.worker.link import HttpLink, follow
from zbrain_nb.worker.sender import BATCH_BYTES
from zbrain_nb.worker.spares import Spares
from zbrain_nb.worker.wire import Wires

pytestmark = pytest.mark.anyio
TRUE = JobSpec(cmd=["true"])
AGAIN = JobSpec(cmd=["true"], rerun_if_lost=True)


class Elsewhere:
    """A host, and the link of one worker to it."""

    def __init__(self, root: Path) -> None:
        self.data = DataDir(root)
        self.settings = Settings(data=str(root), worker_mode="none", lease_ttl_secs=2.0)
        self.host: Host | None = None
        self.remote = RemoteQueue(HttpLink(follow(self.data)))

    @property
    def queue(self) -> JobQueue:
        assert self.host is not None
        assert self.host.context is not None
        return self.host.context.queue

    async def start(self) -> None:
        self.host = Host(self.data, self.settings)
        await self.host.start()

    async def stop(self) -> None:
        if self.host is not None:
            await self.host.stop()
            self.host = None

    async def state(self, job_id: str) -> JobState:
        job = await self.queue.get(job_id)
        assert job is not None
        return job.state

    async def until(self, job_id: str, state: JobState) -> Job:
        async with asyncio.timeout(20):
            while await self.state(job_id) is not state:
                await asyncio.sleep(0.01)
        job = await self.queue.get(job_id)
        assert job is not None
        return job


@pytest.fixture
async def elsewhere(tmp_path: Path) -> AsyncIterator[Elsewhere]:
    elsewhere = Elsewhere(tmp_path / "data")
    await elsewhere.start()
    yield elsewhere
    await elsewhere.remote.close()
    await elsewhere.stop()


class Stub:
    """Counts who runs; jobs named ``wait`` wait for their cancel."""

    id = "stub"

    def __init__(self) -> None:
        self.now = self.most = 0

    async def execute(self, job: Job, events: Any, cancel: Any) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await events.send(JobStarted(job.id, worker_id=self.id))
        await events.send(JobProgress(job.id, stdout="hello\n"))
        await asyncio.sleep(0)
        self.now -= 1
        if job.spec.name == "wait":
            await cancel.wait()
            await events.send(JobCanceled(job.id))
        else:
            await events.send(JobCompleted(job.id))

    async def health_check(self) -> bool:
        return True


@contextlib.asynccontextmanager
async def scheduled(elsewhere: Elsewhere, worker: Any, concurrency: int = 1) -> AsyncIterator[FifoScheduler]:
    scheduler = FifoScheduler(elsewhere.remote, worker, concurrency=concurrency)
    running = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        await scheduler.stop()
        async with asyncio.timeout(20):
            await running


async def test_scheduler_runs_jobs_of_a_queue_elsewhere(elsewhere: Elsewhere) -> None:
    ids = await elsewhere.queue.submit_many([TRUE] * 50)
    stub = Stub()
    async with scheduled(elsewhere, stub, concurrency=4):
        for job_id in ids:
            job = await elsewhere.until(job_id, JobState.SUCCEEDED)
            assert job.attempt == 1
            assert [entry.line for entry in await elsewhere.queue.get_logs(job_id)] == ["hello"]
    assert 1 < stub.most <= 4


async def test_cancel_reaches_the_worker_and_its_lease_is_kept_until_then(elsewhere: Elsewhere) -> None:
    job_id = await elsewhere.queue.submit(JobSpec(cmd=["true"], name="wait"))
    async with scheduled(elsewhere, Stub()):
        await elsewhere.until(job_id, JobState.RUNNING)
        await asyncio.sleep(1.5 * elsewhere.settings.lease_ttl_secs)  # the time that passes is what is tested
        assert await elsewhere.state(job_id) is JobState.RUNNING
        await elsewhere.queue.cancel_job(job_id)
        job = await elsewhere.until(job_id, JobState.CANCELED)
    assert job.attempt == 1


@pytest.mark.parametrize("with_lease", [True, False])
async def test_host_away_events_wait_and_are_taken_once(elsewhere: Elsewhere, with_lease: bool) -> None:
    job_id = await elsewhere.queue.submit(TRUE)
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    events = EventSender(job, elsewhere.remote.handle_worker_event)
    await elsewhere.stop()
    asking = asyncio.create_task(elsewhere.remote.acquire_lease("stub")) if with_lease else None
    ending = asyncio.create_task(events.send(JobCompleted(job.id)))
    await eventually(lambda: elsewhere.remote._talk is not None)
    assert not ending.done()
    await elsewhere.start()
    await asyncio.wait_for(ending, 20)
    ended = await elsewhere.until(job_id, JobState.SUCCEEDED)
    assert ended.attempt == 1
    if asking is not None:
        next_id = await elsewhere.queue.submit(TRUE)
        leased = await asyncio.wait_for(asking, 20)
        assert leased is not None
        assert leased.id == next_id


async def test_what_is_wrong_with_an_event_is_raised_at_the_next(elsewhere: Elsewhere) -> None:
    await elsewhere.queue.submit(TRUE)
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    events = EventSender(job, elsewhere.remote.handle_worker_event)
    await elsewhere.queue._commits.run(lambda turn: elsewhere.queue._endings.lose(turn, job.id, 1, "Lost."))
    await events.send(JobLogged(job.id))
    await eventually(lambda: elsewhere.remote._trouble)
    with pytest.raises(StaleAttempt):
        await events.send(JobLogged(job.id))
    with pytest.raises(InvalidSpec, match="EventSender"):
        await elsewhere.remote.handle_worker_event(JobCompleted(job.id))


async def test_output_that_is_no_json_is_its_senders_trouble_alone(elsewhere: Elsewhere) -> None:
    await elsewhere.queue.submit(TRUE)
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    events = EventSender(job, elsewhere.remote.handle_worker_event)
    for output in (object(), "\udc80"):
        with pytest.raises(InvalidSpec, match="not JSON"):
            await asyncio.wait_for(events.send(JobCompleted(job.id, output=output)), 10)
    await asyncio.wait_for(events.send(JobCompleted(job.id)), 10)
    assert await elsewhere.state(job.id) is JobState.SUCCEEDED


async def test_no_request_carries_more_events_than_it_may(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await elsewhere.queue.submit(TRUE)
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    events = EventSender(job, elsewhere.remote.handle_worker_event)
    sizes: list[int] = []
    original = Wires.post

    async def post(self: Wires, path: str, body: bytes, timeout: float) -> Any:
        sizes.append(len(body))
        return await original(self, path, body, timeout)

    monkeypatch.setattr(Wires, "post", post)
    for _ in range(10):
        await events.send(JobLogged(job_id, lines=[(LogStream.STDOUT, 1.0, "x" * 60_000)] * 5))
    await events.send(JobCompleted(job_id, output="x" * 2_000_000))
    assert (await elsewhere.until(job_id, JobState.SUCCEEDED)).output
    assert max(sizes) < 2_100_000
    assert sum(size > BATCH_BYTES for size in sizes) == 1  # what is larger goes alone


async def test_lease_that_nobody_waits_for_any_more_goes_to_the_next_or_back(elsewhere: Elsewhere) -> None:
    asking = asyncio.create_task(elsewhere.remote.acquire_lease("stub"))
    await eventually(lambda: elsewhere.remote._poll is not None)
    asking.cancel()
    once = JobSpec(cmd=["true"], rerun_if_lost=False)
    first = await elsewhere.queue.submit(once)
    await eventually(lambda: elsewhere.remote._spares)
    taken = await elsewhere.remote.acquire_lease("stub")
    assert taken is not None
    assert taken.id == first
    asking = asyncio.create_task(elsewhere.remote.acquire_lease("stub"))
    await eventually(lambda: elsewhere.remote._poll is not None)
    asking.cancel()
    second = await elsewhere.queue.submit(once)
    await eventually(lambda: elsewhere.remote._spares)
    await elsewhere.remote.close()
    back = await elsewhere.until(second, JobState.RETRYING)
    assert "before the job could start" in (back.reason or "")


async def test_worker_that_starts_again_tells_what_its_last_life_ran_as_lost(elsewhere: Elsewhere) -> None:
    job_id = await elsewhere.queue.submit(JobSpec(cmd=["true"], max_retries=1))
    assert await elsewhere.remote.acquire_lease("stub") is not None
    again = RemoteQueue(HttpLink(follow(elsewhere.data)))
    job = await again.acquire_lease("stub")
    assert job is not None
    assert (job.id, job.attempt, job.losses) == (job_id, 2, 1)
    await again.close()


async def test_brief_jobs_are_leased_ahead_and_run_in_their_order(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbrain_nb.worker.spares.RETURN_SECS", 60.0)  # however slow this machine is
    monkeypatch.setattr(Spares, "_learn", lambda self, secs: setattr(self, "_job_secs", 0.0001))
    ids = await elsewhere.queue.submit_many([AGAIN] * 300)
    elsewhere.remote = Counting(HttpLink(follow(elsewhere.data)))
    stub = Noting()
    async with scheduled(elsewhere, stub):
        await elsewhere.until(ids[-1], JobState.SUCCEEDED)
    assert stub.begun == ids
    assert stub.most == 1
    assert elsewhere.remote.requests < 200
    for job_id in ids:
        job = await elsewhere.until(job_id, JobState.SUCCEEDED)
        assert job.attempt == 1


def test_so_many_are_leased_ahead_as_are_done_in_a_moment() -> None:
    spares = Spares(4, lambda job: None)
    assert spares.ahead() == 0  # nothing is known yet
    for _ in range(200):
        spares._learn(0.001)
    assert 4 * 18 <= spares.ahead() <= 4 * 20
    spares._begun[("long", 1)] = now() - 10
    assert 3 * 18 <= spares.ahead() <= 3 * 20
    spares._learn(5.0)
    assert spares.ahead() == 0


class Counting(RemoteQueue):
    """Counts the requests for jobs."""

    requests = 0

    async def _lease(self, request: LeaseRequest) -> LeaseAnswer:
        self.requests += 1
        return await super()._lease(request)


class Noting(Stub):
    """Notes which jobs it began, in order; lets go of a slot when it has said a job's end."""

    is_over_at_ending = True

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []

    async def execute(self, job: Job, events: Any, cancel: Any) -> None:
        self.begun.append(job.id)
        await super().execute(job, events, cancel)


async def test_jobs_leased_ahead_of_a_long_one_go_back_and_that_is_no_loss(elsewhere: Elsewhere) -> None:
    elsewhere.remote._spares._job_secs = 0.0  # it believes jobs to be brief
    long = await elsewhere.queue.submit(JobSpec(cmd=["true"], name="wait"))
    behind = await elsewhere.queue.submit(AGAIN)
    async with scheduled(elsewhere, Stub()):
        await elsewhere.until(long, JobState.RUNNING)
        back = await elsewhere.until(behind, JobState.RETRYING)
        assert (back.losses, back.attempt) == (0, 1)
        assert "busy" in (back.reason or "")
        await elsewhere.queue.cancel_job(long)
        ran = await elsewhere.until(behind, JobState.SUCCEEDED)
        assert (ran.losses, ran.failures) == (0, 0)


async def test_jobs_that_are_not_run_again_are_never_leased_ahead(elsewhere: Elsewhere) -> None:
    once = JobSpec(cmd=["true"], rerun_if_lost=False)
    ids = await elsewhere.queue.submit_many([once, once, AGAIN])
    elsewhere.remote._spares._job_secs = 0.0
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    assert job.id == ids[0]
    assert await elsewhere.state(ids[1]) is JobState.PENDING
    assert elsewhere.remote._spares.keys() in (set(), {(ids[2], 1)})  # it may stand behind in their line


async def test_nothing_is_leased_ahead_when_nobody_waits(elsewhere: Elsewhere) -> None:
    await elsewhere.queue.submit_many([AGAIN] * 5)
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    elsewhere.remote._spares._job_secs = 0.0
    elsewhere.remote._spares._begun.clear()  # a slot is free, but who has it does not ask: it stops
    events = EventSender(job, elsewhere.remote.handle_worker_event)
    await events.send(JobStarted(job.id, worker_id="stub"))
    await events.send(JobCompleted(job.id))
    assert await elsewhere.queue.list(state="running") == []


async def test_close_gives_back_what_is_on_its_way_too(elsewhere: Elsewhere) -> None:
    ids = await elsewhere.queue.submit_many([AGAIN] * 3)
    elsewhere.remote._spares._job_secs = 0.0
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    spares = elsewhere.remote._spares
    assert len(spares) == 2
    spares._spares = deque(spare._replace(since=spare.since - 10) for spare in spares._spares)
    spares._return_late()  # in line, not sent
    await elsewhere.remote.close()
    for job_id in ids[1:]:
        back = await elsewhere.until(job_id, JobState.RETRYING)
        assert back.losses == 0


async def test_worker_that_only_gives_back_is_slowed_and_then_counted_as_loss(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbrain_nb.queue.endings.MAX_RETURNS", 4)
    job_id = await elsewhere.queue.submit(AGAIN)
    pauses = []
    for _ in range(6):
        async with asyncio.timeout(20):
            while (job := await elsewhere.queue.acquire_lease("bad")) is None:
                await asyncio.sleep(0.01)
        back = JobFailed(job.id, attempt=job.attempt, after=0, seq=1, lost=True, unstarted=True, returned=True)
        await elsewhere.queue.handle_worker_event(back)
        found = await elsewhere.queue.get(job_id)
        assert found is not None
        pauses.append(found.losses)
    assert pauses == [0, 0, 0, 0, 1, 2]


async def test_jobs_leased_ahead_are_not_begun_after_a_suspension(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await elsewhere.queue.submit_many([AGAIN] * 2)
    elsewhere.remote._spares._job_secs = 0.0
    job = await elsewhere.remote.acquire_lease("stub")
    assert job is not None
    assert job.id == first
    monkeypatch.setattr("zbrain_nb.worker.spares.now", lambda: now() + 3600)
    assert elsewhere.remote._spares.keys() == {(second, 1)}
    again = await elsewhere.remote.acquire_lease("stub")
    assert again is not None
    assert (again.id, again.attempt, again.losses) == (second, 2, 0)
