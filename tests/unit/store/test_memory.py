"""What is read of many jobs, or large ones, needs little of DuckDB's memory."""

import asyncio
import random
import shutil

import pytest

from tests.unit.store.rows import change_of, new_job
from zbrain_nb import JobState, Storage
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.store import database, opening, queries, texts, waiting
from zbrain_nb.store.events import EventQuery, events_between
from zbrain_nb.store.rows import Change, encode

pytestmark = pytest.mark.anyio
JOBS, SPEC_BYTES, LIMIT = 12_000, 4_000, "40MB"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """More specs than the memory limit, each of them different; all jobs were canceled, and none folded."""
    folder = tmp_path_factory.mktemp("written")
    asyncio.run(write(folder))
    return folder


async def write(folder):
    storage = Storage(folder)
    await storage.open()
    source = random.Random(1)
    for _ in range(10):
        change = Change()
        for _ in range(JOBS // 10):
            job = new_job(name="big", input=source.randbytes(SPEC_BYTES // 2).hex())
            change.jobs += change_of(storage, job).jobs
            seq = storage.next_seq()
            patch = encode({"state": "canceled", "event_seq": seq}).decode()
            change.transitions.append((seq, job.id, job.org_id, 0, "job_canceled", 0, patch, None))
        await storage.commit([change])
    await storage.close()


@pytest.fixture
async def storage(written, tmp_path):
    shutil.copytree(written, tmp_path / "data")
    storage = Storage(tmp_path / "data")
    await storage.write(lambda database: database._connection.execute(f"SET memory_limit = '{LIMIT}'") and None)
    yield storage
    await storage.close()


async def test_pages_of_many_large_jobs_are_read_in_little_memory(storage):
    wanted = dict.fromkeys(("orgs", "state", "owner", "name", "search", "before", "after", "tag"))
    jobs, _ = await storage.read(queries.list_jobs, **wanted, limit=JOBS)
    assert len(jobs) == JOBS
    assert jobs == sorted(jobs, key=lambda job: job.id, reverse=True)


async def test_page_of_jobs_that_are_too_large_together_is_read_in_parts(storage):
    """DuckDB holds two thousand rows at once, however long they are."""
    source = random.Random(2)
    large = [new_job(name="larger", input=source.randbytes(500_000).hex()) for _ in range(60)]
    for job in large:
        await storage.commit([change_of(storage, job)])
    wanted = dict.fromkeys(("orgs", "state", "owner", "search", "before", "after", "tag")) | {"name": "larger"}
    jobs, _ = await storage.read(queries.list_jobs, **wanted, limit=50)
    assert [job.id for job in jobs] == [job.id for job in reversed(large)][:50]


async def test_snapshot_of_many_large_jobs_is_read_in_slices(storage):
    found = await storage.read(waiting.snapshot, 0, lambda lanes: 10, lambda lanes: 1_000_000)
    jobs = [one for part in found.slices for one in await storage.read(waiting.jobs_of, part)]
    assert len(jobs) == JOBS
    assert all(one.job.state == "canceled" for one in jobs)
    assert [one.order for one in jobs] == sorted(one.order for one in jobs)


async def test_events_of_many_large_jobs_are_read_in_little_memory(storage):
    seen, after = [], 0
    while after < storage.last_seq:
        events, after = await storage.read(events_between, EventQuery(after, storage.last_seq, JOBS))
        assert len(events) < JOBS
        seen += [event.seq for event in events]
    assert seen == list(range(1, storage.last_seq + 1))


async def test_jobs_of_a_large_batch_are_read_in_little_memory(storage):
    first, *_ = await storage.read(lambda cursor: cursor.execute("SELECT min(id)::VARCHAR FROM jobs").fetchone())
    jobs = await storage.read(waiting.batch, first, 2 * JOBS)
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)
    assert len(jobs) == JOBS


@pytest.mark.parametrize("said", [[], ["The database takes more memory, for jobs with much text."]])
async def test_adjacent_jobs_with_more_text_than_the_database_has_memory_are_opened(
    tmp_path, caplog, monkeypatch, said
):
    """DuckDB packs the texts of two thousand rows into one piece: also those that versions before left in the rows."""
    if said:
        monkeypatch.setattr(texts, "_SHORT", 1 << 30)
    storage = Storage(tmp_path / "data")
    text = random.Random(4).randbytes(750_000).hex()
    jobs = [new_job() for _ in range(50)]
    await storage.save_jobs(jobs)
    for job in jobs:
        job.state, job.error = JobState.FAILED, {"ename": "E", "evalue": text, "traceback": []}
    for start in range(0, 50, 10):
        await storage.save_jobs(jobs[start : start + 10])
    await storage.close()
    storage = Storage(tmp_path / "data")
    assert (await storage.get_job(jobs[0].id)).error == jobs[0].error
    assert [record.getMessage() for record in caplog.records] == said
    await storage.close()


async def test_checkpoint_of_what_versions_before_left_gets_more_memory(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(texts, "_SHORT", 1 << 30)
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 1 << 40)
    source = random.Random(6)
    storage = Storage(tmp_path / "data")
    await storage.open()
    job = new_job()
    await storage.commit([change_of(storage, job)])
    outputs = [source.randbytes(48_000).hex() for _ in range(800)]
    for start in range(0, 800, 100):
        change = Change()
        for output in outputs[start : start + 100]:
            seq, data = storage.next_seq(), encode({"outputs": [{"text": output}]}).decode()
            change.transitions.append((seq, job.id, job.org_id, 1, "job_displayed", 0, data, seq))
        await storage.commit([change])
    shutil.copytree(tmp_path / "data", tmp_path / "killed")
    await storage.close()
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 1 << 20)
    monkeypatch.setattr(database, "CHECKPOINT_PAUSE_SECS", 0.0)
    monkeypatch.setattr(opening, "_MEMORY_STEPS", ("SET memory_limit = '40MB'", "SET memory_limit = '1GB'"))
    storage = Storage(tmp_path / "killed")
    for _ in range(3):
        await storage.save_job(new_job())
    assert await storage.write(lambda database: (database._memory_step, database.is_invalid)) == (1, False)
    assert "The database was opened again after DuckDB had given it up." in caplog.messages
    shown = await storage.read(queries.displays, job.id, 1, storage.last_seq)
    assert shown == [{"text": output} for output in outputs]
    await storage.close()


async def test_query_without_memory_is_logged_by_its_name(storage, caplog):
    def greedy(cursor):
        return cursor.execute("SELECT spec FROM jobs ORDER BY random() LIMIT 11500").fetchall()

    with pytest.raises(Unavailable):
        await storage.read(greedy)
    assert [record.query.rpartition(".")[2] for record in caplog.records if hasattr(record, "query")] == ["greedy"]
