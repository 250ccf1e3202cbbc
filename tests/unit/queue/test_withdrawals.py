"""What becomes of jobs while their owners are asked about, and of owners of whom nothing can be told."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.queue.stage import TRUE, turns
from tests.unit.queue.test_pools import APART, BIG
from tests.unit.queue.test_scopes import ABE, ScopedHand
from zbrain_nb import JobSpec

pytestmark = pytest.mark.anyio


class Hub:
    """Asked about owners, it answers when it is told to."""

    def __init__(self, queue):
        self.asked = 0
        self.answer = asyncio.Event()
        queue.may_run = self.may_run

    async def may_run(self, job):
        self.asked += 1
        await self.answer.wait()
        return True

    async def was_asked(self, times):
        while self.asked < times:
            await asyncio.sleep(0)


async def test_job_whose_owner_is_asked_about_when_its_worker_goes_is_given_back_unharmed(queue):
    hub = Hub(queue)
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    job_id = await queue.submit(JobSpec(code="1", worker="big"), scope=ABE)  # a cell: once begun it is not run again
    leasing = asyncio.ensure_future(hand.lease())
    await hub.was_asked(1)
    leasing.cancel()
    await asyncio.gather(leasing, return_exceptions=True)
    hub.answer.set()
    hand.requests = 0
    assert await hand.lease() == []  # the same request again, before the job is given back
    await queue.submit(TRUE)  # by then it is
    job = await queue.get(job_id)
    assert (job.state, job.losses) == ("retrying", 0)
    other = await ScopedHand(queue, "q", APART).register(kind="big")
    queue.tick()
    assert [(job.id, job.attempt) for job in await other.lease()] == [(job_id, 2)]


async def test_job_that_a_worker_was_handed_is_not_given_back_when_a_repeat_of_its_request_ends(queue):
    hub = Hub(queue)
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    first = asyncio.ensure_future(hand.lease())
    await hub.was_asked(1)
    hub.answer.set()
    assert [job.id for job in await first] == [job_id]
    hub.answer.clear()
    hand.requests = 0
    repeat = asyncio.ensure_future(hand.lease())
    await hub.was_asked(2)
    repeat.cancel()
    await asyncio.gather(repeat, return_exceptions=True)
    await queue.submit(TRUE)  # what was to be decided before is by then
    assert (await queue.get(job_id)).state == "running"


async def test_job_is_not_given_back_that_a_repeat_has_handed_out_when_the_first_request_ends(queue):
    """Both wait for the job, and the answer to the first comes later: its connection is broken."""
    answers = asyncio.Event(), asyncio.Event()
    asked = []

    async def may_run(job):
        asked.append(job)
        await answers[len(asked) - 1].wait()
        return True

    queue.may_run = may_run
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    first = asyncio.ensure_future(hand.lease(wait_secs=30))
    await turns()
    hand.requests = 0
    repeat = asyncio.ensure_future(hand.lease(wait_secs=30))
    await turns()
    job_id = await queue.submit(BIG, scope=ABE)
    while len(asked) < 2:
        await asyncio.sleep(0)
    answers[1].set()
    assert [job.id for job in await repeat] == [job_id]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await queue.submit(TRUE)
    assert (await queue.get(job_id)).state == "running"
