"""What stands above the table of jobs, and how one job was tried."""

from __future__ import annotations

import duckdb
import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.events import JobCompleted, JobFailed, JobLogged
from zbrain_nb.model.job import Job
from zbrain_nb.queue.clock import as_datetime
from zbrain_nb.queue.overview import MINUTES
from zbrain_nb.store import schema

pytestmark = pytest.mark.anyio
LAB = JobSpec(cmd=["true"], org_id="lab")


async def numbers(queue, **wanted):
    overview = await queue.overview(**wanted)
    return {str(state): count for state, count in overview.states.items() if count}


async def test_states_are_counted_exactly_before_and_after_folding(queue, clock):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([TRUE] * 6 + [LAB] * 2)
    for job in await hand.lease(limit=8):
        if job.id in ids[:2]:
            await hand.send(JobCompleted(job.id, attempt=1))
        elif job.id == ids[2]:
            await hand.send(JobFailed(job.id, attempt=1, error="no"))
    await queue.cancel_job((await queue.submit_many([TRUE]))[0])
    expected = {"succeeded": 2, "failed": 1, "running": 3, "canceled": 1}
    assert await numbers(queue) == expected
    assert (await queue.overview()).failed_last_day == 1
    await queue.fold()
    assert queue._index.unfolded == {}
    assert await numbers(queue) == expected
    assert await numbers(queue, org_id="lab") == {"running": 2}
    await hand.send(JobCompleted(ids[3], attempt=1))  # its row is out of date again
    assert await numbers(queue) == {"succeeded": 3, "failed": 1, "running": 2, "canceled": 1}
    overview = await queue.overview()
    assert (overview.org_id, overview.orgs, overview.failed_last_day) == ("default", ["default", "lab"], 1)


async def test_oldest_pending_is_found_wherever_it_is_kept(queue, clock):
    assert (await queue.overview()).oldest_pending_at is None
    hand = await Hand(queue).register()
    first = (await hand.run()).id
    clock.advance(60)
    waiting = await queue.get((await queue.submit_many([TRUE, TRUE]))[0])
    assert (await queue.overview()).oldest_pending_at == waiting.created_at
    await queue.fold()
    assert (await queue.overview()).oldest_pending_at == waiting.created_at
    await queue.cancel_job(waiting.id)
    assert (await queue.overview()).oldest_pending_at >= waiting.created_at
    assert (await queue.get(first)).state == "running"


async def test_minutes_show_ends_failures_and_waits_in_their_minute(queue, clock):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([TRUE] * 4)
    jobs = {job.id: job for job in await hand.lease(limit=4)}
    assert set(jobs) == set(ids)
    clock.advance(120)
    await hand.send(*(JobCompleted(job_id, attempt=1) for job_id in ids[:3]))
    await hand.send(JobFailed(ids[3], attempt=1, error="no"))
    await queue.fold()
    minutes = (await queue.overview()).minutes
    assert [len(values) for values in (minutes.ended, minutes.failed, minutes.wait_p50_secs)] == [MINUTES] * 3
    assert (minutes.ended[-1], minutes.failed[-1], sum(minutes.ended)) == (4, 1, 4)
    waits = [value for value in minutes.wait_p50_secs if value is not None]
    took = [(job.started_at - job.created_at).total_seconds() for job in jobs.values()]
    assert waits == [pytest.approx(sorted(took)[1], abs=1)]
    assert minutes.wait_p50_secs[-3] == waits[0]
    clock.advance(3600)
    assert sum((await queue.overview()).minutes.ended) == 0


async def test_minutes_show_how_many_waited_when_each_ended(queue, clock):
    def new(spec):
        return Job(spec, created_at=as_datetime(clock.time()))

    hand = await Hand(queue).register()
    await queue.submit_many(list(map(new, [TRUE] * 3 + [LAB])))
    clock.advance(60)
    (job,) = await hand.lease(limit=1)
    (canceled,) = await queue.submit_many([new(TRUE)])
    clock.advance(60)
    await queue.cancel_job(canceled)
    await hand.send(JobCompleted(job.id, attempt=1))
    await queue.fold()
    waiting = (await queue.overview()).minutes.waiting
    assert len(waiting) == MINUTES
    assert waiting[-4:] == [0, 3, 3, 2]
    clock.advance(3600 * 2)
    assert set((await queue.overview()).minutes.waiting) == {2}


async def test_attempts_tell_failures_losses_and_the_running_one(queue, clock):
    hand = await Hand(queue).register()
    spec = JobSpec(cmd=["true"], max_retries=3)
    job = await hand.run(spec)
    await hand.send(JobFailed(job.id, attempt=1, error="no", exit_code=3))
    clock.advance(60)
    queue.tick()
    assert len(await hand.lease()) == 1
    await hand.send(JobFailed(job.id, attempt=2, error="gone", lost=True, reason="Its worker vanished."))
    clock.advance(60)
    queue.tick()
    assert len(await hand.lease()) == 1
    await hand.send(JobLogged(job.id, attempt=3, lines=[("stdout", 1.0, "a")]))
    attempts = await queue.list_attempts(job.id)
    assert [(one.attempt, one.state, one.exit_code) for one in attempts] == [
        (1, "failed", 3),
        (2, "lost", None),
        (3, "running", None),
    ]
    assert {one.worker_id for one in attempts} == {"w"}
    assert "Its worker vanished." in (attempts[1].reason or "")
    assert attempts[0].finished_at is not None and attempts[2].finished_at is None
    await queue.cancel_job(job.id)
    assert await queue.list_attempts("no id") == []


async def test_each_attempt_keeps_what_it_used_and_the_job_tells_that_of_the_last(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=1))

    async def used():
        now = await queue.get(job.id)
        return now.state, now.peak_memory_mb, now.cpu_secs

    await hand.send(JobFailed(job.id, attempt=1, peak_memory_mb=100.5, cpu_secs=0.25))
    assert await used() == ("retrying", 100.5, 0.25)
    clock.advance(60)
    queue.tick()
    assert len(await hand.lease()) == 1
    assert await used() == ("running", None, None)
    stopped = {"lost": True, "reason": "Its worker was told to stop."}
    await hand.send(JobFailed(job.id, attempt=2, peak_memory_mb=50, **stopped))
    clock.advance(60)
    queue.tick()
    assert len(await hand.lease()) == 1
    await hand.send(JobCompleted(job.id, attempt=3, cpu_secs=7.0))
    assert await used() == ("succeeded", None, 7.0)
    attempts = [(one.peak_memory_mb, one.cpu_secs) for one in await queue.list_attempts(job.id)]
    assert attempts == [(100.5, 0.25), (50, None), (None, 7.0)]


async def test_job_of_the_version_before_is_read_and_one_of_this_is_not_by_that(tmp_path, clock, monkeypatch):
    async with JobQueue(Storage(tmp_path), tmp_path / "artifacts", clock=clock) as queue:
        hand = await Hand(queue).register()
        old, new = await hand.run(), await hand.run()
        await hand.send(JobCompleted(old.id, attempt=1))
    with duckdb.connect(str(queue.storage.path)) as connection:
        connection.execute("UPDATE meta SET value = '7' WHERE key = 'schema_version'")
    async with JobQueue(Storage(tmp_path), tmp_path / "artifacts", clock=clock) as queue:
        await (await Hand(queue).register()).send(JobCompleted(new.id, attempt=1, peak_memory_mb=8.0, cpu_secs=2.5))
        for job, used in ((old, (None, None)), (new, (8.0, 2.5))):
            (attempt,) = await queue.list_attempts(job.id)
            assert (attempt.peak_memory_mb, attempt.cpu_secs) == used
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 7)
    with pytest.raises(ZBrainError, match="newer zbrain_nb"):
        await JobQueue(Storage(tmp_path), tmp_path / "artifacts", clock=clock).open()


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True])
@pytest.mark.parametrize("name", ["peak_memory_mb", "cpu_secs"])
async def test_use_that_nobody_could_have_is_refused(queue, name, value):
    hand = await Hand(queue).register()
    job = await hand.run()
    (result,) = await hand.send(JobCompleted(job.id, attempt=1, after=0, seq=1, **{name: value}))
    assert result.status == "invalid"
    assert name in result.message


async def test_canceled_before_it_ran_has_no_attempts(queue):
    job_id = await queue.submit(TRUE)
    await queue.cancel_job(job_id)
    assert await queue.list_attempts(job_id) == []


async def test_last_attempt_is_told_by_the_job_when_its_events_are_gone(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(JobCompleted(job.id, attempt=1, exit_code=0, peak_memory_mb=9.5, cpu_secs=2))
    await queue.fold()
    await queue.storage.write(lambda database: database._connection.execute("DELETE FROM transitions_1"))
    (last,) = await queue.list_attempts(job.id)
    assert (last.attempt, last.state, last.worker_id, last.exit_code) == (1, "succeeded", "w", 0)
    assert (last.peak_memory_mb, last.cpu_secs) == (9.5, 2)


async def test_chain_of_retries_is_found_from_every_member(queue):
    ids = [await queue.submit(TRUE)]
    for _ in range(3):
        await queue.cancel_job(ids[-1])
        ids.append((await queue.retry_job(ids[-1])).id)
    await queue.cancel_job(ids[0])
    ids.append((await queue.retry_job(ids[0])).id)  # a second branch
    for job_id in ids[:4]:
        chain = [job.id for job in await queue.retry_chain(await queue.get(job_id))]
        expected = ids if job_id == ids[0] else [each for each in ids if each != ids[4]]
        assert chain == expected


async def test_usage_adds_up_blobs_and_is_measured_once_in_a_while(queue):
    before = await queue.artifact_usage()
    assert (before.blobs, before.size_bytes) == (0, 0)
    queue.artifacts.put_bytes(b"x" * 1000)
    assert await queue.artifact_usage() == before
    queue._usage_until = 0.0
    usage = await queue.artifact_usage()
    assert (usage.blobs, usage.size_bytes) == (1, 1000)
    assert usage.free_bytes > 0
