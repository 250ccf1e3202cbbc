"""What goes wrong midway leaves nothing half done: in a command, in a window's filling, in a fold."""

from __future__ import annotations

import asyncio
import errno
import shutil
from collections import Counter

import duckdb
import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model import datadir
from zbrain_nb.model.access import EVERY_JOB
from zbrain_nb.model.events import JobCompleted, JobFailed, JobLogged
from zbrain_nb.queue import ready
from zbrain_nb.queue.loading import Folder
from zbrain_nb.queue.turn import LookAgain
from zbrain_nb.store import database, schema, waiting
from zbrain_nb.store.database import Database

pytestmark = pytest.mark.anyio


def spec(**fields):
    return JobSpec(cmd=["true"], **fields)


async def test_command_that_raises_midway_writes_nothing(queue):
    """Else a worker's line, sent again after the refusal, would stand in the log twice."""
    hand = await Hand(queue).register()
    job = await hand.run()
    line = JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "hello")])

    def half(turn):
        queue._intake.take(turn, [line], ("w", EVERY_JOB), set(), [])
        raise LookAgain("No.")

    results = await asyncio.gather(
        queue._commits.run(half), queue.submit(TRUE), hand.send(line), return_exceptions=True
    )
    assert isinstance(results[0], LookAgain)
    assert [result.status for result in results[2]] == ["ok"]
    stored = await queue.storage.read(lambda cursor: cursor.execute("SELECT log_seq, line FROM logs").fetchall())
    assert stored == [(0, "hello")]


async def test_orgs_share_one_kind_fairly_while_a_third_uses_another(queue):
    await queue.submit_many([spec(org_id="b") for _ in range(100)])
    await queue.submit_many([spec(org_id="c") for _ in range(100)])
    await queue.submit_many([spec(org_id="a", worker="gpu") for _ in range(100)])
    local, gpu = await Hand(queue, "l").register(), await Hand(queue, "g").register(kind="gpu")
    taken: Counter[str] = Counter()
    for _ in range(40):
        taken.update(job.org_id for job in await local.lease())
        await gpu.lease()
    assert taken == {"b": 20, "c": 20}


async def test_group_is_one_though_its_last_job_ends_with_the_submit_of_the_next(queue):
    hand = await Hand(queue).register()
    job = await hand.run(spec(concurrency_group="g"))
    ending = hand.send(JobCompleted(job.id, attempt=1))
    await asyncio.gather(ending, queue.submit(spec(concurrency_group="g", resources={"cpus": 2})))
    await queue.submit(spec(concurrency_group="g", resources={"cpus": 3}))
    assert len(await hand.lease(limit=9)) == 1


async def test_lanes_of_submits_that_could_not_be_written_are_forgotten(queue, monkeypatch):
    append = queue.storage.append
    monkeypatch.setattr(queue.storage, "append", lambda changes, done: done(None, OSError("no")))
    many = (queue.submit(spec(concurrency_group=f"g{n}", org_id=f"o{n}")) for n in range(9))
    await asyncio.gather(*many, return_exceptions=True)
    monkeypatch.setattr(queue.storage, "append", append)
    assert (queue._index.ready.lanes, queue._index.ready.groups) == ({}, {})


async def test_lock_that_cannot_be_looked_at_keeps_no_other_lease_from_its_end(queue, clock, monkeypatch, tmp_path):
    """What looks after leases would rest from then on."""

    def no_files_left(path):
        raise OSError(errno.EMFILE, "Too many open files")

    here = await Hand(queue, "here").register(folder=str(tmp_path), boot_id=datadir.boot_id())
    gone = await Hand(queue, "gone").register()
    jobs = [await hand.run() for hand in (here, gone)]
    clock.advance(61)
    with monkeypatch.context() as broken:
        broken.setattr(datadir, "is_locked", no_files_left)
        assert await queue.expire_leases() == 1
    assert [(await queue.get(job.id)).losses for job in jobs] == [0, 1]
    clock.advance(61)
    assert await queue.expire_leases() == 1
    assert (await queue.get(jobs[0].id)).losses == 1


async def test_idle_orgs_are_forgotten(queue, monkeypatch):
    monkeypatch.setattr(ready, "ORGS", 4)
    queue._index.ready._sweep_orgs_at = 4
    for n in range(30):
        await queue.cancel_job(await queue.submit(spec(org_id=f"o{n}")))
    assert len(queue._index.ready.orgs) < 15


async def test_key_whose_job_is_kept_no_more_is_free(queue, monkeypatch):
    monkeypatch.setattr("zbrain_nb.queue.index.RECENT", 0)
    first = await queue.submit(spec(idempotency_key="k"))
    await queue.cancel_job(first)
    await queue.storage.write(lambda database: database._connection.execute("DELETE FROM jobs_1"))
    assert await asyncio.wait_for(queue.submit(spec(idempotency_key="k")), 5) != first


async def test_window_whose_filling_meets_a_defect_is_filled_later(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(ready, "WINDOW", 4)
    monkeypatch.setattr(ready, "SMALLEST_WINDOW", 2)
    monkeypatch.setattr("zbrain_nb.queue.refill.RETRY_SECS", 0.01)
    page, failures = waiting.page, []

    def fail_once(*args):
        if not failures:
            failures.append(1)
            raise ValueError("odd row")
        return page(*args)

    fail_once.__name__ = "page"
    monkeypatch.setattr(waiting, "page", fail_once)
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada") as queue:
        ids = await queue.submit_many([spec() for _ in range(20)])
        hand = await Hand(queue).register()
        found = [job.id for _ in range(20) for job in await hand.lease(wait_secs=5)]
        assert (found, failures) == (ids, [1])


async def test_folds_at_once_do_not_write_an_older_state_over_a_newer_one(queue, monkeypatch):
    hand = await Hand(queue).register()
    job = await hand.run()
    write, held = Folder._write, []

    async def hold_first(self, chunk):
        if not held:
            held.append(asyncio.Event())
            await held[0].wait()
        return await write(self, chunk)

    monkeypatch.setattr(Folder, "_write", hold_first)
    older = asyncio.ensure_future(queue.fold())
    await turns()
    await hand.send(JobCompleted(job.id, attempt=1))
    newer = asyncio.ensure_future(queue.fold())
    await asyncio.wait({newer}, timeout=0.3)  # it would come first if it did not have to wait
    held[0].set()
    await asyncio.gather(older, newer)
    states = await queue.storage.read(lambda cursor: cursor.execute("SELECT state FROM jobs").fetchall())
    assert states == [(JobState.SUCCEEDED,)]


async def test_batch_that_breaks_in_the_middle_of_its_transaction_leaves_none_open(queue, monkeypatch):
    insert, failures = Database._insert, []

    def fail_once(self, layout, rows):
        if layout.table.startswith("transitions") and not failures:
            failures.append(1)
            raise MemoryError
        return insert(self, layout, rows)

    monkeypatch.setattr(Database, "_insert", fail_once)
    job_id = await queue.submit(TRUE)
    results = await asyncio.gather(queue.cancel_job(job_id), queue.submit(TRUE), return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)
    kept = await queue.submit(TRUE)
    stored = await queue.storage.read(lambda cursor: cursor.execute("SELECT id::VARCHAR FROM jobs").fetchall())
    assert sorted(stored) == sorted([(job_id,), (kept,)])


@pytest.mark.parametrize("is_full", [False, True])
async def test_ends_that_a_killed_host_had_not_folded_are_folded_in_slices_at_the_next_start(
    tmp_path, monkeypatch, is_full
):
    monkeypatch.setattr(waiting, "SLICE_ROWS", 3)
    queue = JobQueue(Storage(tmp_path / "data"), tmp_path / "blobs")
    async with queue:
        parent, other = await queue.submit_many([JobSpec(cmd=["true"]), JobSpec(cmd=["true"])])
        children = await queue.submit_many([JobSpec(cmd=["true"], after=[parent]) for _ in range(10)])
        waits = await queue.submit(JobSpec(cmd=["true"], after=[other]))
        await queue.cancel_job(parent)
        queue._index.unfolded.clear()  # as if it were killed before
    fold, folds = Database.fold, []

    def note(database, rows):
        folds.append(len(rows))
        if is_full:
            raise duckdb.IOException("No space left on device")
        return fold(database, rows)

    monkeypatch.setattr(Database, "fold", note)
    async with queue:
        assert sum(folds) == 11
        assert max(folds) <= 3
        assert len(queue._index.unfolded) == (11 if is_full else 0)
        assert [job.state for job in await queue.get_many(children)] == [JobState.FAILED] * 10
        assert len(await queue.list(state="failed")) == 10
        assert (await queue.get(waits)).state is JobState.PENDING
        assert queue.active_jobs() == 2
        folded_seq = int(await queue.storage.read(waiting.meta, waiting.FOLDED_SEQ) or 0)
        assert (folded_seq == queue.storage.last_seq) is not is_full


def killed_copy(queue, to):
    """Copy the database as a kill at this moment leaves it; nothing is written meanwhile."""

    def copy(_):
        shutil.copytree(queue.storage.path.parent, to)

    return queue.storage.write(copy)


async def stand(queue):
    """Return where each job stands, by its listed row and as it is read alone."""
    jobs = [await queue.get(job.id) for job in await queue.list(limit=100)]
    rows = [[(job.id, job.state, job.attempt, job.event_seq) for job in some] for some in (jobs, await queue.list())]
    assert rows[0] == rows[1]
    return rows[0]


async def fail_one_and_fold(queue):
    job = await queue.acquire_lease("w")
    await queue.handle_worker_event(JobFailed(job.id, attempt=1, exit_code=3, reason="It could not be done."))
    await queue.fold()
    return job.id


async def folded_around_a_checkpoint(queue, monkeypatch):
    """Let a job fail before a checkpoint, and another that waited then behind it and a submit; return the other."""
    await queue.submit_many([TRUE] * 4)
    await fail_one_and_fold(queue)
    with monkeypatch.context() as patch:
        patch.setattr(database, "CHECKPOINT_BYTES", 0)
        await queue.storage.write(lambda database: None)
        await queue.storage.write(lambda database: None)  # runs after the checkpoint behind the task before
    await queue.submit(TRUE)
    return await fail_one_and_fold(queue)


async def test_end_that_is_folded_after_a_checkpoint_outlives_a_kill(tmp_path, monkeypatch):
    """DuckDB may lose text that an update set, but not the number that says the job was folded."""
    async with JobQueue(Storage(tmp_path / "data"), tmp_path / "blobs") as queue:
        ended = await folded_around_a_checkpoint(queue, monkeypatch)
        before = await stand(queue)
        await killed_copy(queue, tmp_path / "killed")
    async with JobQueue(Storage(tmp_path / "killed"), tmp_path / "blobs") as queue:
        assert await stand(queue) == before
        told = "SELECT worker_id, reason FROM jobs WHERE id = ?::UUID"
        (row,) = await queue.storage.read(lambda cursor: cursor.execute(told, [ended]).fetchall())
        assert row == ("w", "It could not be done.")


async def test_ends_that_version_8_folded_and_half_lost_in_a_kill_are_folded_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "SCHEMA_VERSION", 8)
        patch.setitem(schema.COLUMNS, "jobs", schema.COLUMNS["jobs"].replace(" USING COMPRESSION zstd", ""))
        async with JobQueue(Storage(tmp_path / "data"), tmp_path / "blobs") as queue:
            ended = await folded_around_a_checkpoint(queue, monkeypatch)
            before = await stand(queue)
            await killed_copy(queue, tmp_path / "killed")
        with duckdb.connect(str(tmp_path / "killed" / "zbrain.duckdb")) as connection:
            lost = "UPDATE jobs_1 SET fields = NULL, reason = NULL, worker_id = NULL WHERE id = ?::UUID"
            connection.execute(lost, [ended])  # as DuckDB 2.0 does here by itself
    for _ in range(2):
        async with JobQueue(Storage(tmp_path / "killed"), tmp_path / "blobs") as queue:
            assert await stand(queue) == before
            await queue.submit(TRUE)
            before = await stand(queue)
