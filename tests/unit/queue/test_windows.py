"""Windows: most waiting jobs are in the store alone, and nobody notices."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import CancelResult, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.queue import memory, ready
from zbrain_nb.store.footprint import JOB_BYTES

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(ready, "WINDOW", 4)
    monkeypatch.setattr(ready, "SMALLEST_WINDOW", 2)


@pytest.fixture
async def queue(tmp_path, clock):
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada") as opened:
        yield opened


def spec(**fields):
    return JobSpec(cmd=["true"], **fields)


async def lease_all(queue, worker_id="w"):
    """Lease one at a time, waiting for windows to be filled."""
    hand = await Hand(queue, worker_id).register()
    found = []
    while queue._index.ready.parked or queue._index.ready.lanes:
        jobs = await hand.lease(wait_secs=0.05 if not queue._index.ready.parked else 5.0)
        if not jobs:
            break
        found += [job.id for job in jobs]
    return found


async def test_only_the_window_is_in_memory(queue):
    ids = await queue.submit_many([spec() for _ in range(50)])
    assert len(queue._index.live) == 4
    assert queue.active_jobs() == 50
    assert [job.state for job in await asyncio.gather(*map(queue.get, ids))] == [JobState.PENDING] * 50


async def test_parked_jobs_are_leased_in_order(queue):
    ids = await queue.submit_many([spec() for _ in range(50)])
    assert await lease_all(queue) == ids
    assert queue._index.ready.parked == 0


async def test_no_job_is_lost_that_stands_twice_in_a_window_of_which_the_far_end_is_parked(queue, monkeypatch):
    """It was lined up again when what was to become of it could not be written."""
    ids = await queue.submit_many([spec() for _ in range(4)])
    with monkeypatch.context() as broken:
        broken.setattr(queue.storage, "append", lambda changes, done: done(None, OSError("no")))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await queue.cancel_job(ids[0])
    urgent = [await queue.submit(spec(priority=9)) for _ in range(3)]
    assert queue._index.ready.parked
    assert await lease_all(queue) == [*urgent, *ids]


async def test_higher_priority_goes_before_what_is_in_the_window(queue):
    low = await queue.submit_many([spec() for _ in range(20)])
    high = await queue.submit_many([spec(priority=1) for _ in range(20)])
    assert len(queue._index.live) <= 8
    assert await lease_all(queue) == high + low


async def test_who_waits_long_enough_overtakes_a_higher_priority(queue, clock):
    old = await queue.submit_many([spec() for _ in range(10)])
    clock.advance(2 * 3600)
    new = await queue.submit_many([spec(priority=1) for _ in range(10)])
    clock.advance(1)
    latest = await queue.submit_many([spec() for _ in range(3)])
    assert await lease_all(queue) == old + new + latest


async def test_clock_set_back_does_not_let_new_jobs_overtake(queue, clock):
    ids = await queue.submit_many([spec() for _ in range(10)])
    clock.advance(-5 * 3600)
    ids += await queue.submit_many([spec() for _ in range(10)])
    assert await lease_all(queue) == ids


async def test_parked_job_is_canceled_and_not_leased(queue):
    ids = await queue.submit_many([spec() for _ in range(30)])
    assert [await queue.cancel_job(job_id) for job_id in ids[5::3]] == [CancelResult.CANCELED] * len(ids[5::3])
    assert queue.active_jobs() == 30 - len(ids[5::3])
    assert await lease_all(queue) == [job_id for job_id in ids if job_id not in ids[5::3]]


async def test_canceled_parked_job_stays_canceled_when_it_left_the_memory(queue, monkeypatch):
    monkeypatch.setattr("zbrain_nb.queue.index.RECENT", 1)
    ids = await queue.submit_many([spec() for _ in range(30)])
    canceled = ids[6:20]
    await asyncio.gather(*map(queue.cancel_job, canceled))
    left = await lease_all(queue)
    assert left == [job_id for job_id in ids if job_id not in canceled]


@pytest.fixture
def after_reads(queue, monkeypatch):
    """Let a coroutine function run each time when the store was read, before what was read is used."""
    read, meanwhile = queue.storage.read, {}

    async def slow(query, *args, **kwargs):
        found = await read(query, *args, **kwargs)
        if query.__name__ in meanwhile:
            await meanwhile[query.__name__]()
        return found

    monkeypatch.setattr(queue.storage, "read", slow)
    return meanwhile


async def test_parked_jobs_that_ended_and_left_the_memory_while_they_were_read_are_not_leased(
    queue, after_reads, monkeypatch
):
    monkeypatch.setattr("zbrain_nb.queue.index.RECENT", 1)
    ids = await queue.submit_many([spec() for _ in range(30)])
    canceled = ids[6:12]

    async def cancel():
        del after_reads["page"]
        await asyncio.gather(*map(queue.cancel_job, canceled))
        await queue.fold()
        assert not queue._index.unfolded and len(queue._index.recent) == 1

    after_reads["page"] = cancel
    assert await lease_all(queue) == [job_id for job_id in ids if job_id not in canceled]
    assert "page" not in after_reads


async def test_parked_jobs_are_leased_and_canceled_while_others_end_and_leave_the_memory_during_each_read(
    queue, after_reads, monkeypatch
):
    monkeypatch.setattr("zbrain_nb.queue.index.MOST_RECENT_BYTES_EACH", 0)
    ids = await queue.submit_many([spec() for _ in range(30)])
    reads = 0

    async def another_ends():
        nonlocal reads
        reads += 1
        await queue.cancel_job(await queue.submit(spec(worker="nobody"), owner="bob"))

    after_reads["page"] = after_reads["placed_by_id"] = another_ends
    async with asyncio.timeout(20):
        assert await queue.cancel_job(ids[-1]) is CancelResult.CANCELED
        assert reads == 1
        assert await lease_all(queue) == ids[:-1]
    assert reads < 30


async def test_job_that_ended_and_left_the_memory_while_it_was_read_ends_only_once(queue, after_reads, monkeypatch):
    monkeypatch.setattr("zbrain_nb.queue.index.MOST_RECENT_BYTES_EACH", 0)
    ids = await queue.submit_many([spec() for _ in range(30)])

    async def cancel():
        del after_reads["placed_by_id"]
        await queue.cancel_job(ids[-1], by="ada")

    after_reads["placed_by_id"] = cancel
    await queue.cancel_job(ids[-1], by="bob")
    assert (await queue.get(ids[-1])).canceled_by == "ada"
    assert queue.active_jobs() == 29


async def test_job_waits_for_a_parked_one(queue):
    ids = await queue.submit_many([spec() for _ in range(20)])
    child = await queue.submit(spec(after=[ids[-1]]))
    hand = await Hand(queue).register()
    for job_id in ids:
        (job,) = await hand.lease(wait_secs=5)
        assert job.id == job_id
        await hand.send(JobCompleted(job.id, attempt=1))
    assert [job.id for job in await hand.lease(wait_secs=5)] == [child]


async def test_job_that_waits_for_a_parked_one_still_does_when_opened_again(tmp_path, queue):
    ids = await queue.submit_many([spec() for _ in range(20)])
    child = await queue.submit(spec(after=[ids[-1]]))
    await queue.close()
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=4, wait_secs=5)] == ids[:4]
    assert "Waiting for" in (await queue.get(child)).reason
    assert await queue.cancel_job(ids[-1]) is CancelResult.CANCELED
    assert (await queue.get(child)).state is JobState.FAILED


async def test_key_of_a_parked_job_is_known(queue):
    (await queue.submit_many([spec() for _ in range(20)]))
    first = await queue.submit(spec(idempotency_key="k"))
    assert await queue.submit(spec(idempotency_key="k")) == first
    await queue.close()
    assert await queue.submit(spec(idempotency_key="k")) == first


async def test_same_key_twice_at_once_is_one_job_though_it_is_parked(queue):
    await queue.submit_many([spec() for _ in range(20)])
    ids = await asyncio.gather(*(queue.submit(spec(idempotency_key="k")) for _ in range(5)))
    assert len(set(ids)) == 1
    assert queue.active_jobs() == 21


async def test_retried_job_keeps_its_place(queue, clock):
    ids = await queue.submit_many([spec(max_retries=1) for _ in range(20)])
    hand = await Hand(queue).register()
    (job,) = await hand.lease()
    await hand.send(JobFailed(job.id, attempt=1))
    assert [job.id for job in await hand.lease(limit=1)] == [ids[1]]
    clock.advance(10)
    queue.tick()
    assert [job.id for job in await hand.lease(limit=1)] == [ids[0]]


async def test_window_that_cannot_be_read_is_read_later(queue, monkeypatch):
    monkeypatch.setattr("zbrain_nb.queue.refill.RETRY_SECS", 0.01)
    ids = await queue.submit_many([spec() for _ in range(20)])
    read, failures = queue.storage.read, []

    async def fails_twice(query, *args, **kwargs):
        if query.__name__ == "page" and len(failures) < 2:
            failures.append(query)
            raise queue_unavailable()
        return await read(query, *args, **kwargs)

    monkeypatch.setattr(queue.storage, "read", fails_twice)
    assert await lease_all(queue) == ids
    assert len(failures) == 2


def queue_unavailable():
    from zbrain_nb.model.errors import Unavailable

    return Unavailable("No.")


async def test_empty_lanes_are_forgotten(queue):
    ids = await queue.submit_many([spec(org_id=f"o{n}", concurrency_group=f"g{n}") for n in range(20)])
    await asyncio.gather(*map(queue.cancel_job, ids))
    ready_queues = queue._index.ready
    assert (ready_queues.lanes, ready_queues.groups, ready_queues.owners) == ({}, {}, {})


@pytest.mark.parametrize("seed", range(8))
async def test_any_mix_leaves_order_and_counts_right(tmp_path, clock, seed, monkeypatch):
    """Submits, leases, ends, cancels and reopening in any order: the queue and a plain list agree."""
    dice = random.Random(seed)
    if seed % 2:  # windows end by what their jobs take
        monkeypatch.setattr(ready, "WINDOW", 40)
        monkeypatch.setattr(memory, "WINDOWS_BYTES", 30_000)
        monkeypatch.setattr(memory, "LANE_BYTES", 6_000)
    queue = JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada")
    line: list[tuple[int, int, str]] = []
    running: dict[str, int] = {}
    hand = await Hand(queue).register()
    number = 0
    for _ in range(150):
        what = dice.random()
        clock.advance(dice.random())
        if what < 0.3:
            priorities = [dice.choice((0, 0, 0, 1, 2)) for _ in range(dice.randrange(1, 12))]
            base = queue._index.rank_base(clock.time())
            specs = [spec(priority=priority, input="x" * dice.choice((0, 0, 9_000))) for priority in priorities]
            ids = await queue.submit_many(specs)
            for job_id, priority in zip(ids, priorities, strict=True):
                number += 1
                line.append((base - priority * 3_600_000_000, number, job_id))
        elif what < 0.6 and line:
            limit = dice.randrange(1, 5)
            jobs = await hand.lease(limit=limit, wait_secs=5)
            expected = sorted(line)[: len(jobs)]
            assert jobs and [job.id for job in jobs] == [job_id for _, _, job_id in expected]
            line = sorted(line)[len(jobs) :]
            running |= {job.id: job.attempt for job in jobs}
        elif what < 0.75 and running:
            job_id = dice.choice(list(running))
            await hand.send(JobCompleted(job_id, attempt=running.pop(job_id)))
        elif what < 0.9 and line:
            victim = dice.choice(line)
            line.remove(victim)
            assert await queue.cancel_job(victim[2]) is CancelResult.CANCELED
        elif what > 0.95:
            await queue.close()
            hand = await Hand(queue).register()
        assert queue.active_jobs() == len(line) + len(running)
        assert queue._index.ready.parked == sum(lane.parked for lane in queue._index.ready.lanes.values())
        held = sum(entry.size for entry in queue._index.live.values() if entry.may_park())
        begun = sum(entry.size - JOB_BYTES for entry in queue._index.live.values() if entry.job.attempt)
        assert begun == sum(owner.begun for owner in queue._index.ready.owners.values())
        assert queue._index.ready.memory.held == held == sum(lane.held for lane in queue._index.ready.lanes.values())
    await queue.close()
    assert await lease_all(queue, "v") == [job_id for _, _, job_id in sorted(line)]
    await queue.close()


async def test_canceling_and_retrying_many_parked_jobs_reads_them_together(queue, monkeypatch):
    ids = await queue.submit_many([JobSpec(cmd=["true"])] * 3000)
    assert sum(job_id in queue._index.live for job_id in ids) < 2500  # the store alone keeps the others
    reads = 0
    read = queue.storage.read

    async def counted(*args, **kwargs):
        nonlocal reads
        reads += 1
        return await read(*args, **kwargs)

    monkeypatch.setattr(queue.storage, "read", counted)
    await queue.cancel_many([*ids, "01936b1e-0000-7000-8000-000000000000"], by="ada")
    assert reads < 50
    jobs = await queue.get_many(ids)
    assert {(job.state, job.canceled_by) for job in jobs} == {(JobState.CANCELED, "ada")}
    again = await queue.accept_repeats(jobs)
    assert [one.job.retry_of for one in again] == ids
    assert reads < 60
