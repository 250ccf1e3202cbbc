"""A disk that is really full: a small tmpfs. Nothing acknowledged is lost, running jobs end, new ones are refused."""

import asyncio
import contextlib
import os
import subprocess
import time

import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import DiskFloor, Unavailable
from zbrain_nb.model.events import JobCompleted, JobLogged
from zbrain_nb.store import artifacts, database, room
from zbrain_nb.store.artifacts import ArtifactStore

pytestmark = pytest.mark.anyio
BIG = JobSpec(cmd=["true"], input="x" * 50_000)
RECOVERY_SECS = 2.0


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root: run `sudo -E env PATH=$PATH python -m pytest tests/chaos`")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk, leave):
    """Fill the disk but for so many bytes."""
    found = os.statvfs(disk)
    with (disk / "filler").open("ab") as file:
        while (more := found.f_bavail * found.f_frsize - leave) > 0:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.seek(0, 2), max(4096, more // 4096 * 4096))
            found = os.statvfs(disk)
            if found.f_bavail * found.f_frsize <= max(leave, 4096):
                break


def give_back(disk, size):
    """Take so many bytes from what fills the disk."""
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - size)


def free(disk):
    (disk / "filler").unlink()


async def open_queue(disk):
    storage = Storage(disk / "data")
    queue = JobQueue(storage, ArtifactStore(disk / "data" / "artifacts", storage.room), owner="ada")
    await queue.open()
    return queue


async def lines(hand, job, first, count=100):
    events = [JobLogged(job.id, [("stdout", 1.0, f"line {n}")], attempt=1) for n in range(first, first + count)]
    results = await hand.send(*events)
    assert [result.status for result in results] == ["ok"]


async def submit_until_refused(queue, spec=BIG):
    accepted = []
    while True:
        try:
            accepted.append(await queue.submit(spec))
        except DiskFloor as error:
            assert error.status == 507
            return accepted


async def recovered(queue):
    """Submit until it goes through; return the job and the seconds it took."""
    begin = time.monotonic()
    while True:
        try:
            return await queue.submit(TRUE), time.monotonic() - begin
        except (DiskFloor, Unavailable):
            assert time.monotonic() - begin < 30
            await asyncio.sleep(0.02)  # space on a disk has no event


async def check_whole(queue, disk, accepted, job, count):
    """After a restart: every job once, the log without gap or repeat."""
    await queue.close()
    async with await open_queue(disk) as again:
        assert {found.id for found in await again.list(limit=10_000)} == set(accepted)
        assert [e.line for e in await again.get_logs(job.id, limit=10_000)] == [f"line {n}" for n in range(count)]
        assert (await again.get(job.id)).state is JobState.SUCCEEDED
    assert not list((disk / "data").glob("*unreadable*"))


async def test_submits_are_refused_before_the_disk_is_full_and_running_jobs_go_on(disk, caplog):
    queue = await open_queue(disk)
    hand = await Hand(queue).register()
    job = await hand.run()
    assert (disk / "data" / "zbrain.ballast").stat().st_size > 3_000_000
    fill(disk, leave=8_000_000)
    accepted = [job.id, *await submit_until_refused(queue)]
    assert len(accepted) > 10
    assert "The store cannot write" not in caplog.text  # the floor was there first
    with pytest.raises(DiskFloor):
        queue.artifacts.open_upload(size_bytes=artifacts.SMALL_BYTES + 1)
    with queue.artifacts.open_upload(size_bytes=10) as upload:
        upload.write(b"a result")
        upload.commit()
    await lines(hand, job, 0)
    fill(disk, leave=0)
    await asyncio.sleep(room.LOOK_SECS)  # the look at the disk is taken now and then
    await lines(hand, job, 100, 2_000)
    assert not (disk / "data" / "zbrain.ballast").exists()
    with pytest.raises(DiskFloor):
        await queue.submit(TRUE)
    assert [r.status for r in await hand.send(JobCompleted(job.id, attempt=1))] == ["ok"]
    free(disk)
    job_id, secs = await recovered(queue)
    assert secs < RECOVERY_SECS
    assert (disk / "data" / "zbrain.ballast").exists()
    await check_whole(queue, disk, [*accepted, job_id], job, 2_100)


async def test_disk_that_fills_up_between_two_looks_fails_one_batch_of_submits_and_no_event(disk, monkeypatch, caplog):
    monkeypatch.setattr(room, "LOOK_SECS", 1e6)
    queue = await open_queue(disk)
    hand = await Hand(queue).register()
    job = await hand.run()
    accepted = [job.id, *await queue.submit_many([BIG] * 20)]
    fill(disk, leave=0)
    results = await asyncio.gather(
        *(queue.submit(BIG) for _ in range(20)), lines(hand, job, 0, 500), return_exceptions=True
    )
    assert {type(result) for result in results[:20]} == {DiskFloor}
    assert results[20] is None
    assert "ballast was given away" in caplog.text
    assert [type(r) for r in await asyncio.gather(queue.submit(TRUE), return_exceptions=True)] == [DiskFloor]
    await lines(hand, job, 500, 500)
    assert [r.status for r in await hand.send(JobCompleted(job.id, attempt=1))] == ["ok"]
    free(disk)
    monkeypatch.setattr(room, "LOOK_SECS", 0.02)
    queue.storage.room.look_now()
    job_id, secs = await recovered(queue)
    assert secs < RECOVERY_SECS
    await check_whole(queue, disk, [*accepted, job_id], job, 1_000)


async def test_disk_that_is_full_in_a_checkpoint_loses_nothing_and_is_used_again_without_a_restart(
    disk, monkeypatch, caplog
):
    queue = await open_queue(disk)
    hand = await Hand(queue).register()
    job = await hand.run()
    accepted = [job.id]
    for _ in range(40):
        accepted += await queue.submit_many([JobSpec(cmd=["true"], input=os.urandom(20_000).hex()) for _ in range(10)])
    monkeypatch.setattr(room, "LOOK_SECS", 1e6)
    monkeypatch.setattr(room.Room, "release", lambda self: False)
    fill(disk, leave=100_000)
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 0)
    monkeypatch.setattr(database, "CHECKPOINT_ROOM", 0)
    monkeypatch.setattr(database, "CHECKPOINT_PAUSE_SECS", 0.0)
    monkeypatch.setattr(database, "REVIVAL_PAUSE_SECS", 0.0)
    with contextlib.suppress(DiskFloor, Unavailable):
        accepted.append(await queue.submit(TRUE))
    await queue.storage.write(lambda db: None)
    assert "DuckDB had given it up" in caplog.text or "A checkpoint has to wait" in caplog.text
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 1 << 30)
    await queue.storage.write(lambda db: None)  # behind a checkpoint that is under way
    give_back(disk, 1 << 20)  # the last one took all there was
    await lines(hand, job, 0, 20)
    free(disk)
    monkeypatch.setattr(room, "LOOK_SECS", 0.02)
    queue.storage.room.look_now()
    job_id, secs = await recovered(queue)
    assert secs < RECOVERY_SECS
    assert [r.status for r in await hand.send(JobCompleted(job.id, attempt=1))] == ["ok"]
    await check_whole(queue, disk, [*accepted, job_id], job, 20)
