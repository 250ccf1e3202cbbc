"""What the queue says of its workers: how each is, and what that means for who waits."""

from __future__ import annotations

import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb.model.errors import InvalidSpec, WorkerNotFound
from zbrain_nb.model.protocol import MAX_LISTED_JOBS, Health, HeartbeatRequest, WorkerInfo, WorkerState
from zbrain_nb.queue.roster import LISTED_SECS

pytestmark = pytest.mark.anyio


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
