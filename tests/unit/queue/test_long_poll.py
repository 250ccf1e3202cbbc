import asyncio

import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from zbrain_nb import JobSpec, JobState
from zbrain_nb.model.events import JobCanceled, JobFailed
from zbrain_nb.model.protocol import AttemptRef, LeaseRequest

pytestmark = pytest.mark.anyio
LONG = 60.0


async def within(awaitable, secs=10):
    return await asyncio.wait_for(awaitable, secs)


async def test_lease_waits_and_answers_the_moment_a_job_fits(queue):
    hand = await Hand(queue).register()
    asking = asyncio.create_task(hand.lease(wait_secs=LONG))
    await turns()
    await queue.submit(JobSpec(cmd=["true"], worker="docker"))
    assert not asking.done()
    job_id = await queue.submit(TRUE)
    (job,) = await within(asking)
    assert (job.id, job.attempt) == (job_id, 1)


async def test_lease_answers_empty_after_its_time(queue):
    hand = await Hand(queue).register()
    assert await within(hand.lease(wait_secs=0.01)) == []
    assert not queue._desk._parked


async def test_lease_same_request_again_gets_the_same_jobs(queue):
    hand = await Hand(queue).register()
    await queue.submit_many([TRUE, TRUE, TRUE])
    request = LeaseRequest(request_id="r", limit=2, wait_secs=0)
    first = await queue.lease("w", request)
    assert await queue.lease("w", request) == first
    await hand.register()
    assert await queue.lease("w", request) == first
    await hand.send(JobFailed(first.leases[0].job.id, attempt=1))
    assert (await queue.lease("w", request)).leases == first.leases[1:]


async def test_lease_two_requests_at_once_never_share_a_job(queue):
    hands = [await Hand(queue, f"w{i}").register() for i in range(8)]
    asking = [asyncio.create_task(hand.lease(wait_secs=LONG)) for hand in hands]
    await turns()
    ids = [await queue.submit(TRUE) for _ in range(3)] + await queue.submit_many([TRUE] * 5)
    got = [job.id for jobs in await within(asyncio.gather(*asking)) for job in jobs]
    assert sorted(got) == sorted(ids)


async def test_lease_whose_client_vanished_before_leaves_the_job_to_others(queue):
    gone, other = await Hand(queue, "gone").register(), await Hand(queue, "other").register()
    asking = asyncio.create_task(gone.lease(wait_secs=LONG))
    await turns()
    asking.cancel()
    await turns()
    job_id = await queue.submit(TRUE)
    await turns()
    assert [job.id for job in await other.lease()] == [job_id]


async def test_lease_whose_client_vanished_in_the_commit_is_found_by_a_repeat(queue):
    await Hand(queue).register()
    job_id = await queue.submit(TRUE)
    request = LeaseRequest(request_id="r", wait_secs=LONG)
    asking = asyncio.create_task(queue.lease("w", request))
    while queue._commits._under_way is False:
        await asyncio.sleep(0)
    asking.cancel()
    await queue._commits.drain()
    await turns()
    assert (await queue.get(job_id)).state is JobState.RUNNING
    answer = await within(queue.lease("w", request))
    assert [lease.job.id for lease in answer.leases] == [job_id]


async def test_lease_repeat_while_the_first_waits_shares_its_answer(queue):
    await Hand(queue).register()
    request = LeaseRequest(request_id="r", wait_secs=LONG)
    first = asyncio.create_task(queue.lease("w", request))
    await turns()
    second = asyncio.create_task(queue.lease("w", request))
    await turns()
    first.cancel()
    await turns()
    job_id = await queue.submit(TRUE)
    assert [lease.job.id for lease in (await within(second)).leases] == [job_id]
    assert not queue._desk._parked


async def test_lease_repeat_while_the_first_waits_takes_no_second_job(queue):
    await Hand(queue).register()
    request = LeaseRequest(request_id="r", wait_secs=LONG)
    both = [asyncio.create_task(queue.lease("w", request)) for _ in range(2)]
    await turns()
    await queue.submit_many([TRUE, TRUE])
    first, second = await within(asyncio.gather(*both))
    assert first == second
    assert len(await queue.list(state="running")) == 1


async def test_lease_finds_the_job_that_came_in_with_its_own_commit(queue):
    await Hand(queue).register()
    asking = asyncio.create_task(queue.lease("w", LeaseRequest(request_id="r", wait_secs=LONG)))
    submitting = asyncio.create_task(queue.submit(TRUE))
    job_id = await within(submitting)
    assert [lease.job.id for lease in (await within(asking)).leases] == [job_id]


async def test_cancel_cuts_a_waiting_lease_short_once_and_is_repeated_until_the_end(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    asking = asyncio.create_task(queue.lease("w", LeaseRequest(request_id="a", limit=0, wait_secs=LONG)))
    await turns()
    await queue.cancel_job(job.id)
    ref = AttemptRef(job.id, 1)
    assert (await within(asking)).cancels == [ref]
    again = asyncio.create_task(queue.lease("w", LeaseRequest(request_id="b", limit=1, wait_secs=LONG)))
    await turns()
    assert not again.done(), "said once, a cancel does not keep the poll from waiting"
    await queue.submit(TRUE)
    answer = await within(again)
    assert (len(answer.leases), answer.cancels) == (1, [ref])
    await hand.send(JobCanceled(job.id, attempt=1))
    assert (await queue.lease("w", LeaseRequest(request_id="c", limit=0, wait_secs=0))).cancels == []


async def test_cancel_due_before_the_request_answers_at_once(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await queue.cancel_job(job.id)
    await hand.register()
    answer = await within(queue.lease("w", LeaseRequest(request_id="z", limit=0, wait_secs=LONG)))
    assert answer.cancels == [AttemptRef(job.id, 1)]


async def test_close_answers_who_waits(queue):
    hand = await Hand(queue).register()
    asking = asyncio.create_task(hand.lease(wait_secs=LONG))
    await turns()
    await queue.close()
    assert await within(asking) == []


async def test_job_after_its_back_off_reaches_a_waiting_lease(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=1))
    await hand.send(JobFailed(job.id, attempt=1))
    asking = asyncio.create_task(hand.lease(wait_secs=LONG))
    await turns()
    assert not asking.done()
    clock.advance(1)
    queue.tick()
    assert (await within(asking))[0].attempt == 2
