"""Commands from lease to acknowledged end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import Station, eventually, pids_with
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, JobProgress, JobStarted, LogStream

pytestmark = pytest.mark.anyio


async def test_command_lines_arrive_in_order_and_its_files_go(station: Station) -> None:
    script = "import sys\nfor i in range(5000): print('line', i)\nprint('no break', end='')"
    job = await station.run(sys.executable, "-c", script)
    assert isinstance(job.events[0], JobStarted)
    assert job.lines() == [*(f"line {i}" for i in range(5000)), "no break"]
    assert isinstance(job.ending, JobCompleted)
    assert job.ending.exit_code == 0
    await eventually(lambda: not station.files(job))


async def test_command_exit_code_and_signal_are_told(station: Station) -> None:
    job = await station.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (job.ending.exit_code, job.ending.reason) == (3, "Exited with code 3.")
    assert job.lines(LogStream.STDOUT) == ["out"]
    assert job.lines(LogStream.STDERR) == ["err"]
    job = await station.run("sh", "-c", "kill -9 $$")
    assert (job.ending.exit_code, job.ending.reason, job.ending.lost) == (-9, "Killed by SIGKILL.", False)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"cmd": ["no-such-program"]}, "The program 'no-such-program' was not found on the worker."),
        ({"cmd": ["true"], "cwd": "/no/such folder"}, "The folder /no/such folder does not exist on the worker."),
        ({"cmd": ["/etc"]}, "The program '/etc' cannot be started: Permission denied."),
    ],
)
async def test_command_that_cannot_start_fails_with_a_sentence(
    station: Station, spec: dict[str, Any], reason: str
) -> None:
    job = await station.run(**spec)
    assert isinstance(job.ending, JobFailed)
    assert (job.ending.reason, job.ending.exit_code) == (reason, 127)


async def test_command_environment_is_clean_and_complete(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JPY_API", "JUPYTERHUB_X", "ZBRAIN_TOKEN", "AWS_SECRET_ID", "MY_KEY", "db_password"):
        monkeypatch.setenv(name, "confidential")
    monkeypatch.setenv("PLAIN", "kept")
    script = "import json, os; json.dump(dict(os.environ), open(os.environ['ZBRAIN_OUTPUT'], 'w'))"
    job = await station.run(sys.executable, "-c", script, env={"OWN_TOKEN": "mine"}, input={"a": [1]})
    env = job.ending.output
    assert "confidential" not in env.values()
    assert env["PLAIN"] == "kept"
    assert env["OWN_TOKEN"] == "mine"
    assert (env["ZBRAIN_JOB_ID"], env["ZBRAIN_ATTEMPT"], env["ZBRAIN_ORG"]) == (job.job.id, "1", "default")
    assert env["PYTHONUNBUFFERED"] == "1"


async def test_command_without_cwd_runs_in_a_fresh_folder_that_goes(station: Station) -> None:
    job = await station.run("sh", "-c", 'pwd; ls -A | wc -l; touch left; cat "$ZBRAIN_INPUT"', input={"n": 1})
    folder, count, given = job.lines()
    assert count.strip() == "0"
    assert given == '{"n":1}'
    await eventually(lambda: not os.path.exists(folder))


async def test_command_stdin_is_empty_and_nothing_is_inherited(station: Station) -> None:
    job = await station.run("sh", "-c", "cat; ls /proc/self/fd | tr '\\n' ' '")
    assert job.lines() == ["0 1 2 3 "]  # 3 is the folder that ls itself reads


async def test_timeout_ends_the_whole_tree(station: Station) -> None:
    script = "trap '' INT TERM; setsid sh -c 'trap \"\" INT TERM; sleep 1000' & sleep 1000"
    started = time.monotonic()
    job = await station.run("sh", "-c", script, timeout_secs=0.3)
    assert job.ending.reason == "Ran over its limit of 0.3 s."
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")
    assert time.monotonic() - started < 10


async def test_interrupt_is_tried_first(station: Station) -> None:
    script = "import time\ntry:\n print('ready', flush=True); time.sleep(100)\nexcept KeyboardInterrupt: print('tidy')"
    job = station.submit(sys.executable, "-c", script)
    await station.until(lambda: job.lines() == ["ready"])
    station.queue.cancel(job)
    await station.until(lambda: job.ended)
    assert isinstance(job.ending, JobCanceled)
    assert job.lines() == ["ready", "tidy"]


HOSTILE = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
def daemon(depth):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        if depth:
            daemon(depth - 1)
        if depth == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        while True:
            if depth == 2 and os.fork() == 0:
                time.sleep(0.05)
                os._exit(0)
            time.sleep(0.02)
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pass
for _ in range(4):
    daemon(3)
print("ready", flush=True)
time.sleep(1000)
"""


async def test_cancel_of_a_stubborn_tree_leaves_nothing(station: Station) -> None:
    job = station.submit(sys.executable, "-c", HOSTILE)
    await station.until(lambda: job.lines() == ["ready"])
    await eventually(lambda: len(pids_with(f"ZBRAIN_JOB_ID={job.job.id}")) > 12)
    station.queue.cancel(job)
    await station.until(lambda: job.ended)
    assert isinstance(job.ending, JobCanceled)
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")


async def test_process_left_behind_with_the_pipes_does_not_hold_the_end(station: Station) -> None:
    started = time.monotonic()
    job = await station.run("sh", "-c", "setsid sleep 1000 & echo done")
    assert isinstance(job.ending, JobCompleted)
    assert job.lines() == ["done"]
    assert time.monotonic() - started < 10
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")


async def test_cancel_before_the_start_never_starts(station: Station, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck python"
    stuck.write_text("#!/bin/sh\nexec sleep 1000\n")
    stuck.chmod(0o755)
    job = station.submit(code="1", kernel=str(stuck))
    await eventually(lambda: any(name.endswith(".json") for name in station.files(job)))
    station.queue.cancel(job)
    await station.until(lambda: job.ended, 5)
    assert isinstance(job.ending, JobCanceled)


async def test_progress_of_a_command_comes_by_the_fifo(station: Station) -> None:
    script = (
        "import zbrain_nb, multiprocessing as m\n"
        "for i in range(101): zbrain_nb.progress(i, 100, 'step')\n"
        "assert zbrain_nb.current_job().attempt == 1 and zbrain_nb.job_input() == {'k': 1}"
    )
    job = await station.run(sys.executable, "-c", script, input={"k": 1})
    assert isinstance(job.ending, JobCompleted), job.lines(None)
    steps = [event.progress for event in job.events if isinstance(event, JobProgress)]
    assert steps[0] == {"fraction": 0.0, "note": "step"}
    assert steps[-1] == {"fraction": 1.0, "note": "step"}
    assert len(steps) < 20


async def test_garbage_in_the_fifo_is_marked_and_harmless(station: Station) -> None:
    job = await station.run("sh", "-c", "echo 'this is no frame at all' > $ZBRAIN_EVENTS; sleep 0.1; echo ok")
    assert isinstance(job.ending, JobCompleted)
    assert job.lines() == ["ok"]
    assert "something else than events" in job.lines(LogStream.SYSTEM)[0]


async def test_two_slots_run_two_jobs_and_the_third_waits(station: Station, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo in; until [ -e '{gate}' ]; do sleep 0.01; done"
    jobs = [station.submit("sh", "-c", script) for _ in range(3)]
    await station.until(lambda: sum(bool(job.lines()) for job in jobs) == 2)
    assert sum(job.leased for job in jobs) == 2
    gate.touch()
    await station.until(lambda: all(job.ended for job in jobs))
