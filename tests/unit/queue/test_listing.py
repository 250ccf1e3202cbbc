import asyncio

import duckdb
import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import JobSpec, JobState
from zbrain_nb.model.errors import Malformed
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.queue import loading
from zbrain_nb.store.database import Database

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["fresh", "folded", "restarted"])
async def filled(request, queue):
    """A queue with ended, running and pending jobs, whose rows are up to date or not."""
    hand = await Hand(queue).register()
    ids = await queue.submit_many(
        JobSpec(cmd=["true"], name=f"Job {i % 3}", org_id="lab" if i % 2 else None) for i in range(12)
    )
    for job in await hand.lease(limit=6):
        if job.id in ids[:4]:
            await hand.send(JobCompleted(job.id, attempt=1))
    await queue.cancel_job(ids[11])
    if request.param == "folded":
        await queue.fold()
        queue._index.recent.clear()
        assert queue._index.unfolded == {}
    if request.param == "restarted":
        await queue.close()
        await queue.open()
    return queue, ids


async def listed(queue, **wanted):
    return [job.id for job in await queue.list(**wanted)]


async def test_list_is_newest_first_in_pages(filled):
    queue, ids = filled
    assert await listed(queue) == ids[::-1]
    for size in (1, 5, 12):
        pages, cursor = [], None
        while page := await listed(queue, limit=size, cursor=cursor):
            assert len(page) <= size
            pages += page
            cursor = page[-1]
        assert pages == ids[::-1]
    assert await listed(queue, limit=0) == []


async def test_list_filters_by_the_state_of_now(filled):
    queue, ids = filled
    assert await listed(queue, state="succeeded") == ids[3::-1]
    assert await listed(queue, state=JobState.RUNNING) == ids[5:3:-1]
    assert await listed(queue, state="pending") == ids[10:5:-1]
    assert await listed(queue, state="canceled") == [ids[11]]
    assert await listed(queue, state="succeeded", limit=2, cursor=ids[3]) == [ids[2], ids[1]]
    assert {job.state for job in await queue.list(state="succeeded")} == {"succeeded"}


async def test_list_filters_by_org_name_owner_and_text(filled):
    queue, ids = filled
    assert await listed(queue, org_id="lab") == ids[11::-2]
    assert await listed(queue, name="Job 1") == [ids[10], ids[7], ids[4], ids[1]]
    assert await listed(queue, name="job 1") == []
    assert await listed(queue, q="jOB 1") == [ids[10], ids[7], ids[4], ids[1]]
    assert await listed(queue, q=ids[7]) == [ids[7]]
    assert await listed(queue, owner="bob") == []
    assert len(await listed(queue, owner="ada")) == 12


async def test_list_shows_reason_of_pending_and_fields_of_ended_jobs(filled):
    queue, ids = filled
    jobs = {job.id: job for job in await queue.list()}
    assert jobs[ids[6]].reason.startswith("Waiting for a ")
    assert jobs[ids[0]].exit_code == 0
    assert jobs[ids[0]].worker_id == "w"
    alone = {job_id: await queue.get(job_id) for job_id in ids}
    for job_id, job in jobs.items():  # whose reason alone is more exact: it has the place in line
        assert alone[job_id] == msgspec.structs.replace(job, reason=alone[job_id].reason)


async def test_list_with_wrong_state_or_cursor_is_malformed(queue):
    for wanted in ({"state": "done"}, {"cursor": "x"}):
        with pytest.raises(Malformed):
            await queue.list(**wanted)


async def test_find_by_prefix_or_name(filled):
    queue, ids = filled
    assert [job.id for job in await queue.find(ids[5])] == [ids[5]]
    assert {job.id for job in await queue.find(ids[5][:8], limit=99)} == set(ids)
    assert [job.id for job in await queue.find("Job 2")] == [ids[11], ids[8], ids[5], ids[2]]
    assert await queue.find("zzzz") == []


async def test_list_while_jobs_end_and_fold_never_misses_one(queue):
    hand = await Hand(queue).register()
    ids = await queue.submit_many([TRUE] * 30)
    jobs = await hand.lease(limit=30)

    async def end():
        for job in jobs:
            await hand.send(JobCompleted(job.id, attempt=1))
            await queue.fold()

    ending = asyncio.create_task(end())
    while not ending.done():
        assert await listed(queue) == ids[::-1]
        running, ended = await listed(queue, state="running"), await listed(queue, state="succeeded")
        assert {*running, *ended} == set(ids)
    await ending


async def test_fold_that_fails_is_tried_again_and_lists_stay_right(queue, monkeypatch, caplog):
    monkeypatch.setattr(loading, "FOLD_PAUSE_SECS", 0)
    fold = Database.fold

    def refuse(self, rows):
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr(Database, "fold", refuse)
    first = await queue.submit(TRUE)
    await queue.cancel_job(first)
    await queue._folder._task
    assert "could not be folded" in caplog.text
    assert await listed(queue, state="canceled") == [first]
    monkeypatch.setattr(Database, "fold", fold)
    await queue.cancel_job(await queue.submit(TRUE))
    await queue._folder._task
    assert queue._index.unfolded == {}


async def test_folded_row_is_what_sql_sees(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(JobCompleted(job.id, attempt=1, exit_code=0))
    await queue.fold()
    row = await queue.storage.read(
        lambda cursor: cursor.execute("SELECT state, attempt, worker_id, exit_code, finished_at FROM jobs").fetchone()
    )
    assert row[:4] == ("succeeded", 1, "w", 0)
    assert row[4] == (await queue.get(job.id)).finished_at.replace(tzinfo=None)


async def test_list_after_an_event_holds_what_was_submitted_since_in_the_state_of_now(filled):
    queue, _ = filled
    await queue.submit(JobSpec(cmd=["true"], tags={"kind": "old"}))
    seq = queue.event_seq
    assert await listed(queue, after=seq) == []
    new = await queue.submit_many(JobSpec(cmd=["true"], tags={"kind": kind}) for kind in ("new", "other", "new"))
    await queue.cancel_job(new[2])
    assert await listed(queue, after=seq) == new[::-1]
    assert await listed(queue, after=seq, limit=2) == new[:0:-1]
    assert await listed(queue, after=seq, state="canceled") == [new[2]]
    assert await listed(queue, after=seq, tag=("kind", "new")) == [new[2], new[0]]
    assert await listed(queue, after=seq, tag=("kind", "old")) == []
