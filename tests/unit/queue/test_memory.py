"""What runs or is tried again is bounded by what it takes in memory, and nothing waits for ever because of that."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.queue import memory, ready
from zbrain_nb.queue.turn import Turn

pytestmark = pytest.mark.anyio

LARGE = "x" * 20_000


@pytest.fixture(autouse=True)
def two_large_ones_at_once(monkeypatch):
    monkeypatch.setattr(memory, "BEGUN_BYTES_EACH", 30_000)


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(ready, "WINDOW", 2)
    monkeypatch.setattr(ready, "SMALLEST_WINDOW", 2)


@pytest.fixture
async def queue(tmp_path, clock):
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada") as opened:
        yield opened


def large(**fields):
    return JobSpec(cmd=["true"], input=LARGE, max_retries=3, **fields)


async def lease(hand):
    """Lease one at a time as long as there is one, each when windows are filled."""
    found = []
    ready_queues = hand.queue._index.ready
    while jobs := await hand.lease():
        found += [job.id for job in jobs]
        async with asyncio.timeout(10):
            while any(lane.arrived is not None for lane in ready_queues.lanes.values()):
                await hand.queue.storage.read(lambda cursor: None)
    return found


@pytest.mark.parametrize("reopened", [False, True])
async def test_large_jobs_begin_when_others_of_their_owner_have_ended(queue, reopened):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([large() for _ in range(4)])
    assert await lease(hand) == ids[:2]
    if reopened:
        await queue.close()
        await queue.open()
        await hand.register()
    assert await lease(hand) == []
    assert "of the host's memory" in (await queue.get(ids[2])).reason
    other = await queue.submit(large(), owner="bob")
    assert await lease(hand) == [other]
    for number, job_id in enumerate(ids[:3]):
        await hand.send(JobCompleted(job_id, attempt=1))
        assert await lease(hand) == ids[2 + number : 3 + number]
    await hand.send(JobCompleted(ids[3], attempt=1), JobCompleted(other, attempt=1))
    assert queue._index.ready.owners == {}


async def test_one_answer_begins_no_more_than_one_after_the_other(queue):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([large() for _ in range(4)])
    assert [job.id for job in await hand.lease(limit=4)] == ids[:2]
    assert await hand.lease(limit=4) == []
    await hand.send(JobFailed(ids[0], attempt=1), JobCompleted(ids[1], attempt=1))
    assert [job.id for job in await hand.lease(limit=4)] == ids[2:3]


async def test_small_jobs_are_never_too_much(queue):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([JobSpec(cmd=["true"]) for _ in range(60)])
    assert await lease(hand) == ids


async def test_what_is_tried_again_goes_before_what_has_to_wait_for_it(queue, clock):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([large() for _ in range(2)])
    assert await lease(hand) == ids
    first = await queue.submit(large(priority=5))
    await hand.send(JobFailed(ids[0], attempt=1))
    assert (await queue.get(ids[0])).state is JobState.RETRYING
    assert await lease(hand) == []
    clock.advance(10)
    queue.tick()
    assert await lease(hand) == ids[:1]
    await hand.send(JobCompleted(ids[0], attempt=2))
    assert await lease(hand) == [first]


async def test_job_begins_when_one_that_was_to_be_tried_again_is_canceled(queue):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([large() for _ in range(3)])
    assert await lease(hand) == ids[:2]
    await hand.send(JobFailed(ids[0], attempt=1))
    assert await lease(hand) == []
    await queue.cancel_job(ids[0])
    assert await lease(hand) == ids[2:]


async def test_what_nobody_tries_again_keeps_no_other_from_beginning_one_at_a_time(queue, clock):
    """Its worker may never come back. One at a time is meant of all lanes, and of all who ask at once."""
    gone, hand = await Hand(queue, "gone").register(kind="gone"), await Hand(queue).register()
    ids = await queue.submit_many([large(worker="gone") for _ in range(2)])
    assert await lease(gone) == ids
    more = await queue.submit_many([large(concurrency_group=group) for group in "abcd"])
    assert await lease(hand) == []
    assert "of the host's memory" in (await queue.get(more[0])).reason
    await gone.send(*(JobFailed(job_id, attempt=1) for job_id in ids))
    clock.advance(1_000)
    queue.tick()
    assert "of the host's memory" not in (await queue.get(more[0])).reason
    for job_id in more:
        answers = await asyncio.gather(*(hand.lease(limit=2) for _ in range(3)))
        assert [job.id for jobs in answers for job in jobs] == [job_id]
        assert await lease(hand) == []
        await hand.send(JobCompleted(job_id, attempt=1))
    assert {(await queue.get(job_id)).state for job_id in ids} == {JobState.RETRYING}


async def test_what_begins_one_at_a_time_is_bounded_too(queue):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([large() for _ in range(4)])
    begun = []
    while found := await lease(hand):
        begun += found
        await hand.send(*(JobFailed(job_id, attempt=1) for job_id in found))
    assert begun == ids[:3]
    assert "of the host's memory" in (await queue.get(ids[3])).reason
    await queue.cancel_job(ids[0])
    assert await lease(hand) == ids[3:]


async def test_what_waits_for_others_of_its_owner_is_not_looked_through_for_what_is_tried_again(
    queue, clock, monkeypatch
):
    """Each end of theirs makes the queue look at all their lanes again, which are many."""
    looks, has_begun = [], Turn._has_begun

    def noted(turn, job_id):
        looks.append(job_id)
        return has_begun(turn, job_id)

    monkeypatch.setattr(Turn, "_has_begun", noted)
    hand = await Hand(queue).register()
    first, again = await queue.submit_many([large(concurrency_group="g", concurrency_limit=9) for _ in range(2)])
    assert await lease(hand) == [first, again]
    await queue.submit_many([JobSpec(cmd=["true"], concurrency_group="g", concurrency_limit=9) for _ in range(300)])
    await hand.send(JobFailed(again, attempt=1))
    assert await lease(hand) == []
    clock.advance(10)
    queue.tick()
    assert await lease(hand) == [again]
    assert len(looks) < 30


@pytest.mark.usefixtures("small_windows")
async def test_what_is_tried_again_does_not_wait_for_parked_jobs_before_it(queue, clock):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([large() for _ in range(2)])
    assert await lease(hand) == ids
    before = await queue.submit_many([large(priority=5) for _ in range(9)])
    await hand.send(JobFailed(ids[0], attempt=1))
    clock.advance(10)
    queue.tick()
    assert await lease(hand) == ids[:1]
    assert queue._index.ready.parked
    done = [*ids]
    while done:
        await hand.send(*(JobCompleted(job_id, attempt=2 if job_id == ids[0] else 1) for job_id in done))
        done = await lease(hand)
        assert done == before[: len(done)]
        before = before[len(done) :]
    assert before == []
