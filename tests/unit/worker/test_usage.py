"""What an attempt says it has used: memory and CPU time of all its processes, as far as that can be known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import Brief, Station
from tests.unit.worker.memory_link import Tracked
from zbrain_nb.model.events import JobFailed

pytestmark = pytest.mark.anyio

#: Whether a command has a supervisor to itself, or runs in a slot that is used again.
OWN_AND_BRIEF = pytest.mark.parametrize("is_brief", [False, True], ids=["own", "brief"])
BURN = "import time\nwhile time.process_time() < 0.5: pass"


async def run(brief: Brief, is_brief: bool, *cmd: str) -> Tracked:
    job = await brief.run(*cmd, **({} if is_brief else {"limits": {"open_files": 500}}))
    assert bool(brief.sessions) is is_brief
    return job


@OWN_AND_BRIEF
async def test_peak_of_a_command_is_what_it_took(brief: Brief, is_brief: bool) -> None:
    job = await run(brief, is_brief, sys.executable, "-c", "data = bytearray(300 << 20)")
    assert 300 < job.ending.peak_memory_mb < 340


@OWN_AND_BRIEF
async def test_peak_of_a_program_smaller_than_what_started_it_is_not_made_up(brief: Brief, is_brief: bool) -> None:
    assert (await run(brief, is_brief, "true")).ending.peak_memory_mb is None


async def test_peak_of_a_cell_is_what_it_added_to_what_it_was_forked_from(station: Station) -> None:
    job = await station.run(code="data = bytearray(300 << 20); del data")
    assert 300 < job.ending.peak_memory_mb < 340
    assert ((await station.run(code="1")).ending.peak_memory_mb or 0) < 30


async def test_peak_is_that_of_all_processes_together_and_shared_pages_count_once(station: Station) -> None:
    script = (
        "import os, time\ndata = bytearray(100 << 20)\n"
        "for _ in range(3):\n    if os.fork() == 0:\n        own = bytearray(50 << 20); time.sleep(1000)\n"
        "time.sleep(4)"  # they are looked at now and then
    )
    specs: list[dict[str, Any]] = [{"limits": {"open_files": 500}}, {"resources": {"memory_mb": 2000}}]
    jobs = [station.submit(sys.executable, "-c", script, **spec) for spec in specs]
    await station.until(lambda: all(job.ended for job in jobs))
    for job in jobs:
        assert 250 < job.ending.peak_memory_mb < 320


@OWN_AND_BRIEF
async def test_cpu_time_is_that_of_all_processes(brief: Brief, is_brief: bool) -> None:
    children = f"import subprocess, sys\nfor _ in range(2): subprocess.run([sys.executable, '-c', {BURN!r}])"
    job = await run(brief, is_brief, sys.executable, "-c", children)
    assert 1.0 <= job.ending.cpu_secs < 3
    # one that its parent leaves, and that ends before the job
    orphan = '("$1" -c "$0"; touch done) & exit'
    waits = "sh -c '" + orphan + '\' "$@"; while [ ! -e done ]; do sleep 0.05; done'
    job = await run(brief, is_brief, "sh", "-c", waits, "sh", BURN, sys.executable)
    assert 0.5 <= job.ending.cpu_secs < 2


async def test_cpu_time_of_each_brief_command_is_its_own(brief: Brief) -> None:
    burnt = await run(brief, True, sys.executable, "-c", BURN)
    idle = await run(brief, True, "true")
    assert burnt.ending.cpu_secs >= 0.5
    assert idle.ending.cpu_secs < 0.3


async def test_cell_that_failed_says_the_cpu_time_of_what_it_started(station: Station) -> None:
    job = await station.run(code=f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n1 / 0")
    assert isinstance(job.ending, JobFailed)
    assert 0.5 <= job.ending.cpu_secs < 3


async def test_adopted_attempt_tells_all_and_a_lost_one_nothing(station: Station, tmp_path: Path) -> None:
    script = (
        "import os, sys, time\ndata = bytearray(100 << 20); del data\nprint('up', flush=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.02)"
    )
    gate = tmp_path / "gate"
    jobs = [station.submit(sys.executable, "-c", script, str(name)) for name in (gate, tmp_path / "never")]
    await station.until(lambda: all(job.lines() == ["up"] for job in jobs))
    await station.stop()
    await station.start()
    begin = station.begin(jobs[1])
    assert begin is not None
    os.kill(begin.supervisor_pid, signal.SIGKILL)
    gate.touch()
    await station.until(lambda: all(job.ended for job in jobs))
    assert 100 < jobs[0].ending.peak_memory_mb < 140
    assert 0 < jobs[0].ending.cpu_secs < 5
    assert jobs[1].ending.lost
    assert (jobs[1].ending.peak_memory_mb, jobs[1].ending.cpu_secs) == (None, None)


def test_what_a_process_held_before_it_ran_its_program_is_no_peak() -> None:
    """The kernel counts it all the same, and through several programs: what ran the tests is in it too."""
    script = (
        "import os, sys\nfrom zbrain_nb.worker.processes import Killer\n"
        "from zbrain_nb.worker.usage import Usage, held_kib\n"
        "data = bytearray(200 << 20)\nusage = Usage(Killer(), None, None, is_forked=False)\nheld = held_kib() >> 10\n"
        "for mib in (1, held + 100):\n"
        "    if os.fork() == 0:\n"
        "        os.execv(sys.executable, [sys.executable, '-c', f'data = bytearray({mib} << 20)'])\n"
        "    os.wait()\n    print(usage.total().peak_kib >> 10)\nprint(held)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    small, large, held = map(int, told)
    assert small == 0
    assert 100 <= large - held < 140
