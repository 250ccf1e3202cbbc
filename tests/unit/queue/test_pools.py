"""Pools: workers whose token is for the jobs of several people get them only if they keep these people apart."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from tests.unit.queue.test_grants import DATA, SHA, upload
from tests.unit.queue.test_scopes import ABE, ANN, BOB, HOLDER, ScopedHand, pool
from zbrain_nb import JobSpec
from zbrain_nb.model.errors import Forbidden, Unavailable
from zbrain_nb.model.events import JobCompleted, JobStarted
from zbrain_nb.model.job import JobArtifact
from zbrain_nb.model.protocol import AttemptRef, EventBatch, HeartbeatRequest, WorkerInfo
from zbrain_nb.queue.endings import MAX_RETURNS
from zbrain_nb.queue.withdrawals import ASK_AGAIN_SECS, anybody_may

pytestmark = pytest.mark.anyio

LEASE_SECS = 60  # of the fixture's queue
BIG = JobSpec(cmd=["true"], worker="big")
POOL = pool("big", "red")  # ann made its token
APART = pool("big", "red", isolates=True)


def of_abe(scope=POOL):
    """Return the principal of a pool's token that is bound to abe's jobs."""
    return msgspec.structs.replace(scope, worker=msgspec.structs.replace(scope.worker, owner="abe"))


async def test_worker_whose_token_says_that_it_isolates_gets_jobs_of_its_kind_and_orgs_of_everybody(queue):
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    theirs = [await queue.submit(BIG, scope=ANN), await queue.submit(BIG, scope=ABE)]
    await queue.submit(BIG, scope=BOB)
    await queue.submit(TRUE, scope=ANN)
    assert {job.id for job in await hand.lease(limit=9)} == set(theirs)
    with pytest.raises(Forbidden, match="pool big"):
        await hand.lease(kinds=["local"])
    with pytest.raises(Forbidden, match="--pool big"):
        await ScopedHand(queue, "q", APART).register(kind="local")
    with pytest.raises(Forbidden, match="blue"):
        await ScopedHand(queue, "q", POOL).register(kind="big", org_id="blue")


@pytest.mark.parametrize("kinds", [None, ["big"]])
async def test_worker_that_does_not_isolate_gets_jobs_of_its_tokens_owner_alone(queue, kinds):
    hand = await ScopedHand(queue, "p", POOL).register(kind="big")
    anns, abes = await queue.submit(BIG, scope=ANN), await queue.submit(BIG, scope=ABE)
    ahead = []
    for scope in (ABE, ANN):
        await upload(queue, scope)
        ahead.append(await queue.submit(JobSpec(function=SHA, worker="big"), scope=scope))
    assert {job.id for job in await hand.lease(limit=1, ahead=9, kinds=kinds)} == {anns, ahead[1]}
    assert (await queue.get(abes)).state == "pending"


async def test_worker_that_does_not_isolate_and_waits_is_woken_by_jobs_of_its_tokens_owner_alone(queue):
    hand = await ScopedHand(queue, "p", POOL).register(kind="big")
    waiting = asyncio.ensure_future(hand.lease(wait_secs=30))
    await queue.submit(BIG, scope=ABE)
    await turns()
    assert not waiting.done()
    job_id = await queue.submit(BIG, scope=ANN)
    assert [job.id for job in await waiting] == [job_id]


async def test_worker_cannot_say_itself_whose_jobs_it_gets(queue):
    claims = {"owner": "abe", "is_shared": False, "isolates": True, "holder": ""}
    hand = await ScopedHand(queue, "p", POOL).register(kind="big", **claims)
    await queue.submit(BIG, scope=ABE)
    assert await hand.lease() == []
    (info,) = queue.workers(scope=HOLDER)
    assert (info.owner, info.is_shared, info.isolates) == ("ann", True, False)


async def test_token_of_one_persons_jobs_needs_no_isolation(queue):
    answer = await queue.register_worker(WorkerInfo(id="p", kind="big"), scope=of_abe())
    assert answer.notice is None
    abes = await queue.submit(BIG, scope=ABE)
    await queue.submit(BIG, scope=ANN)
    assert [job.id for job in await ScopedHand(queue, "p", of_abe()).lease(limit=9)] == [abes]


async def test_worker_of_who_holds_the_data_directory_gets_their_own_jobs_alone(queue):
    """In its account lies the token that opens everything."""
    answer = await queue.register_worker(WorkerInfo(id="w"), scope=HOLDER)
    assert answer.notice is None
    anns, own = [await queue.submit(TRUE, scope=who) for who in (ANN, HOLDER)]
    assert [job.id for job in await ScopedHand(queue, "w", HOLDER).lease(limit=9)] == [own]
    reason = (await queue.get(anns, scope=ANN)).reason
    assert "in one account" in reason
    assert "--jobs-of ann" in reason


@pytest.mark.parametrize("told", [{"runs_others": True}, {"isolates": True}])
async def test_worker_of_who_holds_the_data_directory_gets_jobs_of_everybody_if_they_say_so(queue, told):
    answer = await queue.register_worker(WorkerInfo(id="w", **told), scope=HOLDER)
    assert answer.notice is None
    theirs = [await queue.submit(TRUE, scope=who) for who in (ANN, ABE, BOB, HOLDER)]
    assert {job.id for job in await ScopedHand(queue, "w", HOLDER).lease(limit=9)} == set(theirs)


@pytest.mark.parametrize("scope", [ANN, POOL])
async def test_nobody_else_can_say_that_their_worker_runs_jobs_of_others(queue, scope):
    hand = await ScopedHand(queue, "w", scope).register(kind="big", runs_others=True)
    await queue.submit(BIG, scope=ABE)
    assert await hand.lease(limit=9) == []
    assert [info.runs_others for info in queue.workers()] == [False]


async def test_worker_goes_on_with_a_job_of_another_once_it_runs_no_others_and_gets_no_more_of_them(queue):
    """As after an upgrade of a host whose worker ran the jobs of all, or without ZWORKER_RUNS_OTHERS."""
    hand = await ScopedHand(queue, "w", HOLDER).register(runs_others=True)
    held, waiting = [await queue.submit(TRUE, scope=ABE) for _ in range(2)]
    await hand.lease()
    answer = await queue.register_worker(WorkerInfo(id="w"), scope=HOLDER)
    assert [ref.job_id for ref in answer.attempts] == [held]
    hand.requests = 0
    assert [job.id for job in await hand.lease()] == [held]  # the same request again
    beat = HeartbeatRequest(attempts=[AttemptRef(held, 1)])
    assert [one.verdict for one in (await queue.heartbeat("w", beat, scope=HOLDER)).verdicts] == ["ok"]
    events = EventBatch([JobStarted(held, attempt=1, after=0, seq=1), JobCompleted(held, attempt=1, after=1, seq=2)])
    assert [one.status for one in (await queue.take_events("w", events, scope=HOLDER)).results] == ["ok"]
    assert (await queue.get(held)).state == "succeeded"
    assert await hand.lease() == []
    assert (await queue.get(waiting)).state == "pending"


async def test_pool_goes_on_with_what_it_holds_of_others_when_it_does_not_isolate(queue):
    """As after an upgrade: before, every pool's worker ran the jobs of all in its orgs."""
    await ScopedHand(queue, "p", POOL).register(kind="big")
    abes = await queue.submit(BIG, scope=ABE)
    await queue.acquire_lease("p", kinds=["big"])
    answer = await queue.register_worker(WorkerInfo(id="p", kind="big"), scope=POOL)
    assert [ref.job_id for ref in answer.attempts] == [abes]
    assert (await queue.get(abes)).state == "running"


async def test_what_a_pool_says_that_the_job_of_another_worker_left_is_not_granted_to_its_owner(queue):
    for name, scope in (("a", APART), ("p", POOL)):
        await ScopedHand(queue, name, scope).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    await queue.acquire_lease("a", kinds=["big"])
    await upload(queue, POOL)
    left = [JobArtifact("w.bin", SHA, len(DATA))]
    ended = EventBatch([JobCompleted(job_id, attempt=1, after=0, seq=1, artifacts=left)])
    assert (await queue.take_events("p", ended, scope=POOL)).results[0].status == "stale"
    assert not await queue.grants.has(SHA, ABE)


async def test_who_is_refused_by_a_pool_is_told_why_and_what_to_do(queue):
    answer = await queue.register_worker(WorkerInfo(id="p", kind="big"), scope=POOL)
    assert answer.notice is not None and "ann alone" in answer.notice and "--jobs-of NAME" in answer.notice
    anns, abes, bobs = [await queue.submit(BIG, scope=scope) for scope in (ANN, ABE, BOB)]
    reason = (await queue.get(abes, scope=ABE)).reason
    assert "in one account" in reason
    assert "`zbrain token create --kind worker --pool big --jobs-of abe`" in reason
    assert "ann" not in reason  # whose worker it is concerns nobody
    assert (await queue.get(anns)).reason == "Waiting for a free worker of kind big."
    assert (await queue.get(bobs)).reason == "Waiting for a worker of kind big; none is here."  # not of bob's org
    await ScopedHand(queue, "q", of_abe()).register(kind="big")
    assert (await queue.get(abes)).reason == "Waiting for a free worker of kind big."


async def test_worker_of_another_person_is_no_pool_that_refuses(queue):
    await ScopedHand(queue, "w", ANN).register()
    job_id = await queue.submit(TRUE, scope=ABE)
    assert (await queue.get(job_id)).reason == "Waiting for a worker of kind local; none is here."


async def test_who_asks_for_a_kind_that_is_not_here_is_told_those_that_they_may_know_of(queue):
    await ScopedHand(queue, "p", APART).register(kind="big")
    await ScopedHand(queue, "w", ANN).register(kind="desk")
    await ScopedHand(queue, "v", BOB).register(kind="else")
    job_id = await queue.submit(JobSpec(cmd=["true"], worker="bigg"), scope=ANN)
    none = "Waiting for a worker of kind bigg; none is here"
    assert (await queue.get(job_id, scope=ANN)).reason == f"{none}, only some of kind big, desk."
    assert (await queue.get(job_id, scope=ABE)).reason == f"{none}, only some of kind big."
    assert [job.reason for job in await queue.list(scope=ANN)] == [f"{none}."]  # many jobs are listed at once


async def test_worker_in_process_is_of_everybody(queue):
    hand = await Hand(queue).register()
    theirs = [await queue.submit(TRUE, scope=scope) for scope in (ANN, ABE)]
    assert {job.id for job in await hand.lease(limit=9)} == set(theirs)


async def test_pool_gets_no_job_of_who_may_not_submit_in_its_org_any_more(queue):
    members = {"ann"}

    async def may_run(job):
        return job.owner in members

    queue.may_run = may_run
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    abes, anns = await queue.submit(BIG, scope=ABE), await queue.submit(BIG, scope=ANN)
    assert [job.id for job in await hand.lease(limit=9)] == [anns]
    job = await queue.get(abes)
    assert (job.state, job.reason) == ("canceled", "abe may not have jobs run in the org red any more.")
    hand.requests = 0
    assert [job.id for job in await hand.lease(limit=9)] == [anns]  # the same request again
    members.clear()
    hand.requests = 0
    assert await hand.lease(limit=9) == []  # and once more, by when she is out too
    assert (await queue.get(anns)).state == "canceled"


async def silence(job):
    raise Unavailable("The Hub does not answer.")


async def test_job_is_given_back_unharmed_while_it_cannot_be_told_whether_it_may_run(queue):
    queue.may_run = silence
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    assert await hand.lease() == []
    job = await queue.get(job_id)
    assert (job.state, job.losses) == ("retrying", 0)
    assert "The Hub does not answer. It waits until that is known." in job.reason
    queue.may_run = anybody_may
    queue.clock.advance(ASK_AGAIN_SECS)
    queue.tick()
    assert [job.id for job in await hand.lease(wait_secs=30)] == [job_id]


async def test_owner_of_whom_nothing_can_be_told_gets_nothing_leased_however_long_that_lasts(queue):
    queue.may_run = silence
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    jobs = [await queue.submit(BIG, scope=ABE) for _ in range(3)]
    assert await hand.lease(limit=2) == []
    for _ in range(9):
        queue.clock.advance(ASK_AGAIN_SECS)
        queue.tick()
        assert await hand.lease(limit=2) == []
    assert [(job.attempt, job.losses) for job in [await queue.get(job) for job in jobs]] == [(1, 0), (1, 0), (0, 0)]
    assert "not known now whether abe" in (await queue.get(jobs[2])).reason
    waiting = asyncio.ensure_future(hand.lease(limit=2, wait_secs=30))
    await turns()
    assert not waiting.done()
    own = await ScopedHand(queue, "w", ABE).register(kind="big")
    assert [job.id for job in await own.lease()] == [jobs[0]]  # who runs them is in no doubt
    queue.may_run = anybody_may
    queue.clock.advance(ASK_AGAIN_SECS)
    other = await ScopedHand(queue, "q", APART).register(kind="big")
    assert await other.lease(limit=1) == []  # it has abe asked about
    assert len(await waiting) == 2


async def test_loss_for_want_of_an_answer_is_none_however_often_it_comes_to_that(queue):
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    for _ in range(MAX_RETURNS + 4):
        queue.may_run = silence
        assert await hand.lease() == []
        queue.may_run = anybody_may
        queue.clock.advance(60)
        queue.tick()
        assert await hand.lease(limit=0) == []
        await turns()
    assert [job.id for job in await hand.lease()] == [job_id]
    assert (await queue.get(job_id)).losses == 0


async def test_jobs_of_one_owner_are_asked_about_once_and_end_in_one_commit(queue):
    asked, answer = [], asyncio.Event()

    async def may_run(job):
        asked.append(job.owner)
        await answer.wait()
        return await silence(job)

    queue.may_run = may_run
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    jobs = [await queue.submit(BIG, scope=scope) for scope in (ABE, ABE, ANN)]
    leasing = asyncio.ensure_future(hand.lease(limit=9))
    while len(asked) < 2:
        await asyncio.sleep(0)
    queue.clock.advance(1_000)  # longer than a lease
    assert await queue.expire_leases() == 0
    answer.set()
    assert await leasing == []
    assert sorted(asked) == ["abe", "ann"]
    assert {(await queue.get(job)).losses for job in jobs} == {0}


async def test_lease_gets_its_full_term_when_the_owner_was_asked_about(queue):
    async def may_run(job):
        queue.clock.advance(LEASE_SECS - 1)
        return True

    queue.may_run = may_run
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    await queue.submit(BIG, scope=ABE)
    assert len(await hand.lease()) == 1
    queue.clock.advance(LEASE_SECS - 1)
    assert await queue.expire_leases() == 0


async def test_persons_own_worker_needs_no_further_word(queue):
    async def may_run(job):
        raise AssertionError("asked")

    queue.may_run = may_run
    hand = await ScopedHand(queue, "w", ANN).register()
    job_id = await queue.submit(TRUE, scope=ANN)
    assert [job.id for job in await hand.lease()] == [job_id]
