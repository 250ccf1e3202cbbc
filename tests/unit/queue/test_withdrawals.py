"""What becomes of jobs while their owners are asked about, and of owners of whom nothing can be told."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, turns
from tests.unit.queue.test_pools import APART, BIG
from tests.unit.queue.test_scopes import ABE, ANN, HOLDER, ScopedHand, pool
from zbrain_nb import Job, JobQueue, JobSpec, Storage
from zbrain_nb.model import datadir
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.model.protocol import AttemptRef, HeartbeatRequest, LeaseRequest, WorkerInfo
from zbrain_nb.queue.withdrawals import ASK_AGAIN_SECS, ASKED_AT_ONCE

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


class Deaf:
    """A Hub that tells nothing of some, and notes of whom it is asked."""

    def __init__(self, queue, *unknown):
        self.unknown = set(unknown)
        self.asked = []
        queue.may_run = self.may_run

    async def may_run(self, job):
        self.asked.append(job.owner)
        if job.owner in self.unknown:
            raise Unavailable("The Hub does not answer.")
        return True


async def doubt(queue, owners):
    """Submit a job of each owner, and have a worker ask about them in vain; return the Hub, the worker and the jobs."""
    hub = Deaf(queue, *owners)
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    jobs = await queue.submit_many([Job(BIG, owner=owner, org_id="red") for owner in owners])
    assert await hand.lease(limit=len(owners)) == []
    hub.asked.clear()
    return hub, hand, jobs


async def test_owners_who_stay_in_doubt_keep_nobody_else_from_being_asked_about(queue):
    owners = [f"bad{number}" for number in range(2 * ASKED_AT_ONCE)]
    hub, hand, jobs = await doubt(queue, [*owners, "good"])
    hub.unknown.discard("good")
    for _ in range(3):
        queue.clock.advance(ASK_AGAIN_SECS)
        queue.tick()
        await hand.lease(limit=0)
        await turns()
    leased = await hand.lease(limit=9)
    assert [job.id for job in leased] == jobs[-1:]
    assert hub.asked[: len(owners) + 1] == [*owners, "good"], "who was asked about longest ago comes first"


async def test_once_the_hub_answers_one_request_asks_about_all_owners_in_doubt(queue):
    owners = [f"owner{number}" for number in range(3 * ASKED_AT_ONCE + 1)]
    hub, hand, jobs = await doubt(queue, owners)
    hub.unknown.clear()
    queue.clock.advance(ASK_AGAIN_SECS)
    queue.tick()
    other = await ScopedHand(queue, "q", pool("else", "red", isolates=True)).register(kind="else")
    assert await other.lease() == []  # a worker of any pool asks
    await turns()
    assert hub.asked == owners
    assert {job.id for job in await hand.lease(limit=len(owners))} == set(jobs)


async def test_nobody_asks_on_while_the_hub_tells_nothing(queue):
    owners = [f"owner{number}" for number in range(3 * ASKED_AT_ONCE)]
    hub, hand, _ = await doubt(queue, owners)
    queue.clock.advance(ASK_AGAIN_SECS)
    await hand.lease()
    await turns()
    assert hub.asked == owners[:ASKED_AT_ONCE]


async def test_request_is_held_up_by_no_question_about_an_owner_in_doubt(queue):
    _, hand, _ = await doubt(queue, ["abe"])
    spoken_of = await queue.submit(BIG, scope=ANN)
    (job,) = await hand.lease()
    slow = Hub(queue)
    queue.clock.advance(ASK_AGAIN_SECS)
    ending = JobCompleted(job.id, attempt=1, after=0, seq=1)
    request = LeaseRequest(request_id="with news", limit=1, events=[ending])
    async with asyncio.timeout(10):
        answer = await queue.lease("p", request, scope=APART)
    assert [result.status for result in answer.results] == ["ok"]
    assert (await queue.get(spoken_of)).state == "succeeded"
    await slow.was_asked(1)


async def test_jobs_go_to_who_waits_as_soon_as_something_is_told_of_their_owners(queue):
    """And not when all are asked about: the second round is not answered here."""
    owners = [f"owner{number}" for number in range(ASKED_AT_ONCE + 1)]
    _, hand, jobs = await doubt(queue, owners)
    later = asyncio.Event()

    async def may_run(job):
        if job.owner == owners[-1]:
            await later.wait()
        return True

    queue.may_run = may_run
    queue.clock.advance(ASK_AGAIN_SECS)
    queue.tick()
    async with asyncio.timeout(10):
        assert [job.id for job in await hand.lease(wait_secs=30, limit=len(jobs))] == jobs[:-1]
        last = asyncio.ensure_future(hand.lease(wait_secs=30))
        await turns()
        assert not last.done()
        later.set()
        assert [job.id for job in await last] == jobs[-1:]


async def test_nothing_asks_about_owners_once_the_queue_is_closed(queue):
    _, hand, _ = await doubt(queue, ["abe"])
    hub = Hub(queue)
    queue.clock.advance(ASK_AGAIN_SECS)
    before = asyncio.all_tasks()
    assert await hand.lease() == []
    await hub.was_asked(1)
    assert asyncio.all_tasks() > before
    await queue.close()
    assert asyncio.all_tasks() <= before


async def test_request_that_comes_to_its_turn_when_the_queue_is_closed_waits_for_nothing(queue):
    await doubt(queue, ["abe"])
    desk = queue._desk
    queue.clock.advance(ASK_AGAIN_SECS)
    before = asyncio.all_tasks()
    await queue.close()
    request = LeaseRequest(request_id="late", limit=1, wait_secs=30)
    async with asyncio.timeout(10):
        assert (await desk.lease("p", request, APART)).leases == []
    assert asyncio.all_tasks() <= before


# Tokens that end


def with_token(scope, token_id):
    return msgspec.structs.replace(scope, token_id=token_id)


def end_token(queue, token_id):
    queue.is_out = lambda principal: principal.origin == token_id
    queue.expel(queue.is_out)


async def state_of(queue, job_id):
    await queue.submit(TRUE)  # what was to be decided before is by then
    job = await queue.get(job_id)
    return job.state, job.losses, job.reason


@pytest.mark.parametrize(("scope", "spec"), [(APART, BIG), (ANN, TRUE)])
async def test_attempts_of_a_worker_are_worth_nothing_once_its_token_ended(queue, scope, spec):
    old, other = [
        await ScopedHand(queue, name, with_token(scope, name)).register(kind=spec.kind) for name in ("old", "other")
    ]
    jobs = [await queue.submit(spec, scope=ANN) for _ in range(3)]
    assert len(await old.lease(limit=2)) == 2
    assert len(await other.lease()) == 1
    end_token(queue, "old")
    for job_id in jobs[:2]:
        assert (await state_of(queue, job_id))[0] == "running", "its worker does not hear of it"
        assert queue.running_attempt(job_id, 1) is None  # so its token opens nothing
        assert not queue.is_leased_to(scope, await queue.get(job_id), 1)
        (result,) = await old.send(JobCompleted(job_id, attempt=1, after=0, seq=1))
        assert result.status == "stale"
        (line,) = await queue.get_logs(job_id)
        assert line.line == "The token of its worker old has ended. Of what it runs yet nothing more is taken."
    assert queue.running_attempt(jobs[2], 1) is not None
    queue.clock.advance(60)
    await queue.cancel_job(jobs[1])
    assert await queue.expire_leases() == 3
    assert await state_of(queue, jobs[0]) == (
        "failed",
        1,
        "The token of its worker old has ended. It was not run again, for it may have had effects already.",
    )
    assert await state_of(queue, jobs[1]) == (
        "canceled",
        1,
        "The token of its worker old has ended. A cancel had been requested.",
    )
    assert "was not heard of" in (await state_of(queue, jobs[2]))[2]


async def test_job_that_a_worker_may_still_run_though_its_token_ended_counts_as_running(queue):
    """The worker is told nothing any more, and ends what it runs with its lease: till then nothing stands beside it."""
    spec = msgspec.structs.replace(BIG, rerun_if_lost=True, concurrency_group="gpu")
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    other = await ScopedHand(queue, "q", APART).register(kind="big")
    first, second = [await queue.submit(spec, scope=ABE) for _ in range(2)]
    await hand.lease()
    queue.clock.advance(20)
    end_token(queue, "t")
    await state_of(queue, first)
    queue.clock.advance(39)
    assert await queue.expire_leases() == 0
    assert await other.lease(limit=2) == []
    queue.clock.advance(1)
    assert await queue.expire_leases() == 1
    assert [(job.id, job.attempt) for job in await other.lease(limit=2)] == [(first, 2)]
    assert (await queue.get(second)).state == "pending"


async def test_job_that_goes_on_here_though_the_token_of_its_worker_ended_is_not_run_beside_itself(queue, tmp_path):
    """A worker on the host's machine is ended by no clock: it believes that the host will know it again."""
    scope = with_token(HOLDER, "t")
    await ScopedHand(queue, "p", scope).register(folder=str(tmp_path), boot_id=datadir.boot_id())
    other = await ScopedHand(queue, "q", HOLDER).register()
    job_id = await queue.submit(JobSpec(cmd=["true"], rerun_if_lost=True), scope=HOLDER)
    assert await ScopedHand(queue, "p", scope).lease() != []
    spool = datadir.spool_path(tmp_path, job_id, 1)
    spool.parent.mkdir()
    lock = datadir.FileLock(spool)
    assert lock.acquire()
    end_token(queue, "t")
    for _ in range(3):
        queue.clock.advance(61)
        assert await queue.expire_leases() == 0
        assert await other.lease() == []
    lock.release()
    assert await queue.expire_leases() == 1
    assert [(job.id, job.attempt) for job in await other.lease()] == [(job_id, 2)]


async def test_job_that_goes_on_here_though_the_token_of_its_worker_ended_can_be_canceled(queue, tmp_path):
    """Its process may never end, and nothing of it is taken: it keeps no place for ever that somebody wants freed."""
    scope = with_token(HOLDER, "t")
    await ScopedHand(queue, "p", scope).register(folder=str(tmp_path), boot_id=datadir.boot_id())
    job_id = await queue.submit(JobSpec(cmd=["true"], rerun_if_lost=True), scope=HOLDER)
    assert await ScopedHand(queue, "p", scope).lease() != []
    spool = datadir.spool_path(tmp_path, job_id, 1)
    spool.parent.mkdir()
    lock = datadir.FileLock(spool)
    assert lock.acquire()
    end_token(queue, "t")
    queue.clock.advance(61)
    assert await queue.expire_leases() == 0
    why = "The token of its worker p has ended. It counts as running while its process may go on, or until canceled."
    assert await state_of(queue, job_id) == ("running", 0, why)
    await queue.cancel_job(job_id)
    queue.clock.advance(61)
    assert await queue.expire_leases() == 1
    why = "The token of its worker p has ended. A cancel had been requested."
    assert await state_of(queue, job_id) == ("canceled", 1, why)
    lock.release()


async def test_job_that_is_being_given_back_as_a_token_ended_goes_to_no_repeat_with_another_token(queue):
    """Else it ran there, and at whom it goes to next."""
    hand = await ScopedHand(queue, "p", with_token(APART, "old")).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    asking = asyncio.ensure_future(hand.lease())
    while not queue._commits._under_way:
        await asyncio.sleep(0)
    asking.cancel()  # its connection broke
    await asyncio.gather(asking, return_exceptions=True)
    assert (await state_of(queue, job_id))[0] == "running"
    free = threading.Event()
    writing = asyncio.ensure_future(queue.storage.write(lambda _: free.wait()))
    await turns()
    end_token(queue, "old")
    await turns()
    hand.scope, hand.requests = with_token(APART, "new"), 0
    repeat = await hand.lease()
    free.set()
    await writing
    assert repeat == []
    assert (await state_of(queue, job_id))[:2] == ("retrying", 0)
    queue.tick()
    assert [(job.id, job.attempt) for job in await hand.lease()] == [(job_id, 2)]


async def test_worker_that_comes_back_with_another_token_is_told_to_end_what_it_had_with_the_old_one(queue):
    hand = await ScopedHand(queue, "p", with_token(APART, "old")).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    await hand.lease()
    end_token(queue, "old")
    await state_of(queue, job_id)
    queue.clock.advance(30)
    new = with_token(APART, "new")
    assert (await queue.register_worker(WorkerInfo(id="p", kind="big"), scope=new)).attempts == []
    assert await ScopedHand(queue, "p", new).lease() == [], "the same request again"
    heard = await queue.heartbeat("p", HeartbeatRequest(attempts=[AttemptRef(job_id, 1)]), scope=new)
    assert [verdict.verdict for verdict in heard.verdicts] == ["stale"]
    queue.clock.advance(30)
    assert await queue.expire_leases() == 1, "nothing of that has renewed its lease"


async def test_attempts_stay_worth_nothing_when_the_host_is_started_again_after_their_token_ended(queue):
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    jobs = [await queue.submit(BIG, scope=ABE) for _ in range(2)]
    await hand.lease()
    end_token(queue, "t")
    await state_of(queue, jobs[0])
    await queue.close()
    await queue.open()
    await ScopedHand(queue, "p", APART).register(kind="big")
    await ScopedHand(queue, "p", APART).lease()
    await queue.close()
    await queue.open()
    await ScopedHand(queue, "p", APART).register(kind="big")
    assert [queue.running_attempt(job_id, 1) is None for job_id in jobs] == [True, False]
    end_token(queue, "")
    assert (await state_of(queue, jobs[1]))[0] == "running", "it was handed to its worker"
    await queue.close()
    await queue.open()
    assert [queue.running_attempt(job_id, 1) is None for job_id in jobs] == [True, True]


async def test_attempts_end_with_their_leases_if_the_host_was_started_again_before_their_token_ended(tmp_path, clock):
    """Nobody knows by then with which token their worker was last heard, but it cannot renew them."""
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada", lease_ttl_secs=60) as queue:
        hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
        job_id = await queue.submit(BIG, scope=ABE)
        await hand.lease()
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada", lease_ttl_secs=60) as queue:
        end_token(queue, "t")
        assert (await state_of(queue, job_id))[0] == "running"
        clock.advance(60)
        assert await queue.expire_leases() == 1
        assert (await state_of(queue, job_id))[0] == "failed"


@pytest.mark.parametrize("registers", [True, False])
async def test_worker_whose_token_was_replaced_goes_on_when_the_old_one_ends(queue, registers):
    hand = await ScopedHand(queue, "p", with_token(APART, "old")).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    await hand.lease()
    new = with_token(APART, "new")
    if registers:
        await ScopedHand(queue, "p", new).register(kind="big")
    else:
        await queue.heartbeat("p", HeartbeatRequest(attempts=[AttemptRef(job_id, 1)]), scope=new)
    end_token(queue, "old")
    await state_of(queue, job_id)
    assert queue.running_attempt(job_id, 1) is not None
    end_token(queue, "new")
    await state_of(queue, job_id)
    assert queue.running_attempt(job_id, 1) is None


async def test_job_whose_owner_is_asked_about_is_not_handed_out_once_the_token_ended(queue):
    hub = Hub(queue)
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    leasing = asyncio.ensure_future(hand.lease())
    await hub.was_asked(1)
    end_token(queue, "t")
    assert (await state_of(queue, job_id))[:2] == ("retrying", 0), "nobody had it: that is no loss"
    hub.answer.set()
    assert await leasing == []


async def test_job_whose_owner_is_asked_about_is_given_back_though_nobody_has_noticed_yet_that_the_token_expired(queue):
    hub = Hub(queue)
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    leasing = asyncio.ensure_future(hand.lease())
    await hub.was_asked(1)
    queue.is_out = lambda principal: True
    hub.answer.set()
    assert await leasing == []
    assert (await state_of(queue, job_id))[:2] == ("retrying", 0)


async def test_request_gets_nothing_whose_token_ends_while_its_events_are_taken(queue, monkeypatch):
    taking, goes_on = asyncio.Event(), asyncio.Event()
    borrow = queue._borrow

    async def slow(ids):
        taking.set()
        await goes_on.wait()
        return await borrow(ids)

    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    monkeypatch.setattr(queue, "_borrow", slow)
    ending = JobCompleted(job_id, attempt=1, after=0, seq=1)
    leasing = asyncio.ensure_future(hand.lease(events=[ending]))
    await taking.wait()
    end_token(queue, "t")
    goes_on.set()
    assert await leasing == []
    job = await queue.get(job_id)
    assert (job.state, job.attempt) == ("pending", 0)


async def test_request_that_comes_in_when_its_token_has_ended_does_not_wait(queue):
    """Its principal was found, and then the token ended, before the queue saw the request."""
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    end_token(queue, "t")
    async with asyncio.timeout(10):
        assert await hand.lease(limit=0, wait_secs=30) == []


async def test_request_that_waits_gets_nothing_though_nobody_has_noticed_yet_that_its_token_expired(queue):
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    leasing = asyncio.ensure_future(hand.lease(wait_secs=30))
    await turns()
    queue.is_out = lambda principal: principal.origin == "t"
    job_id = await queue.submit(BIG, scope=ABE)
    async with asyncio.timeout(10):
        assert await leasing == []
    assert (await queue.get(job_id)).attempt == 0


@pytest.mark.parametrize("is_heard_with", ["t", "another"])
async def test_job_is_given_back_whose_lease_was_decided_when_the_token_ended(queue, monkeypatch, is_heard_with):
    """A worker that was heard with another token since goes on, but the answer to its old one brings it nothing."""
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    job_id = await queue.submit(BIG, scope=ABE)
    start = queue._desk.start

    def start_last(*args):
        queue._desk.record("p", with_token(APART, is_heard_with))
        end_token(queue, "t")
        return start(*args)

    monkeypatch.setattr(queue._desk, "start", start_last)
    assert await hand.lease() == []
    assert (await state_of(queue, job_id))[:2] == ("retrying", 0), "nobody had it: that is no loss"


async def test_job_that_no_answer_brought_before_the_token_ended_is_given_back(queue):
    """The worker was gone when it was leased; a repeat of the request would have got it."""
    hand = await ScopedHand(queue, "p", with_token(APART, "t")).register(kind="big")
    leasing = asyncio.ensure_future(hand.lease(wait_secs=30))
    await turns()
    job_id = await queue.submit(JobSpec(code="1", worker="big"), scope=ABE)
    leasing.cancel()  # while the lease is being written
    assert (await state_of(queue, job_id))[0] == "running"
    end_token(queue, "t")
    assert (await state_of(queue, job_id))[:2] == ("retrying", 0)


async def test_job_that_was_acquired_in_process_counts_as_handed_to_its_worker(queue):
    job_id = await queue.submit(TRUE)
    await queue.acquire_lease("w")
    await queue.heartbeat("w", HeartbeatRequest(attempts=[]), scope=with_token(HOLDER, "t"))
    end_token(queue, "t")
    assert (await state_of(queue, job_id))[0] == "running"


@pytest.mark.parametrize("answers", [1, 2])
async def test_lease_that_an_answer_does_not_bring_after_all_is_given_back_unless_another_has(queue, answers):
    hand = await ScopedHand(queue, "p", APART).register(kind="big")
    job_id = await queue.submit(JobSpec(code="1", worker="big"), scope=ABE)
    request = LeaseRequest(request_id="r", limit=1)
    for _ in range(answers):
        answer = await queue.lease(hand.id, request, scope=APART)
    queue.take_back(answer.leases)
    assert (await queue.lease(hand.id, request, scope=APART)).leases == answer.leases[: answers - 1]
    assert (await state_of(queue, job_id))[:2] == (("retrying", 0) if answers == 1 else ("running", 0))
