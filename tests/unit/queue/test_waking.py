"""Whom a commit wakes of those who wait for a job, and that one member cannot make that dear for all."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from zbrain_nb import JobSpec
from zbrain_nb.model.errors import InvalidSpec, OverQuota
from zbrain_nb.model.events import JobCompleted, JobLogged, LogStream
from zbrain_nb.model.protocol import LeaseRequest, check_lease_request
from zbrain_nb.model.quotas import Quota
from zbrain_nb.queue import commits, turn, workers, workerside
from zbrain_nb.queue.intake import Intake
from zbrain_nb.queue.ready import ReadyQueues

pytestmark = pytest.mark.anyio
LONG = 60.0


def needing(cpus: float, **fields: object) -> JobSpec:
    return JobSpec(cmd=["true"], resources={"cpus": cpus}, **fields)


async def park(queue, count: int, **fields: object) -> list[asyncio.Task[object]]:
    """Let workers of kind local wait, one request each."""
    hands = [await Hand(queue, f"w{n}").register() for n in range(count)]
    asking = [asyncio.create_task(hand.lease(wait_secs=LONG, **fields)) for hand in hands]
    await turns()
    return asking


async def end(asking: list[asyncio.Task[object]]) -> None:
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize(
    "fields", [{"kinds": [f"k{n}" for n in range(50)]}, {"resources": needing(1).resources}], ids=["kinds", "needs"]
)
async def test_commit_wakes_nobody_whom_it_does_not_concern(queue, monkeypatch, fields):
    await queue.submit_many([needing(2 + n) for n in range(30)])
    asking = await park(queue, 20, **fields)
    looks = 0

    def counted(real):
        def look(*args):
            nonlocal looks
            looks += 1
            return real(*args)

        return look

    for name in ("may_fit", "may_give"):
        monkeypatch.setattr(ReadyQueues, name, counted(getattr(ReadyQueues, name)))
    await queue.submit(JobSpec(cmd=["true"], worker="other"))
    await queue.submit(needing(2))  # as others that wait
    assert looks == 0
    await end(asking)


async def test_who_waited_longest_is_served_first(queue):
    asking = await park(queue, 3)
    for task in asking:
        await queue.submit(TRUE)
        assert len(await asyncio.wait_for(task, 10)) == 1


async def test_limit_that_is_raised_and_a_job_that_ends_let_a_waiting_request_go_on(queue):
    await queue.set_limits("default", Quota(running=1))
    first = await Hand(queue, "first").register()
    job = await first.run()
    await queue.submit_many([TRUE, TRUE])
    asking = await park(queue, 2)
    assert not any(task.done() for task in asking)
    await first.send(JobCompleted(job.id, attempt=1, seq=1))
    (one,) = await asyncio.wait_for(asking[0], 10)
    assert not asking[1].done()
    await queue.set_limits("default", Quota(running=2))
    (other,) = await asyncio.wait_for(asking[1], 10)
    assert one.id != other.id


async def test_worker_has_a_few_requests_that_wait_and_the_first_gives_way(queue):
    hand = await Hand(queue).register()
    asking = []
    for _ in range(5):
        asking.append(asyncio.create_task(hand.lease(wait_secs=LONG)))
        await turns()
    assert await asyncio.wait_for(asking[0], 10) == []
    assert not any(task.done() for task in asking[1:])
    await end(asking)


def test_request_that_names_too_many_kinds_is_refused():
    with pytest.raises(InvalidSpec, match="kinds has more than 50 entries"):
        check_lease_request(LeaseRequest(request_id="r", kinds=[f"k{n}" for n in range(51)]))


async def test_jobs_of_one_owner_differ_in_so_many_ways_at_most(queue, monkeypatch):
    monkeypatch.setattr(turn, "MAX_LANES_EACH", 3)
    first, *_ = [await queue.submit(needing(cpus)) for cpus in (1, 2, 3)]
    await queue.submit_many([needing(2)] * 9)
    for spec in (needing(4), needing(1, worker="other"), needing(1, concurrency_group="g")):
        with pytest.raises(OverQuota, match="differ in 3 ways") as refusal:
            await queue.submit_many([needing(1), spec])
        assert refusal.value.details["quota"] == "owner_lanes"
    assert queue.active_jobs() == 12
    await queue.submit(needing(4), owner="bob")
    await queue.cancel_job(first)
    await queue.submit(needing(4))


async def test_who_names_a_fraction_of_a_cpu_gets_no_more_turns(queue):
    await queue.submit_many([needing(0.001, org_id="red")] * 50)
    await queue.submit_many([needing(1, org_id="blue")] * 5)
    hand = await Hand(queue).register()
    orgs = [(await hand.lease())[0].org_id for _ in range(10)]
    assert orgs.count("blue") == 5


# What takes the loop long is done in parts


async def test_answer_brings_so_many_jobs_at_most_and_the_next_one_others(queue, monkeypatch):
    monkeypatch.setattr(workers, "LEASES_AT_ONCE", 3)
    ids = await queue.submit_many([TRUE] * 7)
    hand = await Hand(queue).register()
    leased = [[job.id for job in await hand.lease(limit=1_000_000, ahead=9)] for _ in range(3)]
    assert leased == [ids[:3], ids[3:6], ids[6:]]


@pytest.mark.parametrize("with_lease", [False, True])
async def test_others_have_their_turn_while_many_events_are_taken(queue, monkeypatch, with_lease):
    monkeypatch.setattr(workerside, "EVENTS_AT_ONCE", 4)
    take, parts = Intake.take, []

    def note(intake, turn, events, *rest):
        parts.append(len(events))
        return take(intake, turn, events, *rest)

    monkeypatch.setattr(Intake, "take", note)
    hand = await Hand(queue).register()
    one, other = await hand.run(), await hand.run()
    lines = [
        JobLogged(job.id, [(LogStream.STDOUT, 1.0, str(n))], attempt=1, after=n, seq=n + 1)
        for n in range(6)
        for job in (one, other)
    ]
    del lines[2]  # one of the first job's is missing
    if with_lease:
        results = (await queue.lease("w", LeaseRequest(request_id="many", events=lines))).results
    else:
        results = await hand.send(*lines)
    assert [(r.job_id, r.attempt, r.status, r.high) for r in results] == [
        (one.id, 1, "gap", 1),
        (other.id, 1, "ok", 6),
    ]
    assert parts == [4, 2, 2]  # of the first job nothing more is looked at
    assert [line.line for line in await queue.get_logs(other.id)] == list("012345")


async def test_commit_takes_so_many_changes_at_most(queue, monkeypatch):
    monkeypatch.setattr(commits, "ROW_CHARS", commits.COMMIT_CHARS // 4)
    append, sizes = queue.storage.append, []

    def note(changes, done):
        sizes.append(len(changes))
        append(changes, done)

    monkeypatch.setattr(queue.storage, "append", note)
    await asyncio.gather(*(queue.submit(TRUE) for _ in range(10)))
    assert sizes == [4, 4, 2]
