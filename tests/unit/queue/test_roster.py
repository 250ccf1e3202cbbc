"""What the queue says of its workers: how each is, and what that means for who waits."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import JobQueue, Storage
from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.errors import Forbidden, InvalidSpec, OverQuota, WorkerNotFound
from zbrain_nb.model.protocol import (
    MAX_LISTED_JOBS,
    Health,
    HeartbeatRequest,
    LeaseRequest,
    Registered,
    WorkerInfo,
    WorkerState,
)
from zbrain_nb.queue import roster
from zbrain_nb.queue.roster import LISTED_SECS
from zbrain_nb.store import queries

pytestmark = pytest.mark.anyio
ANN, ABE = (Principal(owner=name, roles={"red": Role.SUBMITTER}, home="red") for name in ("ann", "abe"))


def state(queue) -> str | None:
    (info,) = queue.workers() or [None]
    return info and str(info.state)


async def test_worker_that_falls_silent_is_stale_then_lost_and_live_when_it_is_heard(queue, clock):
    hand = await Hand(queue).register()
    assert state(queue) == "live"
    clock.advance(31)  # a lease lasts 60 s: a beat is due every 10 s
    assert state(queue) == "stale"
    clock.advance(30)
    assert state(queue) == "lost"
    await queue.heartbeat(hand.id, HeartbeatRequest())
    assert state(queue) == "live"


async def test_clock_that_is_set_makes_nobody_stale(queue, clock, monkeypatch):
    await Hand(queue).register()
    monkeypatch.setattr(clock, "time", lambda: 1e9)
    assert state(queue) == "live"


async def test_draining_worker_is_said_to_drain_and_serves_nobody_who_waits(queue):
    hand = await Hand(queue).register()
    job_id = await queue.submit(TRUE)
    assert "free worker" in (await queue.get(job_id)).reason
    await queue.heartbeat(hand.id, HeartbeatRequest(state=WorkerState.DRAINING))
    assert state(queue) == "draining"
    assert "none is here" in (await queue.get(job_id)).reason
    await queue.register_worker(WorkerInfo(id=hand.id, state=WorkerState.DRAINING))  # say, after the host restarted
    assert state(queue) == "draining"


async def test_worker_that_has_ended_is_listed_only_while_it_left_jobs(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await queue.heartbeat(hand.id, HeartbeatRequest(state=WorkerState.STOPPED))
    (info,) = queue.workers()
    assert (info.state, info.running, info.jobs) == (WorkerState.STOPPED, 1, [job.id])
    other = await Hand(queue, "other").register()
    await queue.heartbeat(other.id, HeartbeatRequest(state=WorkerState.STOPPED))
    assert [info.id for info in queue.workers()] == [hand.id]
    with pytest.raises(WorkerNotFound):
        await queue.heartbeat(other.id, HeartbeatRequest())


async def test_lost_worker_is_forgotten_after_a_day(queue, clock):
    await Hand(queue, "old").register()
    clock.advance(LISTED_SECS + 1)
    await Hand(queue, "new").register()
    assert [info.id for info in queue.workers()] == ["new"]


def known(queue):
    return [info.id for info in queue.workers()]


async def stored(queue):
    return [msgspec.json.decode(text)["id"] for text in await queue.storage.read(queries.workers)]


async def test_person_has_so_many_workers_and_no_more_until_one_is_lost(queue, clock, monkeypatch):
    monkeypatch.setattr(roster, "MAX_PERSONS_WORKERS", 2)
    for worker_id in ("busy", "first"):
        await queue.register_worker(WorkerInfo(id=worker_id), scope=ANN)
    await queue.submit(TRUE, scope=ANN)
    lease = LeaseRequest(request_id="r", wait_secs=0)
    assert len((await queue.lease("busy", lease, scope=ANN)).leases) == 1
    clock.advance(40)
    with pytest.raises(OverQuota) as refused:
        await queue.register_worker(WorkerInfo(id="more"), scope=ANN)
    assert refused.value.details == {"quota": "owner_workers", "limit": 2, "used": 2, "retry_after_secs": 60}
    await queue.register_worker(WorkerInfo(id="first"), scope=ANN)  # a new process of it
    await queue.register_worker(WorkerInfo(id="abes"), scope=ABE)
    clock.advance(61)
    await queue.register_worker(WorkerInfo(id="more"), scope=ANN)
    assert known(queue) == await stored(queue) == ["abes", "busy", "more"], "who was lost at work is known on"


async def test_workers_that_register_at_once_are_no_more_than_a_person_may_have(queue, monkeypatch):
    monkeypatch.setattr(roster, "MAX_PERSONS_WORKERS", 2)
    infos = [WorkerInfo(id=str(number)) for number in range(4)]
    done = await asyncio.gather(*(queue.register_worker(i, scope=ANN) for i in infos), return_exceptions=True)
    assert [type(one) for one in done] == [Registered, Registered, OverQuota, OverQuota]
    assert known(queue) == ["0", "1"]


async def test_workers_that_were_stopped_or_are_lost_long_ago_are_stored_no_more(queue, clock):
    hand = await Hand(queue, "stopped").register()
    await Hand(queue, "lost").register()
    await queue.heartbeat(hand.id, HeartbeatRequest(state=WorkerState.STOPPED))
    clock.advance(LISTED_SECS + 1)
    await Hand(queue, "new").register()
    await Hand(queue, "newer").register()
    assert await stored(queue) == ["new", "newer"]


async def test_workers_of_long_ago_are_forgotten_at_a_start_but_for_those_that_run_jobs(queue, clock, tmp_path):
    async with JobQueue(Storage(tmp_path / "jobs.db"), tmp_path / "kept", clock=clock) as before:
        await Hand(before, "idle").register()
        await (await Hand(before, "busy").register()).run()
        clock.advance(LISTED_SECS + 1)
        await before.register_worker(WorkerInfo(id="young"), scope=ANN)
    async with JobQueue(Storage(tmp_path / "jobs.db"), tmp_path / "kept", clock=clock) as after:
        assert await stored(after) == ["busy", "young"]
        with pytest.raises(Forbidden):
            await after.register_worker(WorkerInfo(id="young"), scope=ABE)


async def test_why_jobs_wait_takes_no_look_at_the_workers_of_others(queue, monkeypatch):
    for number in range(10):
        await queue.register_worker(WorkerInfo(id=f"of-abe-{number}"), scope=ABE)
        await queue.register_worker(WorkerInfo(id=f"of-ann-{number}", kind="other"), scope=ANN)
    await queue.submit_many([TRUE] * 10, scope=ANN)
    monkeypatch.setattr(roster.Roster, "_state", None)
    assert {job.reason for job in await queue.list(scope=ANN)} == {"Waiting for a worker of kind local; none is here."}


async def test_whether_jobs_are_over_is_told_without_why_they_wait(queue, monkeypatch):
    waiting, canceled = await queue.submit(TRUE), await queue.submit(TRUE)
    await queue.cancel_job(canceled)
    monkeypatch.setattr(queue._desk, "why_waiting", None)
    asked = (waiting, canceled, str(uuid.uuid4()))
    assert [await queue.is_over(job_id) for job_id in asked] == [False, True, True]


async def test_worker_with_many_jobs_names_the_first_and_counts_all(queue):
    hand = await Hand(queue).register()
    for _ in range(MAX_LISTED_JOBS + 2):
        await hand.run()
    (info,) = queue.workers()
    assert (info.running, len(info.jobs)) == (MAX_LISTED_JOBS + 2, MAX_LISTED_JOBS)


async def test_health_is_shown_as_the_worker_said_it_last(queue):
    hand = await Hand(queue).register()
    await queue.heartbeat(hand.id, HeartbeatRequest(health=Health(problem="Its disk is full.", load=1.5)))
    await queue.heartbeat(hand.id, HeartbeatRequest())
    assert queue.workers()[0].health == Health(problem="Its disk is full.", load=1.5)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (HeartbeatRequest(state=WorkerState.LOST), "state"),
        (HeartbeatRequest(health=Health(load=-1)), "health.load"),
        (HeartbeatRequest(health=Health(disk_free_bytes=-1)), "health.disk_free_bytes"),
        (HeartbeatRequest(health=Health(problem="x" * 10_000)), "health.problem"),
    ],
)
async def test_heartbeat_that_no_worker_could_mean_is_refused_with_its_field(queue, request_, field):
    hand = await Hand(queue).register()
    with pytest.raises(InvalidSpec) as refused:
        await queue.heartbeat(hand.id, request_)
    assert refused.value.details["field"] == field
