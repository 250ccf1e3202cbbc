"""The queue's numbers, and its log of transitions."""

from __future__ import annotations

import logging

import pytest

from tests.unit.queue.stage import TRUE, Hand
from tests.unit.queue.test_events_out import a_life
from zbrain_nb import JobSpec
from zbrain_nb.model.events import JobCompleted, JobFailed, JobLogged
from zbrain_nb.model.job import JobState
from zbrain_nb.model.logs import TRANSITIONS
from zbrain_nb.model.protocol import AttemptRef, HeartbeatRequest
from zbrain_nb.queue.metrics import Histogram

pytestmark = pytest.mark.anyio
SECRET = "the user's own words"


def test_histogram_counts_bounds_as_inside() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 99.0):
        histogram.add(value)
    assert histogram.cumulative() == [(1.0, 2), (2.0, 4), (float("inf"), 5)]
    assert (histogram.count, histogram.sum) == (5, 104.0)


async def test_states_waits_and_runs_are_counted(queue, clock):
    hand = await Hand(queue, "w").register(slots=4, free=3)
    parent = await queue.submit(TRUE)
    await queue.submit(JobSpec(cmd=["true"], after=[parent]))
    await queue.submit_many([TRUE] * 2)
    states = queue.measures().metrics.states
    assert (states[JobState.PENDING], queue.measures().blocked) == (4, 1)
    clock.advance(3)
    jobs = await hand.lease(limit=2)
    clock.advance(20)
    await hand.send(JobLogged(parent, attempt=1, lines=[("stdout", 1.0, "a")] * 7))
    await queue.cancel_job(jobs[1].id)
    now = queue.measures()
    assert (states[JobState.PENDING], states[JobState.RUNNING], now.canceling) == (2, 2, 1)
    waited = sum(clock.now - 20 - job.created_at.timestamp() for job in jobs)
    assert (now.metrics.wait_secs.count, now.metrics.wait_secs.sum) == (2, pytest.approx(waited))
    assert (now.metrics.log_lines, now.ring_jobs) == (7, 1)
    await hand.send(JobCompleted(parent, attempt=1))
    now = queue.measures()
    assert (now.metrics.run_secs.count, now.metrics.run_secs.sum) == (1, 20.0)
    assert (now.metrics.ended[JobState.SUCCEEDED], states[JobState.RUNNING], now.blocked) == (1, 1, 0)
    assert (now.workers, now.slots) == (1, 4)
    assert sum(states.values()) == queue.active_jobs()
    assert now.metrics.commit_commands.count == now.metrics.commit_secs.count == 7  # of the submits, three


async def test_states_are_those_of_the_store_after_a_restart(queue):
    hand = await Hand(queue).register()
    await a_life(queue, hand)
    await hand.run()
    await queue.submit(TRUE)
    await queue.close()
    queue._watch.metrics.states.clear()
    await queue.open()
    assert +queue.measures().metrics.states == {JobState.RUNNING: 1, JobState.PENDING: 1}


async def test_losses_retries_and_renewals_are_counted(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["false"], max_retries=5))
    await queue.heartbeat(hand.id, HeartbeatRequest([AttemptRef(job.id, 1)]))
    await hand.send(JobFailed(job.id, attempt=1, error="no"))
    clock.advance(10)
    queue.tick()
    for attempt in (2, 3, 4):
        assert [job.attempt for job in await hand.lease()] == [attempt]
        clock.advance(61)
        assert await queue.expire_leases() == 1
    now = queue.measures()
    assert (now.metrics.retries, now.metrics.losses, now.metrics.poisoned, now.lease_renewals) == (1, 3, 1, 1)
    assert now.metrics.wait_secs.count == 1  # later attempts wait for a back-off, not in line


async def test_failed_commits_are_counted(queue, monkeypatch):
    monkeypatch.setattr(queue.storage, "append", lambda changes, done: done(None, RuntimeError("no disk")))
    with pytest.raises(Exception, match="could not write"):
        await queue.submit(TRUE)
    metrics = queue.measures().metrics
    assert (metrics.commits_failed, metrics.states[JobState.PENDING]) == (1, 0)


async def test_transitions_are_logged_when_asked_for(queue, caplog):
    hand = await Hand(queue).register()
    with caplog.at_level(logging.DEBUG, TRANSITIONS):
        job_id = await a_life(queue, hand, JobSpec(cmd=["echo", SECRET], name=SECRET))
    told = [record for record in caplog.records if record.name == TRANSITIONS]
    assert [(record.kind, record.from_state, record.to_state) for record in told] == [
        ("job_submitted", None, "pending"),
        ("job_leased", "pending", "running"),
        ("job_started", "running", "running"),
        ("job_progressed", "running", "running"),
        ("job_completed", "running", "succeeded"),
    ]
    assert {(record.job_id, record.levelname) for record in told} == {(job_id, "DEBUG")}
    assert [record.attempt for record in told] == [0, 1, 1, 1, 1]
    assert SECRET not in str([vars(record) for record in told])


async def test_transitions_are_quiet_but_for_losses(queue, clock, caplog):
    hand = await Hand(queue).register()
    with caplog.at_level(logging.INFO, TRANSITIONS):
        await a_life(queue, hand)
        await hand.run(JobSpec(cmd=["true"], rerun_if_lost=True))
        for _ in range(2):
            clock.advance(61)
            await queue.expire_leases()
            await hand.lease()
        clock.advance(61)
        await queue.expire_leases()
    told = [record for record in caplog.records if record.name == TRANSITIONS]
    assert [record.levelname for record in told] == ["WARNING"] * 3
    assert [record.to_state for record in told] == ["retrying", "retrying", "failed"]
    assert "once too often" in told[-1].message
    assert "was not heard of" in told[0].reason


async def test_reason_in_the_log_is_one_short_line(queue, caplog):
    hand = await Hand(queue).register()
    job = await hand.run()
    with caplog.at_level(logging.DEBUG, TRANSITIONS):
        await hand.send(JobFailed(job.id, attempt=1, reason="a\nb " + "c" * 1000))
    (failed,) = [record for record in caplog.records if record.name == TRANSITIONS]
    assert failed.reason == "a b " + "c" * 296
