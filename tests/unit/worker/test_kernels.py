"""Cells in kernels of other languages: an own one that does as it is told, and bash."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.worker.conftest import Station, eventually, pids_with
from tests.unit.worker.memory_link import Tracked
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobDisplayed, JobFailed, LogStream
from zbrain_nb.model.payload import load_value
from zbrain_nb.worker.cell import foreign

pytestmark = pytest.mark.anyio


@pytest.fixture
async def station(idle_station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Station]:
    """A station with the kernels echo (interrupted by a signal), polite (by a message), bash and broken."""
    monkeypatch.setenv("ZBRAIN_PRELOAD", "")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    echo = [sys.executable, "-P", str(Path(__file__).with_name("echo_kernel.py")), "-f", "{connection_file}"]
    specs: dict[str, dict[str, Any]] = {
        "echo": {"argv": echo, "language": "echo", "env": {"OF_SPEC": "spec"}},
        "polite": {"argv": echo, "language": "echo", "interrupt_mode": "message"},
        "bash": {"argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"], "language": "bash"},
        "broken": {"argv": ["sh", "-c", "echo no license >&2; exit 3"], "language": "echo"},
    }
    for name, spec in specs.items():
        folder = tmp_path / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(json.dumps({"display_name": name, **spec}))
    await idle_station.start(warm=True, concurrency=3)
    yield idle_station
    await idle_station.stop()


def outputs(job: Tracked) -> list[dict[str, Any]]:
    return [output for event in job.events if isinstance(event, JobDisplayed) for output in event.outputs]


async def until_all_end(station: Station, *jobs: Tracked) -> None:
    await station.until(lambda: all(job.ended for job in jobs), 60)


async def test_what_a_kernel_publishes_becomes_log_outputs_and_value(station: Station, tmp_path: Path) -> None:
    code = "out a\nshow b\nerr c\nupdate d\nclear\npast e\npage f\nvalue 42"
    told = station.submit(code=code, kernel="echo")
    other = station.submit(
        code="where NAME\nwhere OF_SPEC\njson x", kernel="echo", cwd=str(tmp_path), env={"NAME": "v"}
    )
    bash = station.submit(code="for i in 1 2; do echo $i; done", kernel="bash")
    await until_all_end(station, told, other, bash)
    for job in (told, other, bash):
        assert isinstance(job.ending, JobCompleted), (job.ending, job.lines())
    assert sorted(told.lines()) == ["a", "e"]
    assert told.lines(LogStream.STDERR) == ["c"]
    assert [output["output_type"] for output in outputs(told)] == [
        "display_data",
        "update_display_data",
        "clear_output",
        "execute_result",
        "display_data",
    ]
    assert outputs(told)[0]["data"]["text/html"] == "<b>b</b>"
    assert outputs(told)[0]["transient"] == outputs(told)[1]["transient"] == {"display_id": "one"}
    assert outputs(told)[-1]["data"] == {"text/plain": "f"}
    assert told.ending.output == "42"
    assert other.lines() == [f"{tmp_path} v", f"{tmp_path} spec"]
    assert other.ending.output == {"said": "x"}
    result = other.ending.result
    assert load_value(result.data or station.queue.folder / result.sha256) == {"said": "x"}
    assert bash.lines() == ["1", "2"]


async def test_flood_of_a_kernel_is_whole_however_long_it_takes_to_hear(station: Station) -> None:
    count = 40_000
    job = station.submit(code=f"flood {count}\nvalue 42", kernel="echo")
    await until_all_end(station, job)
    assert isinstance(job.ending, JobCompleted), job.ending
    assert job.lines() == [str(number) for number in range(count)]
    assert job.ending.output == "42"


async def test_error_death_and_question_fail_the_job_and_say_which(station: Station) -> None:
    orders = ["out a\nfail no luck\nout b", "fail quietly", "past a\ndie 9", "ask your name", "out a"]
    kernels = ["echo", "echo", "echo", "echo", "broken"]
    jobs = [station.submit(code=code, kernel=name) for code, name in zip(orders, kernels, strict=True)]
    await until_all_end(station, *jobs)
    raised, silent, died, asked, broken = jobs
    assert raised.ending.error == {"ename": "RuntimeError", "evalue": "no luck", "traceback": ["here", "no luck"]}
    assert (raised.ending.exit_code, raised.lines()) == (1, ["a"])
    assert outputs(silent) == [{"output_type": "error", **silent.ending.error}]
    assert died.ending.reason == "DeadKernelError: The kernel 'echo' died by SIGKILL."
    assert (died.ending.exit_code, died.lines()) == (-9, ["a"])
    assert "The cell asks for input (your name), and a job has nobody" in (asked.ending.reason or "")
    assert "'broken' did not start: it ended with exit code 3" in (broken.ending.reason or "")
    assert broken.lines(LogStream.STDERR) == ["no license"]
    await eventually(lambda: not pids_with("echo_kernel.py"))


async def test_cancel_interrupts_the_kernel_as_it_wants_it(station: Station) -> None:
    patient = {"grace_secs": 60}  # how long the kernels take is not what is looked at
    jobs = [station.submit(code="out up\nwait", kernel=name, limits=patient) for name in ("echo", "polite")]
    await station.until(lambda: all("up" in job.lines() for job in jobs), 60)
    for job in jobs:
        station.queue.cancel(job)
    await until_all_end(station, *jobs)
    for job in jobs:
        assert isinstance(job.ending, JobCanceled)
        assert job.ending.exit_code == 130
        assert outputs(job)[0]["ename"] == "KeyboardInterrupt"
    assert [job.lines() for job in jobs] == [["up"], ["up", "interrupted by a message"]]
    await eventually(lambda: not pids_with("echo_kernel.py"))


async def test_what_means_python_is_refused_for_good(station: Station) -> None:
    for spec, why in (
        ({"code": "out a", "keep": ["x"]}, "No variables travel to or from the kernel 'echo', which runs echo."),
        ({"function": "a" * 64}, "Functions run in Python; the kernel 'echo' runs echo."),
    ):
        job = await station.run(kernel="echo", **spec)
        assert isinstance(job.ending, JobFailed)
        assert job.ending.final
        assert (job.ending.reason or "").startswith(why)


def silent_session(tmp_path: Path) -> tuple[Any, list[str]]:
    """Return a session whose kernel publishes nothing, and what is written to the log."""
    said: list[str] = []
    writer = SimpleNamespace(text=lambda kind, text: said.append(text))
    return foreign._Session(SimpleNamespace(kernel=str(tmp_path)), writer, None), said  # type: ignore[arg-type]


async def future(value: Any = None, error: Exception | None = None) -> Any:
    if error is not None:
        raise error
    return value


async def test_kernel_that_never_says_that_it_is_idle_is_given_up_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "_SILENCE_SECS", 0.01)
    session, said = silent_session(tmp_path)
    published, died = (asyncio.create_task(asyncio.Event().wait()) for _ in range(2))
    replied = asyncio.create_task(future({}))
    await replied
    await session._hear_out(published, replied, died)
    assert [text.partition(",")[0] for text in said] == ["zbrain: the kernel never said that it is idle"]
    for task in (published, died):
        task.cancel()


async def test_failure_to_hear_a_kernel_is_no_silence(tmp_path: Path) -> None:
    session, _ = silent_session(tmp_path)
    published = asyncio.create_task(future(error=OSError("the pipe broke")))
    replied = asyncio.create_task(future({}))
    died = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(OSError, match="the pipe broke"):
        await session._hear_out(published, replied, died)
    died.cancel()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/usr/bin/python3", "-m", "own_kernel"], True),
        (["env", "X=1", "/usr/bin/python3", "-m", "ipykernel_launcher"], True),
        (["conda", "run", "-n", "one", "python", "-m", "ipykernel"], True),
        (["env", "own-kernel"], False),
        (["docker", "run", "image", "python", "-m", "ipykernel_launcher"], False),  # the folder is not there
        ([], False),
    ],
)
async def test_kernel_speaks_over_files_only_where_it_is_known_to(argv: list[str], expected: bool) -> None:
    manager = SimpleNamespace(kernel_spec=SimpleNamespace(argv=argv))
    assert foreign._speaks_ipc(manager) is expected  # type: ignore[arg-type]
