"""Which earlier job gives what a new one would give."""

import hashlib

import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import JobSpec
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.model.job import JobArtifact, Variable
from zbrain_nb.store.database import Database

pytestmark = pytest.mark.anyio

KEY, OTHER = "a" * 64, "b" * 64
SPEC = JobSpec(cmd=["true"], cache_key=KEY)


async def found(queue, key=KEY, owner="ada"):
    job = await queue.cached_job(key, owner=owner)
    return job and job.id


@pytest.mark.parametrize("then", ["at once", "folded", "restarted"])
async def test_only_what_succeeded_is_found_and_the_newest_of_that(queue, then):
    hand = await Hand(queue).register()
    assert await found(queue) is None
    first, second, failed, canceled = [await hand.run(SPEC) for _ in range(4)]
    assert await found(queue) is None  # they run
    await hand.send(JobCompleted(first.id, attempt=1))
    assert await found(queue) == first.id
    await hand.send(JobCompleted(second.id, attempt=1), JobFailed(failed.id, attempt=1))
    await queue.cancel_job(canceled.id)
    waiting = await queue.submit(SPEC)
    if then == "folded":
        await queue.fold()
        queue._index.recent.clear()
    if then == "restarted":
        await queue.close()
        await queue.open()
    assert await found(queue) == second.id != waiting
    assert await found(queue, OTHER) is None
    assert await found(queue, owner="bob") is None


async def test_retry_keeps_the_key(queue):
    hand = await Hand(queue).register()
    first = await hand.run(SPEC)
    await hand.send(JobCompleted(first.id, attempt=1))
    again = await queue.retry_job(first.id)
    assert await found(queue) == first.id
    (leased,) = await hand.lease()
    await hand.send(JobCompleted(leased.id, attempt=1))
    assert await found(queue) == again.id


@pytest.mark.parametrize("what", ["result", "variable", "artifact"])
async def test_job_whose_blobs_are_gone_is_not_found(queue, what):
    digest = hashlib.sha256(b"kept").hexdigest()
    left = {
        "result": {"result": JobArtifact("result", digest, 4)},
        "variable": {"variables": [Variable("x", "int", "1", digest, 4)]},
        "artifact": {"artifacts": [JobArtifact("a.txt", digest, 4)]},
    }[what]
    queue.artifacts.put_bytes(b"kept")
    hand = await Hand(queue).register()
    job = await hand.run(SPEC)
    await hand.send(JobCompleted(job.id, attempt=1, **left))
    assert await found(queue) == job.id
    queue.artifacts.path(digest).unlink()
    assert await found(queue) is None


async def test_job_whose_outputs_are_kept_no_more_is_not_found(queue, monkeypatch):
    hand = await Hand(queue).register()
    job = await hand.run(SPEC)
    await hand.send(JobCompleted(job.id, attempt=1))
    monkeypatch.setattr(Database, "oldest_seq", job.event_seq)
    assert await found(queue) is None


def test_key_is_a_sha256():
    with pytest.raises(InvalidSpec, match="cache_key must be a SHA-256"):
        JobSpec(cmd=["true"], cache_key="mine")
