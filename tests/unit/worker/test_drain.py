"""How a worker ends: by draining, by ending what runs, by leaving it; and what it says of itself meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import pytest

from tests.unit.worker.conftest import Station, eventually, pids_with
from tests.unit.worker.memory_link import MemoryLink
from zbrain_nb.model.culling import Culling, write_culling
from zbrain_nb.model.errors import Unauthorized
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed
from zbrain_nb.model.protocol import Registered, WorkerInfo
from zbrain_nb.worker import agent as agents
from zbrain_nb.worker import health, runs
from zbrain_nb.worker.agent import WorkerAgent

pytestmark = pytest.mark.anyio
#: Runs until a file appears; on SIGINT and SIGTERM it goes on.
STUBBORN = "trap : INT TERM; echo up; while [ ! -e {} ]; do sleep 0.02; done; echo done"


def agent(station: Station) -> WorkerAgent:
    assert station.agent is not None
    return station.agent


async def test_draining_worker_leases_no_more_lets_jobs_end_and_ends_itself(station: Station, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = station.submit("sh", "-c", STUBBORN.format(go), name="train")
    await station.until(lambda: job.lines() == ["up"])
    agent(station).begin_drain()
    await eventually(lambda: station.queue.beats[-1].state == "draining")
    later = station.submit("echo", "too late")
    beats = len(station.queue.beats)
    await eventually(lambda: len(station.queue.beats) >= beats + 2)  # it lives on, and says how
    assert (station.queue.beats[-1].state, station.queue.beats[-1].free) == ("draining", 0)
    assert not later.leased
    assert any(f"1 job still runs ({job.job.id[:18]} train)" in text for text in station.said), station.said
    go.touch()
    await station.wait_stopped()
    assert isinstance(job.ending, JobCompleted)
    assert job.lines() == ["up", "done"]
    assert not later.leased
    assert station.queue.beats[-1].state == "stopped"


async def test_idle_worker_ends_as_soon_as_it_is_to_drain(station: Station) -> None:
    await station.run("true")
    agent(station).begin_drain()
    await station.wait_stopped()


async def test_job_leased_while_the_drain_began_goes_back_unstarted(station: Station) -> None:
    await eventually(lambda: agent(station)._open_lease is not None)
    agent(station).begin_drain()
    job = station.submit("echo", "never")  # the request that is open is answered with it, before it is broken off
    await station.until(lambda: job.ended)
    await station.wait_stopped()
    assert (job.ending.lost, job.ending.unstarted, job.ending.returned) == (True, True, True)


async def test_drain_takes_no_longer_than_it_may_then_jobs_end_by_force_and_are_lost(
    idle_station: Station, tmp_path: Path
) -> None:
    await idle_station.start(drain_secs=0.3)
    job = idle_station.submit("sh", "-c", STUBBORN.format(tmp_path / "never"), limits={"grace_secs": 0.5})
    await idle_station.until(lambda: job.lines() == ["up"])
    agent(idle_station).begin_drain()
    await idle_station.wait_stopped()
    assert isinstance(job.ending, JobFailed)
    assert (job.ending.lost, job.ending.unstarted) == (True, False)
    assert job.ending.reason == "Its worker was told to stop, and ended the job."
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")


async def test_second_signal_leaves_jobs_to_the_next_worker_on_the_folder(station: Station, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job = station.submit("sh", "-c", STUBBORN.format(go))
    await station.until(lambda: job.lines() == ["up"])
    agent(station).begin_drain()
    agent(station).begin_drain()
    await station.wait_stopped()
    assert not job.ended
    assert any(text.startswith("left to the next worker here") for text in station.said)
    await station.start()
    go.touch()
    await station.until(lambda: job.ended)
    assert job.lines() == ["up", "done"]


async def test_second_signal_ends_the_jobs_of_a_worker_elsewhere_and_a_third_leaves_at_once(
    idle_station: Station, tmp_path: Path
) -> None:
    idle_station.queue.is_fenced = True
    idle_station.queue.lease_ttl_secs = 60
    await idle_station.start()
    job = idle_station.submit("sh", "-c", STUBBORN.format(tmp_path / "never"), limits={"grace_secs": 0.4})
    await idle_station.until(lambda: job.lines() == ["up"])
    agent(idle_station).begin_drain()
    agent(idle_station).begin_drain()
    await idle_station.wait_stopped()
    assert job.ending.lost
    await idle_station.start()
    other = idle_station.submit("sh", "-c", STUBBORN.format(tmp_path / "never"), limits={"grace_secs": 600})
    await idle_station.until(lambda: other.lines() == ["up"])
    for _ in range(3):
        agent(idle_station).begin_drain()
    await idle_station.wait_stopped()
    assert not other.ended


async def test_cancel_reaches_a_job_of_a_draining_worker(station: Station, tmp_path: Path) -> None:
    job = station.submit("sh", "-c", STUBBORN.format(tmp_path / "never"), limits={"grace_secs": 0.3})
    await station.until(lambda: job.lines() == ["up"])
    agent(station).begin_drain()
    station.queue.cancel(job)
    await station.wait_stopped()
    assert isinstance(job.ending, JobCanceled)


async def test_draining_worker_without_its_queue_waits_for_it_and_tells_it_then(station: Station) -> None:
    job = station.submit("sh", "-c", "echo up; sleep 0.3; echo done")
    await station.until(lambda: job.lines() == ["up"])
    station.queue.away = True
    agent(station).begin_drain()
    await eventually(lambda: "draining: all jobs have ended; the queue is still to be told" in station.said)
    station.queue.away = False
    await station.wait_stopped()
    assert job.lines() == ["up", "done"]


async def test_draining_worker_killed_its_jobs_go_to_the_next(station: Station, tmp_path: Path) -> None:
    """What is left of it: its supervisors, and what it noted down. A stop that it had begun stays a stop."""
    job = station.submit("sh", "-c", STUBBORN.format(tmp_path / "never"), limits={"grace_secs": 0.5})
    await station.until(lambda: job.lines() == ["up"])
    begin = station.begin(job)
    assert begin is not None
    os.kill(begin.supervisor_pid, signal.SIGUSR2)
    await station.stop()
    await station.start()
    await station.until(lambda: job.ended)
    assert (job.ending.lost, job.ending.reason) == (True, "Its worker was told to stop, and ended the job.")


async def test_worker_on_a_full_disk_takes_no_jobs_until_there_is_room(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_SECS", 0.05)
    monkeypatch.setattr(health, "LOW_DISK_BYTES", 1 << 62)
    await eventually(lambda: station.queue.beats and station.queue.beats[-1].health.problem)
    assert "are free on the disk of" in station.queue.beats[-1].health.problem
    assert station.queue.beats[-1].free == 0
    job = station.submit("true")
    beats = len(station.queue.beats)
    await eventually(lambda: len(station.queue.beats) >= beats + 2)
    assert not job.leased
    monkeypatch.setattr(health, "LOW_DISK_BYTES", 0)
    await station.until(lambda: job.ended)


async def test_disk_that_is_full_at_a_lease_costs_neither_the_worker_nor_the_jobs(
    station: Station, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running = station.submit("sh", "-c", STUBBORN.format(tmp_path / "go"))
    await station.until(lambda: running.lines() == ["up"])

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(runs, "write_private", full)
    refused = station.submit("true")
    await station.until(lambda: refused.ended)
    assert (refused.ending.lost, refused.ending.unstarted, refused.ending.returned) == (True, True, True)
    monkeypatch.setattr(agents, "write_private", full)
    station.submit("true")  # it answers the open request; the next cannot be noted down
    await eventually(lambda: "could not write to its folder" in agent(station)._runs.last_error)
    monkeypatch.undo()
    (tmp_path / "go").touch()
    await station.until(lambda: running.ended)
    assert running.lines() == ["up", "done"]
    assert isinstance((await station.run("true")).ending, JobCompleted)
    beats = len(station.queue.beats)
    await eventually(lambda: len(station.queue.beats) >= beats + 2)
    health_said = station.queue.beats[-1].health
    assert health_said is not None
    assert "No space left on device" in health_said.last_error


async def test_worker_that_the_queue_does_not_want_ends_and_says_why(
    idle_station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def register(self: MemoryLink, info: WorkerInfo) -> Registered:
        raise Unauthorized("This request carries no valid token.")

    monkeypatch.setattr(MemoryLink, "register", register)
    await idle_station.start()
    with pytest.raises(Unauthorized):
        await idle_station.wait_stopped()
    idle_station.agent = None


async def test_heartbeat_tells_how_the_worker_is(station: Station, tmp_path: Path) -> None:
    job = station.submit("sh", "-c", STUBBORN.format(tmp_path / "go"), resources={"cpus": 1, "memory_mb": 100})
    await station.until(lambda: job.lines() == ["up"])
    beats = len(station.queue.beats)
    await eventually(lambda: len(station.queue.beats) >= beats + 2)
    said = station.queue.beats[-1].health
    assert said is not None
    assert said.free is not None
    offer = agent(station)._offer
    assert (offer.memory_mb or 0) - (said.free.memory_mb or 0) == 100
    assert said.disk_free_bytes
    assert said.disk_free_bytes > 0
    assert said.load is not None
    assert said.problem == said.last_error == ""
    (tmp_path / "go").touch()
    await station.until(lambda: job.ended)
    await asyncio.sleep(0)


async def test_heartbeat_passes_on_how_long_jobs_keep_the_server_beside_the_worker(
    idle_station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LOOK_SECS", 0.05)
    await idle_station.start()
    await eventually(lambda: idle_station.queue.beats)
    assert idle_station.queue.beats[-1].health.culling is None
    said = Culling(active_at=1_000_000, cap_secs=3600)
    write_culling(agent(idle_station)._folder.root, said)
    await eventually(lambda: idle_station.queue.beats[-1].health.culling == said)
