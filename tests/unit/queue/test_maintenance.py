"""What passes with time: retention, the collection of blobs against submits under way, and backups."""

import asyncio
import hashlib
import time

import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import Job, JobArtifact, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import Conflict, DiskFloor, MissingBlobs, ZBrainError
from zbrain_nb.model.events import JobCompleted, JobLogged
from zbrain_nb.model.job import Variable
from zbrain_nb.model.settings import Lifetimes
from zbrain_nb.queue import maintenance as module
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.store import backup
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.segments import read_segments

pytestmark = pytest.mark.anyio
KEEP = Lifetimes(jobs_secs=1000, events_secs=500, logs_secs=200, blobs_secs=100, keys_secs=300)
DATA = b"weights" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
async def queue(tmp_path, clock):
    blobs = ArtifactStore(tmp_path / "blobs", clock=clock.time)
    queue = JobQueue(Storage(tmp_path / "data"), blobs, clock=clock, owner="ada", lease_ttl_secs=1e6)
    async with queue:
        yield queue


@pytest.fixture
def maintenance(queue, clock, monkeypatch):
    clock.now = time.time()  # segments are opened by the machine's clock
    return Maintenance.of(queue, KEEP)


async def run_one(hand, spec=TRUE, lines=2, **ending):
    job = await hand.run(spec)
    await hand.send(JobLogged(job.id, attempt=job.attempt, lines=[("stdout", 1.0, f"line {n}") for n in range(lines)]))
    (result,) = await hand.send(JobCompleted(job.id, attempt=job.attempt, **ending))
    assert result.status == "ok", result
    return job.id


async def tables(queue):
    return [s.table for s in await queue.storage.read(read_segments)]


async def test_rows_go_when_their_time_is_over_each_kind_by_its_own(queue, maintenance, clock):
    hand = await Hand(queue).register()
    job_id = await run_one(hand)
    clock.advance(100)
    assert await maintenance.retire_rows() == []
    assert "jobs_2" in await tables(queue)
    clock.advance(201)
    assert [s.table for s in await maintenance.retire_rows()] == ["logs_1"]
    assert await queue.get_logs(job_id) == []
    assert (await queue.get(job_id)).state is JobState.SUCCEEDED
    clock.advance(300)
    assert [s.table for s in await maintenance.retire_rows()] == ["transitions_1"]
    clock.advance(500)
    assert [s.table for s in await maintenance.retire_rows()] == ["jobs_1"]
    assert await queue.storage.get_job(job_id) is None
    assert await maintenance.retire_rows() == []


async def test_living_job_outlives_retention_and_goes_on_exactly_once_after_a_restart(
    queue, maintenance, clock, tmp_path
):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "first")], after=0, seq=7))
    waiting = await queue.submit(JobSpec(cmd=["true"], after=[job.id]))
    for _ in range(4):
        clock.advance(1100)
        await maintenance.retire_rows()
    assert not {"jobs_1", "transitions_1", "logs_1"} & set(await tables(queue))
    await queue.close()
    await queue.open()
    again = await Hand(queue).register()
    results = await again.send(
        JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "first")], after=0, seq=7),
        JobLogged(job.id, attempt=1, lines=[("stdout", 2.0, "second")], after=7, seq=8),
        JobCompleted(job.id, attempt=1, after=8, seq=9),
    )
    assert [(r.status, r.high) for r in results] == [("ok", 9)]
    assert [(e.seq, e.line) for e in await queue.get_logs(job.id)] == [(0, "first"), (1, "second")]
    assert [found.id for found in await again.lease()] == [waiting]


async def test_events_before_the_oldest_are_known_to_be_gone(queue, maintenance, clock):
    hand = await Hand(queue).register()
    await run_one(hand)
    last = queue.event_seq
    assert queue.storage.oldest_event_seq == 1
    for _ in range(2):
        clock.advance(1001)
        await maintenance.retire_rows()
    assert queue.storage.oldest_event_seq > last


async def test_key_is_free_again_when_its_time_is_over_in_memory_and_in_the_store(queue, maintenance, clock):
    spec = JobSpec(cmd=["true"], idempotency_key="k")
    first = await queue.submit(Job(spec, owner="ada", org_id="default"))
    assert await queue.submit(spec) == first
    clock.advance(250)
    await maintenance.retire_rows()
    assert await queue.submit(spec) == first
    clock.advance(100)
    await maintenance.retire_rows()
    second = await queue.submit(spec)
    assert second != first
    await queue.close()
    clock.advance(-350)  # jobs are made by the machine's clock
    await maintenance.retire_rows()
    assert await queue.submit(spec) == second


async def test_blob_that_nobody_names_goes_when_its_time_is_over(queue, maintenance, clock):
    queue.artifacts.put_bytes(DATA)
    clock.advance(99)
    assert await maintenance.collect_blobs() == 0
    clock.advance(2)
    assert await maintenance.collect_blobs() == 1
    assert not queue.artifacts.has(SHA)


@pytest.mark.parametrize("naming", ["input", "function", "artifact", "result", "variable"])
@pytest.mark.parametrize("folded", [True, False])
async def test_blob_that_a_kept_job_names_stays_until_the_job_goes(queue, maintenance, clock, naming, folded):
    hand = await Hand(queue).register()
    queue.artifacts.put_bytes(DATA)
    file = JobArtifact("model.pkl", SHA, len(DATA))
    value = Variable("value", "int", "1", SHA, len(DATA))
    specs = {
        "input": JobSpec(code="x", inputs={"x": SHA}),
        "function": JobSpec(function=SHA),
    }
    endings = {"artifact": {"artifacts": [file]}, "result": {"result": file}, "variable": {"variables": [value]}}
    await run_one(hand, specs.get(naming, TRUE), **endings.get(naming, {}))
    if folded:
        await queue.fold()
    clock.advance(101)
    assert await maintenance.collect_blobs() == 0
    await maintenance.retire_rows()
    clock.advance(501)
    assert "transitions_1" in [s.table for s in await maintenance.retire_rows()]
    assert await maintenance.collect_blobs() == 0
    clock.advance(500)
    assert "jobs_1" in [s.table for s in await maintenance.retire_rows()]
    assert await maintenance.collect_blobs() == 1


async def test_blob_found_by_a_submit_under_way_is_not_collected(queue, maintenance, clock, monkeypatch):
    """The worst order: looked up by a submit, found old and unnamed, the submit commits, the blob would be removed."""
    queue.artifacts.put_bytes(DATA)
    clock.advance(101)
    submitted = []
    remove_old = queue.artifacts.remove_old
    loop = asyncio.get_running_loop()

    def remove_after_a_submit(names, before):
        names = list(names)
        assert names == [SHA]  # it was old, and no job named it
        submit = queue.submit(JobSpec(code="x", inputs={"x": SHA}))
        submitted.append(asyncio.run_coroutine_threadsafe(submit, loop).result(10))
        return remove_old(names, before)

    monkeypatch.setattr(queue.artifacts, "remove_old", remove_after_a_submit)
    assert await maintenance.collect_blobs() == 0
    assert queue.artifacts.read(SHA) == DATA
    assert (await queue.get(submitted[0])).spec.inputs == {"x": SHA}


async def test_blob_collected_before_a_submit_looks_is_asked_for(queue, maintenance, clock):
    queue.artifacts.put_bytes(DATA)
    clock.advance(101)
    assert await maintenance.collect_blobs() == 1
    with pytest.raises(MissingBlobs):
        await queue.submit(JobSpec(code="x", inputs={"x": SHA}))
    queue.artifacts.put_bytes(DATA)
    await queue.submit(JobSpec(code="x", inputs={"x": SHA}))


async def test_blob_uploaded_again_while_it_is_collected_stays(queue, maintenance, clock, monkeypatch):
    queue.artifacts.put_bytes(DATA)
    clock.advance(101)
    read = queue.storage.read

    async def read_and_upload(query, *args):
        found = await read(query, *args)
        queue.artifacts.put_bytes(DATA)
        return found

    monkeypatch.setattr(queue.storage, "read", read_and_upload)
    assert await maintenance.collect_blobs() == 0
    assert queue.artifacts.read(SHA) == DATA


async def test_blobs_are_kept_while_a_set_aside_database_may_name_them(queue, maintenance, clock):
    queue.artifacts.put_bytes(DATA)
    aside = queue.storage.path.with_name("zbrain.duckdb.unreadable-20260101T000000.000000Z")
    aside.write_bytes(b"")
    clock.advance(101)
    assert await maintenance.collect_blobs() == 0
    aside.unlink()
    assert await maintenance.collect_blobs() == 1


async def test_upload_left_behind_by_a_crash_is_removed_and_one_under_way_is_not(queue, maintenance, clock):
    upload = queue.artifacts.open_upload()
    upload.write(DATA)
    upload._file.flush()
    assert await maintenance.collect_blobs() == 0
    clock.advance(module.ABANDONED_SECS + 1)
    assert await maintenance.collect_blobs() == 1
    upload.abort()


async def test_maintenance_in_the_background_says_what_fails_and_goes_on(queue, maintenance, monkeypatch, caplog):
    rounds = asyncio.Queue()
    monkeypatch.setattr(module, "ROWS_PAUSE_SECS", 0.0)

    async def retire():
        rounds.put_nowait(None)
        raise ZBrainError("no luck")

    monkeypatch.setattr(maintenance, "retire_rows", retire)
    maintenance.start()
    maintenance.start()
    for _ in range(2):
        await asyncio.wait_for(rounds.get(), 10)
    await maintenance.stop()
    await maintenance.stop()
    assert "What is old could not be removed" in caplog.text


async def test_backup_made_while_submits_run_has_all_that_was_acknowledged(queue, maintenance, tmp_path):
    hand = await Hand(queue).register()
    queue.artifacts.put_bytes(DATA)
    ended = await run_one(hand, JobSpec(code="x", inputs={"x": SHA}), lines=50)
    running = await hand.run()
    await hand.send(JobLogged(running.id, attempt=1, lines=[("stdout", 1.0, "here")], after=0, seq=4))
    acknowledged = [ended, running.id]
    done = asyncio.Event()

    async def submit():
        while not done.is_set():
            acknowledged.append(await queue.submit(TRUE))

    submitting = asyncio.gather(*(submit() for _ in range(5)))
    while len(acknowledged) < 100:
        await asyncio.sleep(0)
    before = list(acknowledged)
    await maintenance.back_up(tmp_path / "copies" / "it's one")
    done.set()
    await submitting
    assert len(acknowledged) > len(before)
    copy = tmp_path / "copies" / "it's one"
    assert sorted(p.name for p in (tmp_path / "copies").iterdir()) == ["it's one"]
    async with JobQueue(Storage(copy), copy / "artifacts", owner="ada") as restored:
        found = await restored.storage.get_jobs(before)
        assert found.keys() == set(before)
        assert found[ended].state is JobState.SUCCEEDED
        assert [e.line for e in await restored.get_logs(ended)] == [f"line {n}" for n in range(50)]
        assert restored.artifacts.read(SHA) == DATA
        again = await Hand(restored).register()
        (result,) = await again.send(JobCompleted(running.id, attempt=1, after=4, seq=5))
        assert (result.status, result.high) == ("ok", 5)
        indexes = "SELECT count(*) FROM duckdb_indexes() WHERE is_unique"
        assert await restored.storage.read(lambda cursor: cursor.execute(indexes).fetchone()) == (1,)
        with pytest.raises(Conflict):
            await restored.submit(Job(TRUE, id=before[-1], owner="ada", org_id="default"))
        assert await restored.submit(TRUE)


async def test_backup_of_a_job_that_ends_between_two_segments_shows_it_whole(queue, maintenance, tmp_path, monkeypatch):
    hand = await Hand(queue).register()
    job = await hand.run()
    copy_next = backup.Backup.copy_next
    loop = asyncio.get_running_loop()
    copied = []

    def copy_and_end(self, cursor):
        more = copy_next(self, cursor)
        if not copied:  # the segment with the job is copied, as running
            ending = hand.send(
                JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "late")]),
                JobCompleted(job.id, attempt=1, exit_code=0),
            )
            asyncio.run_coroutine_threadsafe(ending, loop).result(10)
            asyncio.run_coroutine_threadsafe(queue.fold(), loop).result(10)
        copied.append(more)
        return more

    monkeypatch.setattr(backup.Backup, "copy_next", copy_and_end)
    await maintenance.back_up(tmp_path / "copy")
    assert len(copied) > 2
    async with JobQueue(Storage(tmp_path / "copy"), tmp_path / "copy" / "artifacts") as restored:
        assert (await restored.get(job.id)).state is JobState.SUCCEEDED
        assert [e.line for e in await restored.get_logs(job.id)] == ["late"]
        assert restored.active_jobs() == 0


async def test_backup_to_what_exists_or_has_no_room_leaves_nothing(queue, maintenance, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(Conflict):
        await maintenance.back_up(tmp_path / "full")
    monkeypatch.setattr(backup, "MARGIN_BYTES", 1 << 60)
    with pytest.raises(DiskFloor):
        await maintenance.back_up(tmp_path / "copies" / "one")
    assert list((tmp_path / "copies").iterdir()) == []


async def test_backup_that_fails_midway_leaves_nothing_and_can_be_tried_again(
    queue, maintenance, tmp_path, monkeypatch
):
    await queue.submit(TRUE)
    copy_blobs = module.copy_blobs

    def fail(*_):
        raise ZBrainError("no luck")

    for name, broken in (("copy_blobs", fail), ("read_segments", lambda cursor: cursor.execute("SELECT nothing"))):
        with monkeypatch.context() as patch:
            patch.setattr(module if name == "copy_blobs" else backup, name, broken)
            with pytest.raises(ZBrainError):
                await maintenance.back_up(tmp_path / "copies" / "one")
        assert list((tmp_path / "copies").iterdir()) == []
    assert module.copy_blobs is copy_blobs
    await maintenance.back_up(tmp_path / "copies" / "one")
    assert queue.active_jobs() == 1


async def test_backup_under_way_is_given_up_when_the_host_ends(queue, maintenance, tmp_path, monkeypatch):
    await queue.submit(TRUE)
    begun, loop = asyncio.Event(), asyncio.get_running_loop()
    copy_next = backup.Backup.copy_next

    def copy_for_ever(self, cursor):
        copy_next(self, cursor)
        loop.call_soon_threadsafe(begun.set)
        return True

    monkeypatch.setattr(backup.Backup, "copy_next", copy_for_ever)
    under_way = asyncio.ensure_future(maintenance.back_up(tmp_path / "copies" / "one"))
    await begun.wait()
    monkeypatch.undo()
    await maintenance.stop()
    with pytest.raises(ZBrainError):
        await under_way
    assert list((tmp_path / "copies").iterdir()) == []
    await maintenance.back_up(tmp_path / "copies" / "one")
