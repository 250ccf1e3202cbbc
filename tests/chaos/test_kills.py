"""kill -9 of everything that can be killed, while a job runs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.conftest import Ground, wait_for
from tests.jupyter import Lab
from zbrain_nb.client.connecting import connect
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import StaleAttempt
from zbrain_nb.model.events import JobLogged, LogStream
from zbrain_nb.model.job import JobState
from zbrain_nb.model.protocol import EventBatch, EventBatchAnswer

COUNT = 80
COUNTING = ["sh", "-c", f"for i in $(seq 1 {COUNT}); do echo $i; sleep 0.05; done"]
WHOLE = [str(i) for i in range(1, COUNT + 1)]


def test_host_killed_job_goes_on_and_its_log_is_whole(ground: Ground) -> None:
    job = ground.client.submit(COUNTING)
    ground.wait_for_lines(job.id, 20)
    os.kill(ground.pid("host"), signal.SIGKILL)
    ended = ground.ended(job.id)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert ground.lines(job.id) == WHOLE


def test_worker_killed_job_goes_on_and_a_new_worker_adopts_it(ground: Ground) -> None:
    job = ground.client.submit(COUNTING)
    ground.wait_for_lines(job.id, 20)
    first = ground.pid("worker")
    os.kill(first, signal.SIGKILL)
    ended = ground.ended(job.id)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert ground.lines(job.id) == WHOLE
    assert ground.pid("worker") != first


def test_worker_and_host_killed_again_and_again_lose_nothing(ground: Ground) -> None:
    job = ground.client.submit(COUNTING)
    for lines in (10, 25, 40):
        ground.wait_for_lines(job.id, lines)
        for who in ("worker", "host"):
            os.kill(ground.pid(who), signal.SIGKILL)
    ended = ground.ended(job.id)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert ground.lines(job.id) == WHOLE


def test_spawner_killed_running_job_goes_on_and_the_next_runs(ground: Ground) -> None:
    job = ground.client.submit(COUNTING)
    ground.wait_for_lines(job.id, 20)
    os.kill(ground.pid("spawner"), signal.SIGKILL)
    assert ground.client.submit(["echo", "next"]).wait(30).job.state is JobState.SUCCEEDED
    assert ground.ended(job.id).state is JobState.SUCCEEDED
    assert ground.lines(job.id) == WHOLE


def running(job_id: str) -> list[psutil.Process]:
    """Return the job's own processes."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ZBRAIN_JOB_ID") == job_id:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def test_everything_that_runs_the_job_killed_is_attempt_2_at_once(ground: Ground, tmp_path: Path) -> None:
    flag = tmp_path / "second"
    script = f"echo attempt $ZBRAIN_ATTEMPT; if [ -e '{flag}' ]; then exit 0; fi; sleep 60"
    job = ground.client.submit(["sh", "-c", script], max_retries=1)
    ground.wait_for_lines(job.id, 1)
    flag.touch()
    processes = wait_for(lambda: running(job.id), "the job's processes")
    supervisors = {p.parent() for p in processes} - set(processes)
    os.kill(ground.pid("worker"), signal.SIGKILL)
    os.kill(ground.pid("spawner"), signal.SIGKILL)
    for process in [*supervisors, *processes]:
        if process is not None and process.is_running():
            process.kill()
    killed = time.monotonic()
    ended = ground.ended(job.id)
    assert (ended.state, ended.attempt, ended.losses) == (JobState.SUCCEEDED, 2, 1)
    assert time.monotonic() - killed < 20  # no lease (300 s) had to run out
    assert ground.lines(job.id) == ["attempt 1", "attempt 2"]

    late = EventBatch([JobLogged(job.id, [(LogStream.STDOUT, 0.0, "late")], attempt=1, after=99, seq=100)])
    with pytest.raises(StaleAttempt):
        ground.client.call(
            ground.client.asynchronous.transport.post, f"workers/{ended.worker_id}/events", late, EventBatchAnswer
        )
    assert "late" not in ground.lines(job.id)


def test_job_itself_killed_fails_with_its_signal(ground: Ground) -> None:
    job = ground.client.submit(["sh", "-c", "echo on; sleep 60"])
    ground.wait_for_lines(job.id, 1)
    for process in running(job.id):
        with contextlib.suppress(psutil.NoSuchProcess):  # the first one's end takes the rest with it
            process.kill()
    ended = ground.ended(job.id)
    assert (ended.state, ended.exit_code) == (JobState.FAILED, -9)
    assert "SIGKILL" in (ended.reason or "")


def test_jupyter_and_host_killed_and_jupyter_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("ZDB_DATA", str(data))
    with Lab(tmp_path / "lab", data) as lab:
        with connect(lab.url, lab.token) as client:
            ground = Ground(DataDir(data), client)
            job = client.submit(COUNTING)
            ground.wait_for_lines(job.id, 20)
            lab.kill()
            os.kill(ground.pid("host"), signal.SIGKILL)
        lab.start()
        with connect(lab.url, lab.token) as client:
            again = Ground(DataDir(data), client)
            ended = again.ended(job.id)
            assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
            assert again.lines(job.id) == WHOLE
