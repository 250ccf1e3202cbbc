"""What a job may use: memory, CPU time, files, log, artifacts, value; and how patiently it is ended."""

from __future__ import annotations

import re
import sys

import pytest

from tests.unit.worker.conftest import Station, pids_with
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, LogStream

pytestmark = pytest.mark.anyio


async def test_memory_over_the_limit_is_told_apart_and_says_the_peak(station: Station) -> None:
    script = "import time; data = bytearray(300 << 20); time.sleep(1000)"
    job = await station.run(sys.executable, "-c", script, resources={"memory_mb": 100})
    assert isinstance(job.ending, JobFailed)
    found = re.fullmatch(r"Killed at (\d+) MiB: over its limit of 100 MiB\.", job.ending.reason or "")
    assert found, job.ending.reason
    assert 100 < int(found[1]) < 900
    assert not pids_with(f"ZBRAIN_JOB_ID={job.job.id}")


async def test_memory_is_that_of_all_processes_together(station: Station) -> None:
    child = "data = bytearray(60 << 20); import time; time.sleep(1000)"
    script = f"import subprocess, sys\nfor _ in range(3): subprocess.Popen([sys.executable, '-c', {child!r}])\n"
    job = await station.run(
        sys.executable, "-c", f"{script}import time; time.sleep(1000)", resources={"memory_mb": 150}
    )
    assert "over its limit of 150 MiB" in job.ending.reason


async def test_memory_shared_by_forks_counts_once(station: Station) -> None:
    script = (
        "import os, time\ndata = bytearray(60 << 20)\nfor _ in range(4):\n"
        "    if os.fork() == 0: time.sleep(1000)\n"
        "time.sleep(1); print('alive')"
    )
    job = await station.run(sys.executable, "-c", script, resources={"memory_mb": 150})
    assert isinstance(job.ending, JobCompleted), job.ending.reason
    assert job.lines() == ["alive"]


async def test_memory_error_of_a_cell_says_the_peak(station: Station) -> None:
    job = await station.run(code="data = bytearray(50 << 20)\nraise MemoryError('no room')")
    assert isinstance(job.ending, JobFailed)
    assert re.fullmatch(r"MemoryError: no room \(its memory had reached \d+ MiB\)\.", job.ending.reason or "")


async def test_cpu_seconds_are_summed_over_processes_that_ended_too(station: Station) -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    script = f"import subprocess, sys\nwhile True: subprocess.run([sys.executable, '-c', {burn!r}])"
    job = await station.run(sys.executable, "-c", script, limits={"cpu_secs": 1.5})
    assert isinstance(job.ending, JobFailed)
    found = re.fullmatch(r"Ended after ([\d.]+) s of CPU time: over its limit of 1.5 s\.", job.ending.reason or "")
    assert found, job.ending.reason
    assert 1.5 <= float(found[1]) < 10


async def test_cell_ended_by_a_limit_did_not_raise_a_keyboard_interrupt(station: Station) -> None:
    """Who waits for it raises what it raised, and was not interrupted."""
    job = await station.run(code="while True: pass", limits={"cpu_secs": 0.2})
    assert isinstance(job.ending, JobFailed)
    assert job.ending.error is not None
    assert job.ending.error["ename"] == "TimeoutError"
    assert job.ending.error["evalue"] == job.ending.reason
    assert job.ending.error["traceback"]


async def test_cpu_limit_lets_a_sleeper_be(station: Station) -> None:
    job = await station.run("sleep", "1", limits={"cpu_secs": 0.5})
    assert isinstance(job.ending, JobCompleted)


async def test_open_files_are_limited_in_every_process(station: Station) -> None:
    code = "files = [open('/dev/null') for _ in range(200)]"
    job = await station.run(sys.executable, "-c", code, limits={"open_files": 64})
    assert any("Too many open files" in line for line in job.lines(LogStream.STDERR))
    job = await station.run(code=code, limits={"open_files": 64})
    assert "Too many open files" in job.ending.reason


async def test_log_cap_of_the_job_is_marked_and_the_end_is_kept(station: Station) -> None:
    script = "for i in range(20_000): print('line', i)"
    job = await station.run(sys.executable, "-c", script, limits={"log_mb": 0.1})
    assert isinstance(job.ending, JobCompleted)
    lines = job.lines()
    assert (lines[0], lines[-1]) == ("line 0", "line 19999")
    assert len(lines) < 5000
    assert "The log is over 102 KiB: from here on only its last lines are kept." in job.lines(LogStream.SYSTEM)


async def test_artifacts_over_the_limit_are_named_and_the_others_kept(station: Station) -> None:
    script = "head -c 600000 /dev/zero > a.bin; head -c 600000 /dev/urandom > b.bin; echo small > c.txt"
    job = await station.run("sh", "-c", script, artifacts=["*"], limits={"artifacts_mb": 1})
    assert isinstance(job.ending, JobCompleted)
    assert {one["name"] for one in job.ending.artifacts} == {"a.bin", "c.txt"}
    assert job.lines(LogStream.SYSTEM) == [
        "Artifact 'b.bin' was not kept: it takes 586 KiB, and with it they would be over the job's limit of "
        "1 MiB (limits.artifacts_mb)."
    ]


async def test_value_over_the_limit_is_named_and_left(station: Station) -> None:
    job = await station.run(code="bytes(100_000)", limits={"result_mb": 0.05})
    assert isinstance(job.ending, JobCompleted)
    assert job.ending.result is None
    assert "was not kept: it is over 51 KiB (limits.result_mb)" in "".join(job.lines(LogStream.STDERR))


async def test_grace_time_of_nothing_kills_at_once(station: Station) -> None:
    job = station.submit(
        "sh", "-c", "trap '' INT TERM; echo ready; while :; do sleep 0.05; done", limits={"grace_secs": 0}
    )
    await station.until(lambda: job.lines() == ["ready"])
    station.queue.cancel(job)
    await station.until(lambda: job.ended)
    assert isinstance(job.ending, JobCanceled)
    assert job.ending.exit_code == -9


TIDY = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(9))
try:
    print('ready', flush=True)
    time.sleep(1000)
except KeyboardInterrupt:
    time.sleep(2.5)
    sys.exit(3)
"""


async def test_grace_time_of_the_job_is_waited_for(station: Station) -> None:
    job = station.submit(sys.executable, "-c", TIDY, limits={"grace_secs": 100})
    await station.until(lambda: job.lines() == ["ready"])
    station.queue.cancel(job)
    await station.until(lambda: job.ended)
    assert job.ending.exit_code == 3  # SIGTERM would have come after two seconds, as usual
