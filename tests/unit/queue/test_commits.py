"""The decider and its group commit: order, overlays that are discarded, durability over kill -9."""

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
import threading

import duckdb
import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from zbrain_nb import CancelResult, Job, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import Conflict, DiskFloor, Unavailable, ZBrainError
from zbrain_nb.model.events import JobCompleted, JobFailed, JobLogged
from zbrain_nb.model.protocol import LeaseRequest
from zbrain_nb.queue import commits, loading
from zbrain_nb.queue.submits import as_job, decide_batch
from zbrain_nb.store.database import Database

pytestmark = pytest.mark.anyio


@pytest.fixture
def broken_disk(monkeypatch):
    """Make every transaction fail while the returned set is not empty."""
    broken: set[str] = set()
    transact = Database._transact

    def fail(self, changes):
        if broken:
            raise duckdb.IOException("Could not write file: No space left on device")
        transact(self, changes)

    monkeypatch.setattr(Database, "_transact", fail)
    return broken


async def test_failed_commit_tells_its_callers_and_leaves_no_trace(queue, broken_disk):
    parent = await queue.submit(TRUE)
    live = queue.subscribe()
    broken_disk.add("full")
    results = await asyncio.gather(
        queue.submit(TRUE),
        queue.submit(JobSpec(cmd=["true"], idempotency_key="k")),
        queue.submit_many([TRUE, TRUE]),
        queue.submit(JobSpec(cmd=["true"], after=[parent])),
        queue.cancel_job(parent),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [DiskFloor] * 4 + [Unavailable]
    broken_disk.clear()
    assert queue.active_jobs() == len(await queue.list()) == 1
    assert (await queue.get(parent)).state is JobState.PENDING
    (job_id,) = await queue.submit_many([JobSpec(cmd=["false"], idempotency_key="k")])
    assert [event.job_id for event in await live.next_batch()] == [job_id]
    assert not queue._index.children.get(parent) or queue.active_jobs() == 2
    assert await queue.cancel_job(parent) is CancelResult.CANCELED


async def test_full_disk_is_logged_once_for_each_time_it_is_full(queue, broken_disk, caplog):
    for _ in range(2):
        caplog.clear()
        broken_disk.add("full")
        for _ in range(5):
            with pytest.raises(DiskFloor):
                await queue.submit(TRUE)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        broken_disk.clear()
        await queue.submit(TRUE)
        await queue.submit(TRUE)
        assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


_FULL_DISK = """
import asyncio, logging, resource, sys
from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.errors import DiskFloor
from zbrain_nb.store import database

logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s", stream=sys.stdout)
database.CHECKPOINT_PAUSE_SECS = database.REVIVAL_PAUSE_SECS = 0.0

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    queue = JobQueue(Storage(sys.argv[1]), sys.argv[1] + "/blobs")
    spec = JobSpec(cmd=["true"], input="x" * 30_000)
    await queue.open()
    wal = queue.storage.path.with_name(queue.storage.path.name + ".wal")
    ids = []
    for room, checkpoint_bytes in ((70_000, 1_000), (10_000, 1 << 30)):
        # The log takes two more jobs, but their checkpoint finds no room; then the log takes none.
        database.CHECKPOINT_BYTES = checkpoint_bytes
        limit((wal.stat().st_size if wal.exists() else 0) + room)
        for _ in range(5):
            try:
                ids.append(await queue.submit(spec))
            except DiskFloor as error:
                print(error.status)
            assert (await queue.get(ids[0])).id == ids[0]
            await asyncio.sleep(0.02)
        limit(resource.RLIM_INFINITY)
        ids += [await queue.submit(spec) for _ in range(3)]
        assert {job.id for job in await queue.list(limit=100)} == set(ids)
    assert {job.id for job in await queue.list(limit=100)} == set(ids)
    await queue.close()
    async with JobQueue(Storage(sys.argv[1]), sys.argv[1] + "/blobs") as again:
        assert {job.id for job in await again.list(limit=100)} == set(ids)
    print("whole")

asyncio.run(main())
"""


async def test_store_is_usable_again_when_space_comes_back(tmp_path):
    command = [sys.executable, "-c", _FULL_DISK, str(tmp_path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "507" in done.stdout
    assert "The database was opened again" in done.stdout
    assert done.stdout.splitlines()[-1] == "whole"
    assert not list(tmp_path.glob("*unreadable*"))


async def test_failed_commit_of_a_lease_gives_the_job_to_the_next(queue, broken_disk):
    hand = await Hand(queue).register()
    job_id = await queue.submit(TRUE)
    broken_disk.add("full")
    with pytest.raises(Unavailable):
        await hand.lease()
    assert (await queue.get(job_id)).state is JobState.PENDING
    broken_disk.clear()
    (job,) = await hand.lease()
    assert (job.id, job.attempt) == (job_id, 1)


async def test_failed_commit_of_events_leaves_the_numbers_where_they_were(queue, broken_disk):
    hand = await Hand(queue).register()
    job = await hand.run()
    event = JobLogged(job.id, attempt=1, after=0, seq=1, lines=[("stdout", 1.0, "a")])
    broken_disk.add("full")
    with pytest.raises(Unavailable):
        await hand.send(event)
    broken_disk.clear()
    assert [(r.status, r.high) for r in await hand.send(event)] == [("ok", 1)]
    assert [entry.seq for entry in await queue.get_logs(job.id)] == [0]


async def test_one_guilty_submit_fails_alone(queue):
    ghost = Job(TRUE)
    await queue.storage.save_job(ghost)  # behind the queue's back: only the database knows
    good = [asyncio.create_task(queue.submit(TRUE)) for _ in range(3)]
    bad = asyncio.create_task(queue.submit(ghost))
    good += [asyncio.create_task(queue.submit(TRUE)) for _ in range(3)]
    results = await asyncio.gather(*good, bad, return_exceptions=True)
    assert [type(result) for result in results] == [str] * 6 + [Conflict]
    assert "constraint" not in str(results[-1]).lower()
    assert queue.active_jobs() == 6
    await queue.close()
    await queue.open()
    assert queue.active_jobs() == 7


async def test_commands_of_one_commit_build_on_each_other(queue):
    hand = await Hand(queue).register()
    job_id = await queue.submit(TRUE)
    before = queue.event_seq
    lease = queue.lease("w", LeaseRequest(request_id="1", wait_secs=0))
    leased, first, second = await asyncio.gather(lease, queue.cancel_job(job_id), queue.cancel_job(job_id))
    assert len(leased.leases) == 1
    assert (first, second) == (CancelResult.CANCELING, CancelResult.CANCELING)
    assert queue.event_seq == before + 2
    results = await asyncio.gather(
        *(
            hand.send(JobLogged(job_id, attempt=1, after=i, seq=i + 1, lines=[("stdout", 1.0, str(i))]))
            for i in range(9)
        )
    )
    assert [result[0].high for result in results] == list(range(1, 10))
    assert [entry.line for entry in await queue.get_logs(job_id)] == [str(i) for i in range(9)]


async def test_answers_come_in_the_order_of_the_commands(queue):
    order = []

    async def submit(number):
        await queue.submit(TRUE)
        order.append(number)

    await asyncio.gather(*(submit(number) for number in range(50)))
    assert order == list(range(50))


async def test_nothing_is_visible_before_its_commit(queue):
    submitting = asyncio.create_task(queue.submit(TRUE))
    while not queue._commits._under_way:
        await asyncio.sleep(0)
    assert queue.active_jobs() == 0
    await submitting
    assert queue.active_jobs() == 1


async def test_a_caller_who_went_away_takes_nothing_with_him(queue):
    job = Job(TRUE)
    gone = asyncio.create_task(queue.submit(job))
    stays = asyncio.create_task(queue.submit(TRUE))
    while not queue._commits._under_way:
        await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert (await queue.get(job.id)).state is JobState.PENDING
    assert queue.active_jobs() == 2


async def test_defect_in_a_command_hangs_nobody(queue, caplog):
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    with caplog.at_level(logging.CRITICAL):
        results = await asyncio.gather(
            queue.submit(TRUE), queue._commits.run(lambda turn: 1 // 0), queue.submit(TRUE), return_exceptions=True
        )
    assert [type(result) for result in results] == [Unavailable] * 3
    await queue.submit(TRUE)
    assert queue.active_jobs() == 1


async def test_close_twice_and_use_again(queue):
    job_id = await queue.submit(TRUE)
    await queue.close()
    await queue.close()
    assert (await queue.get(job_id)).id == job_id
    await queue.open()
    await queue.open()


async def test_close_finishes_what_is_under_way(tmp_path):
    queue = JobQueue(Storage(tmp_path), tmp_path / "blobs")
    await queue.open()
    submits = [asyncio.create_task(queue.submit(TRUE)) for _ in range(10)]
    await turns(2)
    await queue.close()
    ids = await asyncio.gather(*submits)
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs") as again:
        assert {job.id for job in await again.list()} == set(ids)


async def test_close_that_meets_a_defect_closes_the_storage_all_the_same(tmp_path, monkeypatch):
    queue = await JobQueue(Storage(tmp_path), tmp_path / "blobs").open()
    job_id = await queue.submit(TRUE)
    await queue.cancel_job(job_id)
    monkeypatch.setattr(Database, "fold", lambda self, rows: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await queue.close()
    assert not queue.storage.is_open
    monkeypatch.undo()
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs") as again:
        assert (await again.get(job_id)).state is JobState.CANCELED


async def test_code_that_was_kept_before_codes_were_bounded_is_folded(queue):
    hand = await Hand(queue).register()
    job = await hand.run()

    def poison(turn):
        turn.move(turn.entry(job.id), "job_failed", {"state": JobState.FAILED, "exit_code": 2**70})

    await queue._commits.run(poison)
    await queue.fold()
    assert queue._index.unfolded == {}
    assert (await queue.storage.get_job(job.id)).state is JobState.FAILED


@pytest.mark.parametrize("text", ["x" * 4, "é" * 2, "😀"])
async def test_long_ends_are_folded_in_several_writes_of_which_each_counts(queue, monkeypatch, text):
    """A text that takes as much has up to four times fewer characters."""
    monkeypatch.setattr(loading, "FOLD_PAUSE_SECS", 3600.0)
    monkeypatch.setattr(loading, "FOLD_CHUNK_BYTES", 50_000)
    fold, written = Database.fold, []

    def fails_third(database, rows):
        written.append(len(rows))
        if len(written) == 3:
            raise duckdb.OutOfMemoryException("No room.")
        return fold(database, rows)

    monkeypatch.setattr(Database, "fold", fails_third)
    hand = await Hand(queue).register()
    jobs = [await hand.run() for _ in range(6)]
    await hand.send(*(JobCompleted(job.id, attempt=1, output=text * 5_000) for job in jobs[:5]))
    await hand.send(JobCompleted(jobs[5].id, attempt=1, output=text * 25_000))
    with pytest.raises(Unavailable):
        await queue.fold()
    assert set(queue._index.unfolded) == {jobs[4].id, jobs[5].id}
    await queue.fold()
    assert (queue._index.unfolded, written) == ({}, [2, 2, 1, 1, 1])


async def test_row_that_cannot_be_folded_keeps_no_other_from_it(queue, monkeypatch, caplog):
    folded_row = loading.folded_row
    hand = await Hand(queue).register()
    jobs = [await hand.run() for _ in range(5)]

    def poisoned(job):
        row = folded_row(job)
        return (*row[:7], 2**70, *row[8:]) if job.id == jobs[2].id else row

    monkeypatch.setattr(loading, "folded_row", poisoned)
    await hand.send(*(JobCompleted(job.id, attempt=1) for job in jobs))
    await queue.fold()
    await queue.fold()
    assert [record.job_id for record in caplog.records if record.levelname == "ERROR"] == [jobs[2].id]
    assert list(queue._index.unfolded) == [jobs[2].id]
    assert len(await queue.list(state="succeeded")) == 5
    rows = await queue.storage.read(lambda c: c.execute("SELECT id::VARCHAR, state FROM jobs").fetchall())
    assert {job_id for job_id, state in rows if state == "succeeded"} == {job.id for job in jobs} - {jobs[2].id}


async def test_key_of_a_commit_under_way_is_not_known_before_it_is_through(queue, broken_disk):
    spec = JobSpec(cmd=["true"], idempotency_key="k")
    broken_disk.add("full")
    results = await asyncio.gather(queue.submit(spec), queue.submit(spec), return_exceptions=True)
    assert all(isinstance(result, ZBrainError) for result in results)
    assert queue._index.keys.get(("ada", "k")) is None
    broken_disk.clear()
    first = asyncio.create_task(queue.submit(spec))
    while not queue._commits._under_way:
        await asyncio.sleep(0)
    assert queue._index.keys.get(("ada", "k")) is None
    job_id = await first
    assert queue._index.keys.get(("ada", "k"))[0] == job_id
    assert await queue.submit(spec) == job_id


async def test_key_of_a_refused_submit_is_free_for_the_next(queue):
    spec = JobSpec(cmd=["true"], idempotency_key="k")
    ghost = Job(spec)
    await queue.storage.save_job(Job(TRUE, id=ghost.id))  # behind the queue's back: only the database knows

    def submit(given):
        own = as_job(given, None, "ada", "default")
        return queue._commits.post(lambda turn: decide_batch(turn, queue._index, [own], {}))

    results = await asyncio.gather(submit(ghost), submit(spec), return_exceptions=True)
    assert isinstance(results[0], Conflict)
    assert isinstance(results[1], Unavailable), "it was told to be the ghost, which was never kept"
    job_id = await queue.submit(spec)
    assert job_id != ghost.id
    assert (await queue.get(job_id)).spec == spec


_WRITER = """
import asyncio, sys
from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.events import JobLogged
from zbrain_nb.model.protocol import EventBatch, WorkerInfo
from zbrain_nb.store import database

database.CHECKPOINT_BYTES = 200_000

async def main():
    queue = JobQueue(Storage(sys.argv[1]), sys.argv[1] + "/blobs")
    await queue.register_worker(WorkerInfo(id="w"))
    job_id = await queue.submit(JobSpec(cmd=["true"], worker="mine"))
    job = await queue.acquire_lease("w", kinds=["mine"])
    print("log", job.id, flush=True)

    async def submit():
        while True:
            print("job", await queue.submit(JobSpec(cmd=["true"])), flush=True)

    async def write():
        seq = 0
        while True:
            event = JobLogged(job.id, attempt=1, after=seq, seq=seq + 1, lines=[("stdout", 1.0, str(seq))])
            (result,) = (await queue.take_events("w", EventBatch([event]))).results
            assert result.status == "ok"
            seq += 1
            print("line", seq, flush=True)

    await asyncio.gather(write(), *(submit() for _ in range(20)))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [50, 2000])
async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path, acknowledged):
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    said = [process.stdout.readline() for _ in range(acknowledged)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait()
    words = [line.decode().split() for line in said if line.endswith(b"\n")]
    jobs = {word[1] for word in words if word[0] == "job"}
    lines = max(int(word[1]) for word in words if word[0] == "line")
    (logged,) = [word[1] for word in words if word[0] == "log"]
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs") as queue:
        found = {job.id for job in await queue.list(limit=10_000)}
        assert jobs <= found
        entries = await queue.get_logs(logged, limit=10_000)
        assert [entry.line for entry in entries[:lines]] == [str(i) for i in range(lines)]
        assert [entry.seq for entry in entries] == list(range(len(entries)))
        hand = await Hand(queue).register()
        high = len(entries)
        (result,) = await hand.send(
            JobLogged(logged, attempt=1, after=high - 1, seq=high, lines=[("stdout", 1.0, "again")]),
            JobCompleted(logged, attempt=1, after=high, seq=high + 1),
        )
        assert (result.status, result.high) == ("ok", high + 1)
        assert len(await queue.get_logs(logged, limit=10_000)) == high


async def test_what_arrives_at_once_and_is_too_much_for_one_commit_goes_in_several(queue, monkeypatch):
    """Who shares a commit with others has nothing to do with them."""
    monkeypatch.setattr(commits, "COMMIT_CHARS", 4_000_000)
    await queue.storage.write(lambda database: database._connection.execute("SET memory_limit = '40MB'") and None)
    await queue.submit_many([TRUE] * 30)
    jobs = [await queue.acquire_lease("w") for _ in range(30)]
    texts = [random.Random(number).randbytes(950_000).hex() for number in range(30)]
    errors = [{"ename": "ValueError", "evalue": text, "traceback": []} for text in texts]
    ends = [JobFailed(job.id, attempt=1, error=error) for job, error in zip(jobs, errors, strict=True)]
    free = threading.Event()
    writes = [asyncio.ensure_future(queue.storage.write(lambda _: free.wait()))]
    writes += [asyncio.ensure_future(queue.submit(TRUE)) for _ in range(2)]
    await turns()
    writes += [asyncio.ensure_future(queue.handle_worker_event(end)) for end in ends]
    await turns()
    bystander = asyncio.ensure_future(queue.submit(TRUE))
    await turns()
    free.set()
    await asyncio.gather(*writes)
    assert (await queue.get(await bystander)).state is JobState.PENDING
    assert [job.error for job in await queue.get_many([job.id for job in jobs])] == errors
