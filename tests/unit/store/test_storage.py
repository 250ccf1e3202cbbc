import asyncio
import logging
import subprocess
import sys

import duckdb
import pytest

from zbrain_nb import Job, JobArtifact, JobSpec, LogEntry, Storage
from zbrain_nb.model.errors import Conflict, InvalidSpec, Unavailable, ZBrainError
from zbrain_nb.store import database, queries
from zbrain_nb.store.rows import Change, encode, job_row
from zbrain_nb.store.storage import is_id

pytestmark = pytest.mark.anyio


def new_job(**fields):
    return Job(JobSpec(cmd=["true"], **fields), owner="ada", org_id="lab")


def change_of(storage, job, *keys):
    change = Change()
    job.event_seq = storage.next_seq()
    change.jobs = [job_row(job, job.event_seq)]
    change.touched = [job.id, *keys]
    return change


@pytest.fixture(params=["memory", "file"])
async def storage(request, tmp_path):
    storage = Storage.in_memory() if request.param == "memory" else Storage(tmp_path / "data")
    await storage.open()
    yield storage
    await storage.close()


async def test_save_job_then_get_job_gives_it_back(storage):
    job = new_job(name="größer", input={"a": [1, None]})
    await storage.save_job(job)
    assert await storage.get_job(job.id) == job
    assert await storage.get_job(new_job().id) is None
    assert await storage.get_job("no id") is None


async def test_save_jobs_again_shows_what_became_of_them(storage):
    jobs = [new_job() for _ in range(3)]
    await storage.save_jobs(jobs)
    jobs[1].state, jobs[1].output, jobs[1].exit_code = "succeeded", [], 0
    await storage.save_job(jobs[1])
    found = await storage.get_jobs(job.id for job in jobs)
    assert [found[job.id].state for job in jobs] == ["pending", "succeeded", "pending"]
    assert found[jobs[1].id].output == []
    assert found[jobs[1].id].exit_code == 0


async def test_append_log_keeps_lines_in_order(storage):
    job = new_job()
    entries = [LogEntry(seq, 1, "stdout", 1.5 + seq, f"line {seq}") for seq in range(5)]
    await storage.append_log(job.id, entries[0])
    await storage.append_logs(job.id, entries[1:])
    assert await storage.read(queries.log_entries, job.id, 0, 100, None) == entries
    assert await storage.read(queries.log_entries, job.id, 2, 2, None) == entries[2:4]
    assert await storage.read(queries.log_entries, job.id, 0, 100, "stderr") == []


async def test_save_artifacts_are_found_with_the_job(storage):
    job, other = new_job(), new_job()
    await storage.save_jobs([job, other])
    file = JobArtifact("model.pkl", "a" * 64, 7)
    await storage.save_artifacts(job.id, [file])
    await storage.save_artifacts_of({other.id: [file, file]})
    assert (await storage.get_job(job.id)).artifacts == [file]
    assert (await storage.get_job(other.id)).artifacts == [file, file]


async def test_file_storage_reopened_has_everything_and_goes_on_counting(tmp_path):
    storage = Storage(tmp_path / "data")
    job = new_job()
    await storage.save_job(job)
    seq = storage.last_seq
    await storage.close()
    await storage.close()
    assert (tmp_path / "data" / "zbrain.duckdb").exists()
    again = Storage(tmp_path / "data" / "zbrain.duckdb")
    assert await again.get_job(job.id) == job
    assert again.last_seq == seq > 0
    await again.close()


async def test_storage_in_memory_twice_are_two(tmp_path):
    one, two = Storage.in_memory(), Storage.in_memory()
    job = new_job()
    await one.save_job(job)
    assert await two.get_job(job.id) is None
    await one.close()
    await two.close()


async def test_storage_of_another_process_is_unavailable_and_not_set_aside(tmp_path):
    path = tmp_path / "zbrain.duckdb"
    code = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); c.execute('create table t (a int)'); "
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(Unavailable):
            await Storage(path).open()
        other.stdin.close()
        other.wait()
    assert [p.name for p in tmp_path.iterdir() if "unreadable" in p.name] == []


async def test_storage_damaged_is_set_aside_with_its_log_and_said(tmp_path, caplog):
    path = tmp_path / "zbrain.duckdb"
    path.write_bytes(b"not a database" * 1000)
    path.with_name("zbrain.duckdb.wal").write_bytes(b"a log")
    storage = Storage(path)
    with caplog.at_level(logging.ERROR):
        await storage.open()
    assert any("set aside" in record.message for record in caplog.records)
    job = new_job()
    await storage.save_job(job)
    assert await storage.get_job(job.id) == job
    await storage.close()
    aside = sorted(p for p in tmp_path.iterdir() if "unreadable" in p.name)
    assert [p.read_bytes() for p in aside] == [b"not a database" * 1000, b"a log"]
    assert aside[1].name == aside[0].name + ".wal"


async def test_storage_of_newer_schema_is_refused_and_left_alone(tmp_path):
    storage = Storage(tmp_path)
    await storage.open()
    await storage.close()
    with duckdb.connect(str(storage.path)) as connection:
        connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    with pytest.raises(ZBrainError, match="newer"):
        await Storage(tmp_path).open()
    assert [p.name for p in tmp_path.iterdir()] == ["zbrain.duckdb"]


async def test_storage_in_unusable_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZBrainError, match="cannot be made"):
        await Storage(tmp_path / "file" / "data").open()


async def test_commit_with_one_bad_row_fails_its_change_and_writes_the_others(storage):
    taken = new_job()
    await storage.save_job(taken)
    jobs = [new_job() for _ in range(8)]
    changes = [change_of(storage, job) for job in jobs]
    changes[5] = change_of(storage, taken)
    outcomes = await storage.write(lambda db: db.append(changes))
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 5 + [Conflict] + [type(None)] * 2
    found = await storage.get_jobs(job.id for job in jobs)
    assert set(found) == {job.id for i, job in enumerate(jobs) if i != 5}


async def test_commit_change_that_builds_on_a_failed_one_fails_too(storage):
    taken = new_job()
    await storage.save_job(taken)
    child, stranger = new_job(), new_job()
    guilty = change_of(storage, taken, "shared")
    outcomes = await storage.write(
        lambda db: db.append([guilty, change_of(storage, child, "shared"), change_of(storage, stranger)])
    )
    assert [type(outcome) for outcome in outcomes] == [Conflict, Unavailable, type(None)]
    assert await storage.get_job(child.id) is None
    assert await storage.get_job(stranger.id) == stranger


async def test_commit_that_fails_midway_leaves_nothing_of_it_and_a_usable_store(storage):
    job, later = new_job(), new_job()
    change = change_of(storage, job)
    change.transitions = [(storage.next_seq(), job.id, "lab", 1, None, 0, "{}", None)]  # kind may not be null
    with pytest.raises(Conflict):
        await storage.commit([change])
    assert await storage.get_job(job.id) is None
    await storage.commit([change_of(storage, later)])
    assert await storage.get_job(later.id) == later


async def test_close_runs_what_is_queued(tmp_path):
    storage = Storage(tmp_path)
    await storage.open()
    jobs = [new_job() for _ in range(20)]
    for job in jobs:
        storage.append([change_of(storage, job)], lambda result, error: None)
    await storage.close()
    assert len(await Storage(tmp_path).get_jobs(job.id for job in jobs)) == 20


async def test_checkpoint_is_made_between_batches_when_the_log_has_grown(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    await storage.open()
    wal = storage.path.with_name("zbrain.duckdb.wal")
    await storage.save_jobs(new_job(name="x" * 200) for _ in range(500))
    assert wal.stat().st_size > 50_000
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 50_000)
    await storage.write(lambda db: None)
    await storage.write(lambda db: None)  # runs after the checkpoint behind the task before
    assert not wal.exists() or wal.stat().st_size < 50_000
    await storage.close()


async def test_checkpoint_that_fails_is_put_off_and_commits_go_on(tmp_path, monkeypatch, caplog):
    storage = Storage(tmp_path)
    await storage.open()
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 0)
    reader = storage._writer.database.cursor()
    reader.execute("BEGIN")
    job = new_job()
    await storage.save_job(job)
    reader.execute("SELECT count(*) FROM jobs").fetchall()
    reader.execute("ROLLBACK")
    reader.close()
    assert await storage.get_job(job.id) == job
    await storage.close()


async def test_write_task_that_raises_fails_its_caller_only(storage):
    with pytest.raises(ZeroDivisionError):
        await storage.write(lambda db: 1 / 0)
    job = new_job()
    await storage.save_job(job)
    assert await storage.get_job(job.id) == job


async def test_what_duckdb_refuses_is_unavailable_and_no_foreign_error(storage):
    with pytest.raises(Unavailable, match="nothing_here"):
        await storage.read(lambda cursor: cursor.execute("SELECT * FROM nothing_here"))
    with pytest.raises(Unavailable, match="nothing_here"):
        await storage.write(lambda db: db.cursor().execute("SELECT * FROM nothing_here"))


async def test_many_writers_and_readers_at_once_see_whole_jobs(storage):
    jobs = [new_job() for _ in range(40)]

    async def write_and_read(job):
        await storage.save_job(job)
        return await storage.get_job(job.id)

    assert await asyncio.gather(*map(write_and_read, jobs)) == jobs


def test_storage_used_from_one_loop_after_another(tmp_path):
    storage = Storage(tmp_path)
    job = new_job()
    asyncio.run(storage.save_job(job))
    assert asyncio.run(storage.get_job(job.id)) == job
    asyncio.run(storage.close())


@pytest.mark.parametrize("value", [object(), "\ud800", {"a": {1, object()}}])
def test_encode_of_what_json_cannot_say_is_an_invalid_spec(value):
    with pytest.raises(InvalidSpec):
        encode(value)


def test_encode_of_deep_nesting_is_an_invalid_spec():
    value: list = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(InvalidSpec):
        encode(value)


@pytest.mark.parametrize("text", ["", "x", None, 3, "0" * 36, "018f0000-0000-7000-8000-00000000000g"])
def test_is_id_refuses_what_is_none(text):
    assert not is_id(text)
