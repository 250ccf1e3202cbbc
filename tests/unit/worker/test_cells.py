"""Cells through spawner, zygote and supervisor; what happens inside a cell is tested in ``tests/unit/cell``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.worker.conftest import Station, eventually, pids_with, zygotes
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobDisplayed, JobFailed, JobProgress, LogStream

pytestmark = pytest.mark.anyio


@pytest.fixture
async def station(idle_station: Station, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Station]:
    monkeypatch.setenv("ZBRAIN_PRELOAD", "")
    await idle_station.start(warm=True)
    yield idle_station
    await idle_station.stop()


async def test_cell_output_displays_value_and_variables_arrive(station: Station) -> None:
    code = (
        "from IPython.display import display, HTML\nprint('before')\ndisplay(HTML('<b>x</b>'))\nprint('after')\n"
        "import zbrain_nb\nzbrain_nb.progress(1, 2)\nx = 6 * 7\nx"
    )
    job = await station.run(code=code, keep=["x"])
    assert isinstance(job.ending, JobCompleted), job.ending
    kinds = [type(event).__name__ for event in job.events]
    assert kinds.index("JobDisplayed") > kinds.index("JobLogged")
    assert job.lines() == ["before", "after"]
    displayed = next(event for event in job.events if isinstance(event, JobDisplayed))
    assert displayed.outputs[0]["data"]["text/html"] == "<b>x</b>"
    assert any(isinstance(event, JobProgress) for event in job.events)
    assert job.ending.output == "42"
    assert job.ending.result is not None
    assert (station.queue.folder / job.ending.result.sha256).exists()
    assert [(one.name, one.type) for one in job.ending.variables] == [("x", "int")]
    await eventually(lambda: not station.files(job))


async def test_cell_error_is_told_as_data(station: Station) -> None:
    job = await station.run(code="print('a')\n1 / 0")
    assert isinstance(job.ending, JobFailed)
    assert job.ending.error["ename"] == "ZeroDivisionError"
    assert job.ending.reason == "ZeroDivisionError: division by zero"
    assert job.ending.exit_code == 1
    job = await station.run(code="assert 1 > 2")
    assert job.ending.reason == "AssertionError"


async def test_cell_whose_process_dies_is_told_so(station: Station) -> None:
    job = await station.run(code="import os; os._exit(0)")
    assert isinstance(job.ending, JobFailed)
    assert "before the cell was done" in (job.ending.reason or "")
    job = await station.run(code="import os; os.kill(os.getpid(), 11)")
    assert job.ending.reason == "Killed by SIGSEGV."


async def test_cell_is_canceled_by_an_interrupt(station: Station) -> None:
    job = station.submit(code="print('up')\nimport time\ntime.sleep(1000)")
    await station.until(lambda: job.lines() == ["up"])
    station.queue.cancel(job)
    await station.until(lambda: job.ended)
    assert isinstance(job.ending, JobCanceled)
    assert job.ending.exit_code == 130


async def test_zygote_killed_running_cell_goes_on_and_next_cell_works(station: Station) -> None:
    first = await station.run(code="1")
    assert isinstance(first.ending, JobCompleted)
    job = station.submit(code="import time\nfor i in range(30): print(i); time.sleep(0.02)")
    await station.until(lambda: len(job.lines()) > 3)
    (zygote,) = zygotes(station)
    os.kill(zygote, signal.SIGKILL)
    other = await station.run(code="print('next')")
    assert other.lines() == ["next"]
    await station.until(lambda: job.ended)
    assert job.lines() == [str(i) for i in range(30)]
    assert isinstance(job.ending, JobCompleted)


async def test_cell_that_kills_its_supervisor_leaves_nothing(station: Station) -> None:
    code = "import os, subprocess, time\nsubprocess.Popen(['setsid', 'sleep', '1000'])\nos.kill(os.getppid(), 9)"
    job = await station.run(code=f"{code}\ntime.sleep(1000)")
    assert job.ending.lost
    await eventually(lambda: not pids_with(f"ZBRAIN_JOB_ID={job.job.id}"))
    assert isinstance((await station.run(code="1")).ending, JobCompleted)


async def test_cell_goes_on_when_worker_and_spawner_die(station: Station) -> None:
    job = station.submit(code="import time\nfor i in range(40): print(i); time.sleep(0.02)\n'end'", keep="auto")
    await station.until(lambda: len(job.lines()) > 3)
    await station.stop()
    spawner = station.spawner
    assert spawner is not None
    os.kill(spawner, signal.SIGKILL)
    await station.start()
    await station.until(lambda: job.ended)
    assert job.lines() == [str(i) for i in range(40)]
    assert job.ending.output == "'end'"


async def test_interpreter_that_cannot_run_cells_is_told(station: Station, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'first words' >&2\necho 'no such module' >&2\nexit 1\n")
    broken.chmod(0o755)
    job = await station.run(code="1", kernel=str(broken))
    assert job.ending.reason == f"Python at {broken} cannot run cells (no such module)."
    assert job.lines(LogStream.SYSTEM) == ["first words", "no such module"]
    job = await station.run(code="1", kernel=str(tmp_path / "none"))
    assert "cannot run cells (No such file or directory" in (job.ending.reason or "")


async def test_many_cells_at_once_all_end(station: Station) -> None:
    await station.stop()
    await station.start(concurrency=6)
    jobs = [station.submit(code=f"print({i}); {i}") for i in range(12)]
    await station.until(lambda: all(job.ended for job in jobs), 60)
    assert [job.ending.output for job in jobs] == [str(i) for i in range(12)]


async def test_worker_own_interpreter_runs_cells(station: Station) -> None:
    job = await station.run(code="import sys; sys.executable", kernel=sys.executable)
    assert job.ending.output == repr(sys.executable)
