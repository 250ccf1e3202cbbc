"""What attempts leave is bounded, whoever reports it; what stays of one that is tried again takes little."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import JobArtifact, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model import leavings
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed
from zbrain_nb.model.job import Variable
from zbrain_nb.queue import intake

pytestmark = pytest.mark.anyio

LONG = {"ename": "E", "evalue": "x" * 3_000_000, "traceback": ["first", *["y" * 80] * 10_000, "last"], "pickled": "p"}


@pytest.fixture
async def queue(tmp_path, clock):
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada") as opened:
        yield opened


async def system_lines(queue, job_id):
    return [line.line for line in await queue.get_logs(job_id) if line.stream == "system"]


async def lists(queue, number):
    sha256, size = queue.artifacts.put_bytes(b"kept")
    return {
        "artifacts": [JobArtifact(f"a{n}", sha256, size) for n in range(number)],
        "variables": [Variable(f"v{n}", "int", "1", sha256, size) for n in range(number)],
    }


async def test_little_stays_of_a_long_failure_while_the_job_is_tried_again(queue, clock):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=1))
    left = await lists(queue, 2_000)
    (result,) = await hand.send(JobFailed(job.id, attempt=1, error=LONG, reason="r" * 100_000, **left))
    retrying = await queue.get(job.id)
    assert (result.status, retrying.state) == ("ok", JobState.RETRYING)
    assert (retrying.error["ename"], retrying.error["traceback"][-1]) == ("E", "last")
    assert (retrying.artifacts, retrying.variables) == ([], [])
    assert len(msgspec.json.encode(retrying)) < 10_000
    assert await system_lines(queue, job.id) == [
        "As the job is tried again, only the start of the message and the end of the traceback were kept, "
        "and nothing of its files and variables was kept: their list is over 256 KiB."
    ]
    clock.advance(10)
    queue.tick()
    assert [one.id for one in await hand.lease()] == [job.id]
    await hand.send(JobFailed(job.id, attempt=2, error={"ename": "E", "traceback": ["x" * 50_000]}, **left))
    failed = await queue.get(job.id)
    assert (failed.state, failed.error["traceback"]) == (JobState.FAILED, ["x" * 50_000])
    assert (len(failed.artifacts), len(failed.variables)) == (2_000, 2_000)


async def test_what_a_failure_left_stays_with_a_job_that_is_tried_again_if_it_is_short(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=1))
    error = {"ename": "E", "evalue": "no", "traceback": ["one", "two"]}
    await hand.send(JobFailed(job.id, attempt=1, error=error, **await lists(queue, 20)))
    retrying = await queue.get(job.id)
    assert (retrying.state, retrying.error) == (JobState.RETRYING, error)
    assert (len(retrying.artifacts), len(retrying.variables)) == (20, 20)
    assert await system_lines(queue, job.id) == []


@pytest.mark.parametrize("reopened", [False, True])
async def test_what_stays_of_a_failure_counts_until_the_job_has_ended(queue, clock, reopened):
    """Who cancels a job that is tried again wants what it left; while that is in memory it counts as such."""
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=3))
    left = await lists(queue, 200)
    size = len(msgspec.json.encode([left["artifacts"], left["variables"]]))
    for attempt in (1, 2):
        await hand.send(JobFailed(job.id, attempt=attempt, **left))
        if reopened:
            await queue.close()
            await queue.open()
            await hand.register()
        counted = queue._index.ready.owners["ada"].begun
        assert size < counted < 12 * size
        clock.advance(100)
        queue.tick()
        assert [one.id for one in await hand.lease()] == [job.id]
        assert counted - 1_000 < queue._index.ready.owners["ada"].begun <= counted  # without what was said of it
    await hand.send(JobFailed(job.id, attempt=3))
    assert queue._index.ready.owners["ada"].begun == 0
    clock.advance(100)
    queue.tick()
    assert [one.id for one in await hand.lease()] == [job.id]
    await hand.send(JobFailed(job.id, attempt=4, **left))
    assert queue._index.ready.owners == {}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("field", ["reason", "error"])
async def test_what_is_said_of_a_failure_counts_until_the_job_runs_again(queue, clock, field, reopened):
    """It is little of each, but any number of jobs may be tried again at once."""
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=3))
    await hand.send(JobFailed(job.id, attempt=1, **{field: "é" * 1_000}))
    if reopened:
        await queue.close()
        await queue.open()
        await hand.register()
    assert 1_000 < queue._index.ready.owners["ada"].begun < 20_000
    clock.advance(100)
    queue.tick()
    assert [one.id for one in await hand.lease()] == [job.id]
    assert queue._index.ready.owners["ada"].begun == 0
    await hand.send(JobFailed(job.id, attempt=2, **{field: "é" * 1_000}))
    await queue.cancel_job(job.id)
    assert queue._index.ready.owners == {}


async def test_job_that_is_canceled_before_it_is_tried_again_shows_what_its_last_attempt_left(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=1))
    await hand.send(JobFailed(job.id, attempt=1, **await lists(queue, 200)))
    await queue.cancel_job(job.id)
    canceled = await queue.get(job.id)
    assert (canceled.state, len(canceled.artifacts), len(canceled.variables)) == (JobState.CANCELED, 200, 200)


async def test_little_stays_of_the_reason_of_a_loss(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=1))
    await hand.send(JobFailed(job.id, attempt=1, lost=True, reason="r" * 5_000))
    lost = await queue.get(job.id)
    assert (lost.state, len(lost.reason) < 2_000) == (JobState.RETRYING, True)


async def test_error_that_is_too_much_is_shortened_and_the_job_fails(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    (result,) = await hand.send(JobFailed(job.id, attempt=1, error=LONG, reason="r" * 100_000))
    failed = await queue.get(job.id)
    assert (result.status, failed.state, len(failed.reason)) == ("ok", JobState.FAILED, leavings.MAX_REASON)
    assert failed.error == leavings.shortened(LONG, leavings.LONG_ERROR)
    assert len(msgspec.json.encode(failed.error)) < 250_000


@pytest.mark.parametrize("kind", [JobCompleted, JobFailed, JobCanceled])
async def test_lists_that_are_too_much_are_refused(queue, kind, monkeypatch):
    hand = await Hand(queue).register()
    job = await hand.run()
    left = await lists(queue, 9)
    for name in ("MAX_ARTIFACTS", "MAX_VARIABLES"):
        with monkeypatch.context() as limits:
            limits.setattr(intake, name, 8)
            (result,) = await hand.send(kind(job.id, attempt=1, **left))
            assert (result.status, "at most" in result.message) == ("invalid", True)
    for name in ("ARTIFACTS_BYTES", "VARIABLES_BYTES"):
        with monkeypatch.context() as limits:
            limits.setattr(intake, name, 500)
            assert (await hand.send(kind(job.id, attempt=1, **left)))[0].status == "invalid"
    assert (await queue.get(job.id)).state is JobState.RUNNING
    assert (await hand.send(kind(job.id, attempt=1, **left)))[0].status == "ok"


async def test_result_with_a_long_name_is_refused(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    sha256, size = queue.artifacts.put_bytes(b"kept")
    event = JobCompleted(job.id, attempt=1, result=JobArtifact("x" * 100_000, sha256, size))
    assert (await hand.send(event))[0].status == "invalid"
