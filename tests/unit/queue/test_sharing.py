"""Who goes next: orgs in turns, within one by priority and age, never over a limit, never from a paused queue."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import InvalidSpec, OverQuota
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.model.job import Resources
from zbrain_nb.model.quotas import Quota, Quotas

pytestmark = pytest.mark.anyio


def spec(**fields):
    return JobSpec(cmd=["true"], **fields)


def limited(tmp_path, clock, **quotas):
    return JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada", quotas=Quotas(**quotas))


async def names(hand, limit):
    return [job.org_id for job in await hand.lease(limit=limit, wait_secs=5)]


# Turns


async def test_org_with_few_jobs_does_not_wait_behind_one_with_many(queue):
    await queue.submit_many([spec(org_id="many") for _ in range(1_000)])
    few = await queue.submit_many([spec(org_id="few") for _ in range(10)])
    hand = await Hand(queue).register()
    started = []
    for _ in range(5):  # two turnovers of ten slots would do; four slots at a time
        jobs = await hand.lease(limit=4, wait_secs=5)
        started += [job.id for job in jobs]
        await hand.send(*(JobCompleted(job.id, attempt=1) for job in jobs))
    assert set(few) <= set(started)


async def test_orgs_with_much_to_do_share_evenly(queue):
    for org in ("a", "b", "c"):
        await queue.submit_many([spec(org_id=org) for _ in range(100)])
    hand = await Hand(queue).register()
    assert Counter(await names(hand, 30)) == {"a": 10, "b": 10, "c": 10}


async def test_large_jobs_count_for_more(queue):
    await queue.submit_many([spec(org_id="large", resources={"cpus": 4}) for _ in range(20)])
    await queue.submit_many([spec(org_id="small") for _ in range(40)])
    hand = await Hand(queue).register()
    assert Counter(await names(hand, 25)) == {"large": 5, "small": 20}


async def test_org_that_was_idle_saved_nothing(queue):
    await queue.submit_many([spec(org_id="busy") for _ in range(200)])
    await queue.submit(spec(org_id="idle"))
    hand = await Hand(queue).register()
    assert Counter(await names(hand, 100)) == {"busy": 99, "idle": 1}
    await queue.submit_many([spec(org_id="idle") for _ in range(50)])
    assert Counter(await names(hand, 20)) == {"busy": 10, "idle": 10}


async def test_job_that_fits_nowhere_blocks_nobody(queue):
    large = await queue.submit(spec(resources={"gpus": 8}))
    small = await queue.submit(spec())
    hand = await Hand(queue).register(resources=Resources(4))
    assert [job.id for job in await hand.lease(limit=2, resources=Resources(4))] == [small]
    assert (await queue.get(large)).reason == (
        "Waiting for a worker of kind local with 8 GPUs; none that is here has enough: 0 GPUs at most."
    )


# Groups


async def test_jobs_of_a_group_run_one_at_a_time_and_say_why_they_wait(queue):
    ids = await queue.submit_many([spec(concurrency_group="gpu") for _ in range(3)])
    other = await queue.submit(spec())
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == [ids[0], other]
    assert "another job of the group 'gpu'" in (await queue.get(ids[1])).reason
    await hand.send(JobCompleted(ids[0], attempt=1))
    assert [job.id for job in await hand.lease(limit=9)] == [ids[1]]


async def test_two_workers_at_once_get_one_job_of_a_group(queue):
    await queue.submit_many([spec(concurrency_group="gpu") for _ in range(3)])
    hands = [await Hand(queue, f"w{n}").register() for n in range(2)]
    found = await asyncio.gather(*(hand.lease(limit=2) for hand in hands))
    assert sum(map(len, found)) == 1


async def test_group_runs_as_many_as_its_jobs_allow_and_says_why_the_rest_waits(queue):
    ids = await queue.submit_many([spec(concurrency_group="map", concurrency_limit=3) for _ in range(5)])
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == ids[:3]
    assert "3 run at a time" in (await queue.get(ids[3])).reason
    await hand.send(JobCompleted(ids[1], attempt=1))
    assert [job.id for job in await hand.lease(limit=9)] == [ids[3]]


async def test_group_job_with_a_lower_limit_waits_for_more_of_the_others(queue):
    many = await queue.submit_many([spec(concurrency_group="g", concurrency_limit=2) for _ in range(2)])
    alone = await queue.submit(spec(concurrency_group="g"))
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == many
    await hand.send(JobCompleted(many[0], attempt=1))
    assert await hand.lease(limit=9) == []
    await hand.send(JobCompleted(many[1], attempt=1))
    assert [job.id for job in await hand.lease(limit=9)] == [alone]


async def test_group_limit_holds_when_opened_again_with_jobs_in_the_store_alone(tmp_path, clock):
    queue = limited(tmp_path, clock)
    await queue.submit_many([spec(concurrency_group="g", concurrency_limit=2) for _ in range(1_200)])
    await queue.close()
    hand = await Hand(queue).register()
    assert len(await hand.lease(limit=9)) == 2
    assert queue.active_jobs() == 1_200
    await queue.close()


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2"])
def test_concurrency_limit_that_is_no_number_of_jobs_is_invalid(limit):
    with pytest.raises(InvalidSpec) as refused:
        spec(concurrency_group="g", concurrency_limit=limit)
    assert refused.value.details["field"] == "concurrency_limit"


def test_concurrency_limit_without_a_group_is_invalid():
    with pytest.raises(InvalidSpec, match="in none"):
        spec(concurrency_limit=2)


async def test_group_of_another_org_is_another_group(queue):
    await queue.submit_many([spec(concurrency_group="gpu", org_id=org) for org in ("a", "b")])
    hand = await Hand(queue).register()
    assert len(await hand.lease(limit=9)) == 2


async def test_group_is_free_while_its_job_waits_to_be_tried_again(queue):
    first, second = await queue.submit_many([spec(concurrency_group="gpu", max_retries=1) for _ in range(2)])
    hand = await Hand(queue).register()
    await hand.lease()
    await hand.send(JobFailed(first, attempt=1))
    assert (await queue.get(first)).state is JobState.RETRYING
    assert [job.id for job in await hand.lease()] == [second]


async def test_group_is_busy_when_opened_again(tmp_path, clock):
    queue = limited(tmp_path, clock)
    await queue.submit_many([spec(concurrency_group="gpu") for _ in range(2)])
    hand = await Hand(queue).register()
    (job,) = await hand.lease()
    await queue.close()
    hand = await Hand(queue).register()
    assert await hand.lease() == []
    await hand.send(JobCompleted(job.id, attempt=1))
    assert len(await hand.lease()) == 1
    await queue.close()


async def test_lease_that_could_not_be_written_leaves_the_group_free(queue, monkeypatch):
    await queue.submit(spec(concurrency_group="gpu"))
    hand = await Hand(queue).register()
    append = queue.storage.append

    def fail(changes, done):
        done(None, OSError("no"))

    monkeypatch.setattr(queue.storage, "append", fail)
    with pytest.raises(Exception, match="could not write"):
        await hand.lease()
    monkeypatch.setattr(queue.storage, "append", append)
    assert len(await hand.lease()) == 1


# Limits


async def test_org_over_its_running_limit_waits_and_says_so(tmp_path, clock):
    async with limited(tmp_path, clock, org=Quota(running=2)) as queue:
        ids = await queue.submit_many([spec(org_id="lab") for _ in range(4)] + [spec(org_id="else")])
        hand = await Hand(queue).register()
        assert sorted(await names(hand, 9)) == ["else", "lab", "lab"]
        assert (await queue.get(ids[2])).reason == "Over the limit of the org lab: 2 may run at once."
        await hand.send(JobCompleted(ids[0], attempt=1))
        assert [job.id for job in await hand.lease(limit=9)] == [ids[2]]


async def test_owner_over_its_running_limit_does_not_hold_up_others(tmp_path, clock):
    async with limited(tmp_path, clock, owner=Quota(running=1)) as queue:
        await queue.submit_many([spec() for _ in range(3)], owner="ada")
        await queue.submit_many([spec() for _ in range(3)], owner="bob")
        hand = await Hand(queue).register()
        jobs = await hand.lease(limit=9)
        assert sorted(job.owner for job in jobs) == ["ada", "bob"]
        await hand.send(*(JobCompleted(job.id, attempt=1) for job in jobs if job.owner == "bob"))
        assert [job.owner for job in await hand.lease(limit=9)] == ["bob"]


@pytest.mark.parametrize("what", ["org", "owner"])
async def test_submit_over_the_pending_limit_is_refused_with_the_figures(tmp_path, clock, what):
    async with limited(tmp_path, clock, **{what: Quota(pending=3)}) as queue:
        await queue.submit(spec())
        with pytest.raises(OverQuota) as caught:
            await queue.submit_many([spec() for _ in range(3)])
        assert caught.value.details == {"quota": f"{what}_pending", "limit": 3, "used": 1, "retry_after_secs": 10}
        assert queue.active_jobs() == 1
        results = await asyncio.gather(*(queue.submit(spec()) for _ in range(4)), return_exceptions=True)
        assert Counter(type(result) for result in results) == {str: 2, OverQuota: 2}
        hand = await Hand(queue).register()
        await hand.lease()
        await queue.submit(spec())


async def test_key_of_a_known_job_is_answered_though_the_limit_is_reached(tmp_path, clock):
    async with limited(tmp_path, clock, org=Quota(pending=1)) as queue:
        first = await queue.submit(spec(idempotency_key="k"))
        assert await queue.submit(spec(idempotency_key="k")) == first


# Pauses


async def test_paused_queue_leases_nothing_until_it_is_resumed(tmp_path, clock):
    queue = limited(tmp_path, clock)
    job_id = await queue.submit(spec(org_id="lab"))
    paused = await queue.pause("lab", "local", by="ada")
    assert (paused.waiting, paused.running) == (1, 0)
    hand = await Hand(queue).register()
    other = await queue.submit(spec(org_id="else"))
    assert [job.id for job in await hand.lease(limit=9)] == [other]
    assert (await queue.get(job_id)).reason == (
        "The queue local of the org lab is paused by ada since 2027-01-15 08:00 UTC."
    )
    await queue.close()
    hand = await Hand(queue).register()
    assert await hand.lease(limit=9) == []
    assert [(info.org_id, info.waiting, info.running) for info in await queue.queues()] == [
        ("else", 0, 1),
        ("lab", 1, 0),
    ]
    waiting = asyncio.ensure_future(hand.lease(limit=9, wait_secs=30))
    await queue.resume("lab", "local")
    assert [job.id for job in await waiting] == [job_id]
    assert [info.paused for info in await queue.queues()] == [None, None]
    await queue.close()


async def test_pausing_twice_and_resuming_twice_changes_nothing(queue):
    assert await queue.pause("lab", "local") == await queue.pause("lab", "local", by="eve")
    assert await queue.resume("lab", "local") == await queue.resume("lab", "local")
    assert await queue.queues() == []


async def test_impossible_queue_is_refused(queue):
    with pytest.raises(InvalidSpec):
        await queue.pause("a/b", "local")
    with pytest.raises(InvalidSpec):
        await queue.pause("lab", "")
