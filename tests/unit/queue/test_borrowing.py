"""What is read of jobs that are in the store alone is bounded: of many large ones at once, and by all commands."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import InvalidSpec, TooLarge
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.queue import core, index, workerside

pytestmark = pytest.mark.anyio
LARGE = "x" * 50_000


@pytest.fixture
async def queue(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "RECENT_BYTES", 0)
    monkeypatch.setattr(index, "MOST_RECENT_BYTES_EACH", 0)
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", owner="ada") as queue:
        yield queue


@pytest.fixture
async def ended(queue):
    """Jobs that have ended, and are in memory no more."""
    hand = await Hand(queue).register()
    ids = []
    for _ in range(8):
        job = await hand.run(JobSpec(cmd=["true"], input=LARGE))
        await hand.send(JobCompleted(job.id, attempt=1, seq=1))
        ids.append(job.id)
    await queue.fold()
    assert not any(queue._index.get(job_id) for job_id in ids)
    return ids


async def test_jobs_that_are_too_large_together_are_not_returned_together(queue, ended):
    with pytest.raises(TooLarge, match="together, over the limit of 200 KiB"):
        await queue.get_many(ended, most_bytes=200 * 1024)
    assert [job.id for job in await queue.get_many(ended[:3], most_bytes=200 * 1024)] == ended[:3]
    assert [job.id for job in await queue.get_many(ended[:1], most_bytes=1)] == ended[:1]
    running = [await queue.submit(JobSpec(cmd=["true"], input=LARGE)) for _ in range(8)]
    with pytest.raises(TooLarge):
        await queue.get_many(running, most_bytes=200 * 1024)


async def test_job_that_waits_for_more_than_may_be_read_is_refused_and_one_that_waits_for_fewer_is_not(
    queue, ended, monkeypatch
):
    monkeypatch.setattr(core, "BORROWED_BYTES", 200 * 1024)
    with pytest.raises(TooLarge, match="8 jobs that are named take more than 200 KiB"):
        await queue.submit(JobSpec(cmd=["true"], after=ended))
    assert len(await queue.list()) == 8
    child = await queue.submit(JobSpec(cmd=["true"], after=ended[:3]))
    assert (await queue.get(child)).state is JobState.PENDING


async def test_job_of_another_org_is_as_unknown_as_one_that_there_is_not_however_large_it_is(queue, ended, monkeypatch):
    monkeypatch.setattr(core, "BORROWED_BYTES", 200 * 1024)
    with pytest.raises(InvalidSpec) as refused:
        await queue.submit(JobSpec(cmd=["true"], org_id="other", after=ended))
    assert f"{ended[0]}, which does not exist" in str(refused.value)


async def test_job_may_wait_for_ten_thousand_that_said_and_left_some_kilobytes_each(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], input="x" * 4_000))
    await hand.send(JobCompleted(job.id, attempt=1, seq=1, output={"text": "y" * 4_000}))
    await queue.fold()
    assert queue._index.get(job.id) is None
    assert 10_000 * await queue._weigh([job.id]) < core.BORROWED_BYTES


async def test_commands_that_read_much_have_it_in_memory_one_after_the_other(queue, ended, monkeypatch):
    monkeypatch.setattr(core, "MUCH_BYTES", 100 * 1024)
    borrow, run = queue._borrow, queue._commits.run
    under_way, most = 0, 0

    async def borrowing(ids):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        return await borrow(ids)

    async def running(command):
        nonlocal under_way
        try:
            return await run(command)
        finally:
            under_way -= 1

    monkeypatch.setattr(queue, "_borrow", borrowing)
    monkeypatch.setattr(queue._commits, "run", running)
    await asyncio.gather(*(queue.submit(JobSpec(cmd=["true"], after=ended)) for _ in range(4)))
    assert most == 1
    await asyncio.gather(*(queue.submit(JobSpec(cmd=["true"], after=ended[:1])) for _ in range(4)))
    assert most > 1


@pytest.mark.parametrize("with_lease", [False, True])
async def test_events_of_jobs_that_take_much_are_taken_in_parts(queue, ended, monkeypatch, with_lease):
    monkeypatch.setattr(workerside, "MUCH_BYTES", 200 * 1024)
    post, parts = queue._post_events, []

    async def posting(events, reporter, scope):
        parts.append(len(events))
        return await post(events, reporter, scope)

    monkeypatch.setattr(queue, "_post_events", posting)
    hand = Hand(queue)
    again = [JobCompleted(job_id, attempt=1, seq=1) for job_id in ended]
    if with_lease:
        hand.requests = 100
        await hand.lease(events=again)
    else:
        assert [result.status for result in await hand.send(*again)] == ["ok"] * len(ended)
    assert sum(parts) == len(ended)
    assert max(parts) <= 4
