"""What dies, and what goes on: worker, spawner, supervisor, queue."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from tests.unit.worker.conftest import Station, eventually, pids_with
from zbrain_nb.model.datadir import is_locked
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.model.protocol import Lease, LeaseRequest
from zbrain_nb.worker.agent import FolderInUse

pytestmark = pytest.mark.anyio
COUNT = "import time\nfor i in range(40): print('line', i, flush=True); time.sleep(0.02)"
COUNTED = [f"line {i}" for i in range(40)]


async def test_new_worker_delivers_the_rest_exactly_once(station: Station) -> None:
    job = station.submit(sys.executable, "-c", COUNT)
    await station.until(lambda: len(job.lines()) >= 5)
    await station.stop()
    await station.start()
    await station.until(lambda: job.ended)
    assert job.lines() == COUNTED
    assert isinstance(job.ending, JobCompleted)
    await eventually(lambda: not station.files(job))


async def test_job_that_ended_without_a_worker_is_delivered_by_the_next(station: Station) -> None:
    job = station.submit(sys.executable, "-c", COUNT, artifacts=["*"])
    await station.until(lambda: len(job.lines()) >= 1)
    await station.stop()
    spool = station.folder.spool_path(job.job.id, 1)
    await eventually(lambda: not is_locked(spool))
    await station.start()
    await station.until(lambda: job.ended)
    assert job.lines() == COUNTED


async def test_lease_that_was_not_launched_is_launched_by_the_next_worker(idle_station: Station) -> None:
    """The worker died between the lease and the launch."""
    job = idle_station.submit("echo", "ran")
    job.leased = True
    path = idle_station.folder.lease_path(job.job.id, 1)
    path.write_bytes(msgspec.json.encode(Lease(job.job)))
    await idle_station.start()
    await idle_station.until(lambda: job.ended)
    assert job.lines() == ["ran"]
    await idle_station.stop()


async def test_lease_whose_answer_never_arrived_is_asked_for_again(idle_station: Station) -> None:
    """The worker died before it read the answer; its request, repeated, gets the same lease."""
    job = idle_station.submit("echo", "ran")
    job.leased = True
    idle_station.queue.answered["r1"] = [(job.job.id, 1)]
    idle_station.folder.lease_file.write_bytes(msgspec.json.encode(LeaseRequest(request_id="r1")))
    await idle_station.start()
    await idle_station.until(lambda: job.ended)
    assert job.lines() == ["ran"]
    await idle_station.stop()


async def test_repeat_that_a_restarted_queue_answers_with_another_job_runs_it(idle_station: Station) -> None:
    gone = idle_station.submit("echo", "gone")
    gone.leased = True
    other = idle_station.submit("echo", "ran")
    idle_station.folder.lease_file.write_bytes(msgspec.json.encode(LeaseRequest(request_id="unknown")))
    await idle_station.start()
    await idle_station.until(lambda: gone.ended and other.ended)
    assert gone.ending.lost
    assert other.lines() == ["ran"]
    await idle_station.stop()


async def test_attempt_of_which_nothing_lies_here_is_told_as_lost(idle_station: Station) -> None:
    job = idle_station.submit("echo", "ran")
    job.leased = True
    job.high = 17
    await idle_station.start()
    await idle_station.until(lambda: job.ended)
    assert isinstance(job.ending, JobFailed)
    assert job.ending.lost
    await idle_station.stop()


async def test_attempt_that_the_queue_does_not_know_is_killed_and_removed(station: Station) -> None:
    job = station.submit("sleep", "1000")
    await station.until(lambda: job.high > 0)
    await station.stop()
    job.stale = True
    await station.start()
    await eventually(lambda: not station.files(job))
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")
    assert not job.ended


async def test_stale_attempt_is_killed_and_nothing_more_is_told(station: Station) -> None:
    job = station.submit("sh", "-c", "while :; do echo x; sleep 0.02; done")
    await station.until(lambda: len(job.lines()) > 2)
    job.stale = True
    await eventually(lambda: not station.files(job))
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")
    assert isinstance((await station.run("true")).ending, JobCompleted)


async def test_supervisor_and_job_killed_is_lost_at_once(station: Station) -> None:
    job = station.submit("sh", "-c", "setsid sleep 1000 & echo up; sleep 1000")
    await station.until(lambda: job.lines() == ["up"])
    begin = station.begin(job)
    assert begin is not None
    os.kill(begin.supervisor_pid, signal.SIGKILL)
    await station.until(lambda: job.ended, 5)
    assert job.ending.lost
    # the spawner above the supervisor kills what it left
    await eventually(lambda: not pids_with(f"ZBRAIN_JOB_ID={job.job.id}"))


async def test_job_that_kills_its_own_supervisor_leaves_nothing(station: Station) -> None:
    job = await station.run("sh", "-c", "setsid sleep 1000 & kill -9 $PPID; sleep 1000")
    assert job.ending.lost
    await eventually(lambda: not pids_with(f"ZBRAIN_JOB_ID={job.job.id}"))


async def test_spawner_killed_running_job_goes_on_and_next_job_works(station: Station) -> None:
    job = station.submit(sys.executable, "-c", COUNT.replace("0.02", "0.05"))
    await station.until(lambda: len(job.lines()) >= 2)
    spawner = station.spawner
    assert spawner is not None
    os.kill(spawner, signal.SIGKILL)
    other = await station.run("echo", "next")
    assert other.lines() == ["next"]
    assert not job.ended
    assert station.spawner != spawner
    await station.until(lambda: job.ended)
    assert job.lines() == COUNTED


async def test_request_lost_with_the_spawner_is_sent_again(station: Station) -> None:
    await station.run("true")
    spawner = station.spawner
    assert spawner is not None
    os.kill(spawner, signal.SIGSTOP)  # takes the request into its socket, and never out of it
    job = station.submit("echo", "ran")
    await eventually(lambda: any(name.endswith(".json") for name in station.files(job)))
    await asyncio.sleep(0.1)
    os.kill(spawner, signal.SIGKILL)
    await station.until(lambda: job.ended)
    assert job.lines() == ["ran"]


async def test_queue_away_for_long_nothing_is_lost(station: Station) -> None:
    job = station.submit(sys.executable, "-c", COUNT)
    await station.until(lambda: len(job.lines()) >= 2)
    station.queue.away = True
    station.queue.known.clear()  # another host comes back
    spool = station.folder.spool_path(job.job.id, 1)
    await eventually(lambda: not is_locked(spool))
    before = len(job.lines())
    station.queue.away = False
    await station.until(lambda: job.ended)
    assert before < 40
    assert job.lines() == COUNTED


async def test_queue_that_forgot_events_gets_them_again(station: Station) -> None:
    job = station.submit(sys.executable, "-c", COUNT)
    await station.until(lambda: len(job.lines()) >= 10)
    del job.events[3:]
    job.high = job.events[-1].seq or 0
    await station.until(lambda: job.ended)
    assert job.lines() == COUNTED


async def test_second_worker_on_the_folder_is_refused(station: Station) -> None:
    await station.run("true")
    other = Station.__new__(Station)
    other.queue, other.folder, other.said = station.queue, station.folder, []
    await other.start()
    with pytest.raises(FolderInUse, match="Another worker"):
        await other.wait_stopped()


async def test_folder_deleted_worker_ends_and_its_jobs_too(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zbrain_nb.worker.agent._FOLDER_CHECK_SECS", 0.05)
    job = station.submit("sleep", "1000")
    await station.until(lambda: job.high > 0)
    shutil.rmtree(station.folder.root)
    await station.wait_stopped()
    await eventually(lambda: not pids_with(f"ZBRAIN_JOB_ID={job.job.id}"))


async def test_spawner_ends_when_nobody_needs_it(station: Station) -> None:
    await station.run("true")
    lock = station.folder.root / "spawner.lock"
    assert is_locked(lock)
    await station.stop()
    await eventually(lambda: not is_locked(lock))


async def test_launch_sent_twice_runs_once(station: Station, tmp_path: Path) -> None:
    job = station.submit("sh", "-c", f"echo ran >> '{tmp_path}/ran'; sleep 0.3")
    await station.until(lambda: job.high > 0)
    assert station.agent is not None
    for _ in range(3):
        station.agent._launcher.send(job.job.id, 1)
    await station.until(lambda: job.ended)
    assert (tmp_path / "ran").read_text() == "ran\n"
