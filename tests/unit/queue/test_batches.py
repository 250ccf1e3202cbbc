"""Batches under one key: sent twice they are one batch, whatever happened between."""

from __future__ import annotations

import asyncio

import pytest

from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.errors import InvalidSpec, KeyConflict, ZBrainError

pytestmark = pytest.mark.anyio
SPECS = [JobSpec(cmd=["true"], priority=-n) for n in range(5)]


def ids(accepted):
    return [one.job.id for one in accepted]


async def test_batch_sent_again_after_a_restart_is_the_same(tmp_path, clock):
    queue = JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock)
    await queue.submit(JobSpec(cmd=["before"]))
    first = await queue.accept_once(SPECS, "k", "hash", owner="ada")
    await queue.submit(JobSpec(cmd=["behind"]))
    await queue.cancel_job(first[2].job.id)
    await queue.close()
    again = await queue.accept_once(SPECS, "k", "hash", owner="ada")
    assert ids(again) == ids(first)
    assert [one.deduplicated for one in (*first, *again)] == [False] * 5 + [True] * 5
    assert again[2].job.state == "canceled"
    assert queue.active_jobs() == 6
    await queue.close()


async def test_batch_sent_twice_at_once_is_one(queue):
    found = await asyncio.gather(*(queue.accept_once(SPECS, "k", "hash", owner="ada") for _ in range(4)))
    assert len({tuple(ids(accepted)) for accepted in found}) == 1
    assert queue.active_jobs() == 5


async def test_key_of_another_batch_is_refused(queue):
    await queue.accept_once(SPECS, "k", "hash", owner="ada")
    with pytest.raises(KeyConflict):
        await queue.accept_once(SPECS, "k", "other", owner="ada")
    with pytest.raises(KeyConflict):
        await queue.submit(JobSpec(cmd=["true"], idempotency_key="k"), owner="ada")
    assert len(await queue.accept_once(SPECS, "k", "other", owner="bob")) == 5


async def test_batch_with_parents_is_one_too(queue):
    parent = await queue.submit(JobSpec(cmd=["true"]))
    specs = [*SPECS, JobSpec(cmd=["true"], after=[parent])]
    first = await queue.accept_once(specs, "k", "hash", owner="ada")
    assert ids(await queue.accept_once(specs, "k", "hash", owner="ada")) == ids(first)
    assert queue.active_jobs() == 7


async def test_batch_that_was_refused_took_no_key(queue):
    bad = [*SPECS, JobSpec(cmd=["true"], input={1j})]
    with pytest.raises(InvalidSpec) as caught:
        await queue.accept_once(bad, "k", "hash", owner="ada")
    assert caught.value.details["index"] == 5
    assert queue.active_jobs() == 0
    assert len(await queue.accept_once(SPECS, "k", "hash", owner="ada")) == 5


async def test_batch_that_could_not_be_written_took_no_key(queue, monkeypatch):
    append = queue.storage.append
    monkeypatch.setattr(queue.storage, "append", lambda changes, done: done(None, OSError("no")))
    sent = [queue.accept_once(SPECS, "k", "hash", owner="ada") for _ in range(2)]
    assert all(isinstance(result, ZBrainError) for result in await asyncio.gather(*sent, return_exceptions=True))
    monkeypatch.setattr(queue.storage, "append", append)
    assert not any(one.deduplicated for one in await queue.accept_once(SPECS, "k", "hash", owner="ada"))
