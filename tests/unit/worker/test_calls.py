"""Calls in processes that are used again: each is on its own all the same, whatever others before it did."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import Station, eventually, pids_with
from tests.unit.worker.function_station import Calls, by_value, nothing, own_pid, value
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, LogStream
from zbrain_nb.model.payload import load_value
from zbrain_nb.worker.spool import Begin, Kind, SpoolReader, read_json

pytestmark = pytest.mark.anyio


async def test_many_calls_share_processes_and_each_has_its_own_log_and_value(calls: Calls) -> None:
    def speak(number: int) -> tuple[int, int]:
        import os
        import subprocess
        import sys

        print("out", number)
        os.write(1, f"raw {number}\n".encode())
        print("err", number, file=sys.stderr)
        if number % 50 == 0:
            subprocess.run(["echo", f"program {number}"], check=True)
        return number, os.getpid()

    await calls.warm_up()
    many = await calls.run_each(speak, range(200))
    pids = set()
    for number, call in enumerate(many):
        program = [f"program {number}"] if number % 50 == 0 else []
        assert sorted(call.lines()) == sorted([f"out {number}", f"raw {number}", *program])
        assert [line for line in call.lines() if not line.startswith("out")] == [f"raw {number}", *program]
        assert call.lines(LogStream.STDERR) == [f"err {number}"]
        assert value(call)[0] == number
        pids.add(value(call)[1])
    assert len(pids) < 20
    await eventually(lambda: not any(calls.station.files(call) for call in many))


async def test_call_that_ends_its_process_loses_its_own_attempt_only(calls: Calls) -> None:
    def maybe(number: int) -> int:
        import os
        import signal

        print("at", number)
        if number == 30:
            os._exit(3)
        if number == 60:
            os.kill(os.getpid(), signal.SIGSEGV)
        return number

    await calls.warm_up()
    many = await calls.run_each(maybe, range(90))
    for number, call in enumerate(many):
        assert call.lines() == [f"at {number}"]
        if number not in (30, 60):
            assert value(call) == number
    exited, killed = many[30].ending, many[60].ending
    assert isinstance(exited, JobFailed)
    assert (exited.exit_code, exited.lost) == (3, False)
    assert isinstance(killed, JobFailed)
    assert killed.reason == "Killed by SIGSEGV."


async def test_one_call_of_many_canceled_the_others_end(calls: Calls) -> None:
    def wait(folder: str, number: int) -> int:
        import os
        import time

        open(os.path.join(folder, f"began-{number}"), "w").close()
        while number == 5 and not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.01)
        return number

    await calls.warm_up()
    many = [calls.submit(wait, str(calls.folder), number) for number in range(20)]
    await eventually((calls.folder / "began-5").exists)
    calls.station.queue.cancel(many[5])
    calls.station.queue.cancel(many[15])
    returned = {call.job.id for call in many if call.ended and getattr(call.ending, "returned", False)}
    await calls.ended(*many)
    assert isinstance(many[5].ending, JobCanceled)
    for number, call in enumerate(many):
        if number in (5, 15) or getattr(call.ending, "returned", False):
            continue
        assert value(call) == number
    assert isinstance(many[15].ending, JobCanceled) or many[15].ending.returned
    assert not returned & {many[5].job.id}
    if isinstance(many[15].ending, JobCanceled):
        assert not (calls.folder / "began-15").exists()


async def test_call_over_its_time_is_ended_and_the_next_runs(calls: Calls) -> None:
    def stubborn() -> None:
        import time

        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                print("interrupted")
                raise

    late = await calls.run(stubborn, timeout_secs=0.5)
    assert isinstance(late.ending, JobFailed)
    assert late.ending.reason == "Ran over its limit of 0.5 s."
    assert late.lines() == ["interrupted"]
    assert isinstance(value(await calls.run(own_pid())), int)


async def test_exception_is_told_with_its_traceback_and_the_process_goes_on(calls: Calls) -> None:
    def fail() -> None:
        import os

        print(os.getpid())
        raise KeyError("the missing one")

    first = value(await calls.run(own_pid()))
    failed = await calls.run(fail)
    assert isinstance(failed.ending, JobFailed)
    assert failed.ending.error["ename"] == "KeyError"
    text = "\n".join(failed.ending.error["traceback"])
    assert "the missing one" in text
    assert ".fail" in text
    assert "zbrain_nb" not in text
    assert failed.lines() == [str(first)]
    assert value(await calls.run(own_pid())) == first


def _leave_thread() -> None:
    import threading
    import time

    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()


def _leave_child() -> None:
    import subprocess

    subprocess.Popen(["sleep", "1000"], start_new_session=True)


def _leave_daemon() -> None:
    import subprocess

    subprocess.run(["sh", "-c", "setsid sleep 1000 &"], check=True)


def _change_folder() -> None:
    import os

    os.chdir("/")


def _change_handler() -> None:
    import signal

    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _set_alarm() -> None:
    import signal

    signal.alarm(1)


def _close_output() -> None:
    import os

    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)


LEFTOVERS = {
    "thread": _leave_thread,
    "child": _leave_child,
    "daemon": _leave_daemon,
    "folder": _change_folder,
    "handler": _change_handler,
    "alarm": _set_alarm,
    "output": _close_output,
}


@pytest.mark.parametrize("what", LEFTOVERS)
async def test_call_that_leaves_something_is_the_last_of_its_process(calls: Calls, what: str) -> None:
    leave = by_value(LEFTOVERS[what])
    first = value(await calls.run(own_pid()))
    left = await calls.run(leave)
    assert isinstance(left.ending, JobCompleted), left.ending
    assert not pids_with(f"ZBRAIN_JOB_ID={left.job.id}")

    def look() -> tuple[str, int]:
        import os

        os.write(1, b"heard\n")
        return os.getcwd(), os.getpid()

    seen = await calls.run(look)
    folder, pid = value(seen)
    assert folder == str(calls.folder)
    assert pid != first
    assert seen.lines() == ["heard"]


async def test_environment_and_globals_of_one_call_are_not_those_of_the_next(calls: Calls) -> None:
    def spoil(number: int) -> tuple[Any, ...]:
        global counter  # noqa: PLW0603
        import os
        import random
        import sys

        seen = globals().get("counter"), os.environ.get("SPOILT"), "/spoilt" in sys.path, random.random()
        counter = number
        os.environ["SPOILT"] = str(number)
        del os.environ["HOME"]
        sys.path.append("/spoilt")
        random.seed(1)
        return (*seen, os.environ["ZBRAIN_JOB_ID"], os.getpid())

    await calls.warm_up()
    many = await calls.run_each(by_value(spoil), range(10))
    values = [value(call) for call in many]
    assert [one[:3] for one in values] == [(None, None, False)] * 10
    assert len({one[3] for one in values}) == 10
    assert [one[4] for one in values] == [call.job.id for call in many]
    assert len({one[5] for one in values}) < 10


async def test_call_whose_result_cannot_be_kept_fails_and_says_why_once_for_all(calls: Calls) -> None:
    def make() -> Any:
        return (number for number in range(3))

    call = await calls.run(make, max_retries=2)
    assert isinstance(call.ending, JobFailed)
    assert call.ending.final
    assert call.ending.reason == (
        "ValueNotKept: The value of type generator was not kept: cannot pickle 'generator' object. Give back what can "
        "be pickled, or save what matters of it with zbrain_nb.save_artifact."
    )


async def test_large_result_and_artifact_are_kept_as_files(calls: Calls) -> None:
    def make() -> bytes:
        import zbrain_nb

        zbrain_nb.save_artifact("hello", "note.txt")
        return bytes(100_000)

    first, second = calls.submit(make), calls.submit(make)
    await calls.ended(first, second)
    for call in (first, second):
        assert isinstance(call.ending, JobCompleted), call.ending
        assert call.ending.result is not None
        assert call.ending.result.data is None
        stored = (calls.station.queue.folder / call.ending.result.sha256).read_bytes()
        assert load_value(stored) == bytes(100_000)
        assert [(kept["name"], kept["size"]) for kept in call.ending.artifacts] == [("note.txt", 5)]
    plain = await calls.run(nothing())
    assert plain.ending.artifacts == []


async def test_call_without_a_folder_gets_an_empty_one(calls: Calls) -> None:
    def look(_: str) -> tuple[list[str], str]:
        import os

        found = os.listdir()
        open("left", "w").close()
        return found, os.getcwd()

    await calls.warm_up()
    many = await calls.run_each(by_value(look), [""] * 5, cwd=None)
    assert [value(call)[0] for call in many] == [[]] * 5
    assert len({value(call)[1] for call in many}) == 5
    await eventually(lambda: not any(os.path.exists(value(call)[1]) for call in many))
    assert calls.spools


async def test_output_of_a_call_is_whole_after_one_that_made_its_pipe_non_blocking(calls: Calls) -> None:
    def unblock() -> int:
        import os

        os.set_blocking(1, False)
        return os.getpid()

    def look() -> tuple[int, bool]:
        import os

        return os.getpid(), os.get_blocking(1)

    await calls.warm_up()
    first, second = calls.submit(by_value(unblock)), calls.submit(by_value(look))
    await calls.ended(first, second)
    assert value(second) == (value(first), True)


async def test_input_of_a_call_is_its_own(calls: Calls) -> None:
    def read() -> Any:
        import zbrain_nb

        return zbrain_nb.job_input()

    many = [calls.submit(read, input={"number": number}) for number in range(3)]
    many.append(calls.submit(read))
    await calls.ended(*many)
    assert [value(call) for call in many] == [{"number": 0}, {"number": 1}, {"number": 2}, {}]


async def test_module_of_the_user_is_read_again_when_its_file_has_changed(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(calls.folder)
    module = calls.folder / "zb_local_helper.py"

    def use() -> int:
        import zb_local_helper

        return zb_local_helper.NUMBER

    module.write_text("NUMBER = 1\n")
    assert value(await calls.run(use)) == 1
    module.write_text("NUMBER = 2  # changed\n")
    os.utime(module, (1_000_000_000, 1_000_000_000))
    assert value(await calls.run(use)) == 2


async def test_module_edited_while_a_call_runs_is_read_again(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(calls.folder)
    module = calls.folder / "zb_edited_helper.py"
    module.write_text("NUMBER = 1\n")
    os.utime(module, (1_000_000_000, 1_000_000_000))

    def use(path: str) -> int:
        import zb_edited_helper

        with open(path, "w") as file:
            file.write("NUMBER = 2  # changed\n")
        return zb_edited_helper.NUMBER

    assert value(await calls.run(use, str(module))) == 1
    assert value(await calls.run(use, str(module))) == 2


async def test_module_of_the_same_name_elsewhere_on_the_path_is_another(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> tuple[int, int]:
        import os

        import zb_twin

        return zb_twin.NUMBER, os.getpid()

    seen = []
    for number in (1, 2):
        folder = calls.folder / f"path{number}"
        folder.mkdir()
        (folder / "zb_twin.py").write_text(f"NUMBER = {number}\n")
        os.utime(folder / "zb_twin.py", (1_000_000_000, 1_000_000_000))
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            seen.append(value(await calls.run(use)))
    assert [number for number, _ in seen] == [1, 2]
    assert seen[0][1] == seen[1][1]


async def test_call_that_leaves_a_callback_in_the_loop_is_the_last_of_its_process(calls: Calls) -> None:
    async def limit() -> int:
        import asyncio
        import os

        async with asyncio.timeout(1000):
            await asyncio.sleep(0)
        return os.getpid()

    async def leave() -> int:
        import asyncio
        import os

        asyncio.get_running_loop().call_later(1000, print, "late")
        return os.getpid()

    first = value(await calls.run(limit))
    assert value(await calls.run(leave)) == first
    assert value(await calls.run(limit)) != first


async def test_checkpoints_of_a_call_are_its_own(calls: Calls) -> None:
    def keep() -> tuple[str, list[str]]:
        import os

        import zbrain_nb

        folder = zbrain_nb.checkpoint_dir()
        found = os.listdir(folder)
        (folder / "step").touch()
        return str(folder), found

    many = [calls.submit(keep) for _ in range(3)]
    await calls.ended(*many)
    folders = [str(calls.station.folder.root / "checkpoints" / call.job.id) for call in many]
    assert [value(call) for call in many] == [(folder, []) for folder in folders]


async def test_what_waits_behind_a_long_call_goes_back_to_the_queue(calls: Calls) -> None:
    def long(folder: str) -> None:
        import os
        import time

        while not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.01)

    await calls.warm_up()
    first = calls.submit(long, str(calls.folder))
    others = [calls.submit(own_pid()) for _ in range(5)]
    await calls.ended(*others)
    assert not first.ended
    for call in others:
        assert call.leased
        assert isinstance(call.ending, JobFailed)
        assert (call.ending.lost, call.ending.unstarted, call.ending.returned) == (True, True, True)
        assert call.ending.after == 0
    (calls.folder / "go").touch()
    await calls.ended(first)


async def test_damaged_call_fails_and_says_so(calls: Calls) -> None:
    call = calls.submit(own_pid(), name="damaged", idempotency_key="x")
    path = next(calls.station.queue.blobs.glob("*/*"))  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    await calls.ended(call)
    assert isinstance(call.ending, JobFailed)
    assert "damaged" in (call.ending.reason or "")


async def test_foreman_killed_calls_that_may_have_run_are_lost_the_others_go_back(calls: Calls) -> None:
    def note(folder: str, number: int) -> None:
        import os
        import time

        open(os.path.join(folder, f"began-{number}"), "w").close()
        while number == 3 and not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.01)

    await calls.warm_up()
    many = [calls.submit(note, str(calls.folder), number) for number in range(8)]
    await eventually((calls.folder / "began-3").exists)
    os.kill(_foreman(calls.spools[-1]), signal.SIGKILL)
    await calls.ended(*many)
    for number, call in enumerate(many):
        began = (calls.folder / f"began-{number}").exists()
        if isinstance(call.ending, JobCompleted):
            assert number < 3
        else:
            assert isinstance(call.ending, JobFailed)
            assert call.ending.lost
            assert not (began and call.ending.unstarted)


async def test_worker_replaced_amid_many_calls_each_ends_once(calls: Calls) -> None:
    def mark(folder: str, number: int) -> int:
        import os
        import time

        with open(os.path.join(folder, f"ran-{number}"), "a") as file:
            file.write("x")
        time.sleep(0.002)
        print("line", number)
        return number

    await calls.warm_up()
    many = [calls.submit(mark, str(calls.folder), number) for number in range(120)]
    await calls.station.until(lambda: sum(call.ended for call in many) > 10)
    await calls.station.stop()
    await asyncio.sleep(0)
    await calls.station.start(concurrency=1, warm=True)
    await calls.ended(*many)
    for number, call in enumerate(many):
        if isinstance(call.ending, JobFailed):
            assert call.ending.unstarted
            assert not (calls.folder / f"ran-{number}").exists()
            continue
        assert value(call) == number
        assert call.lines() == [f"line {number}"]
        assert (calls.folder / f"ran-{number}").read_text() == "x"


def _foreman(spool: Path) -> int:
    reader = SpoolReader(spool)
    frame = reader.read()[0]
    reader.close()
    assert frame.kind == Kind.BEGIN
    return Begin(**(read_json(frame.payload) or {})).supervisor_pid


def _wait_for() -> Callable[[str], str]:
    def wait_for(path: str) -> str:
        import os
        import time

        print("up", flush=True)
        while not os.path.exists(path):
            time.sleep(0.01)
        return "done"

    return wait_for


async def test_draining_worker_gives_calls_back_that_were_not_begun_and_ends_the_others(
    calls: Calls, tmp_path: Path
) -> None:
    await calls.warm_up()
    long = calls.submit(_wait_for(), str(tmp_path / "go"))
    behind = [calls.submit(nothing()) for _ in range(30)]
    await calls.station.until(lambda: long.lines() == ["up"])
    assert calls.station.agent is not None
    calls.station.agent.begin_drain()
    await calls.ended(*(call for call in behind if call.leased))
    (tmp_path / "go").touch()
    await calls.station.wait_stopped()
    assert value(long) == "done"
    assert not any(call.leased and not call.ended for call in behind)
    for call in behind:
        if call.leased and isinstance(call.ending, JobFailed):
            assert (call.ending.lost, call.ending.unstarted, call.ending.returned) == (True, True, True)


async def test_call_that_its_worker_ends_because_it_stops_is_lost_not_canceled(
    idle_station: Station, calls: Calls, tmp_path: Path
) -> None:
    call = calls.submit(_wait_for(), str(tmp_path / "never"))
    behind = calls.submit(nothing())
    await calls.station.until(lambda: call.lines() == ["up"])
    assert calls.station.agent is not None
    drain = calls.station.agent.drain
    drain._is_fenced = lambda: True  # as on another machine
    calls.station.agent.begin_drain()
    calls.station.agent.begin_drain()
    await calls.station.wait_stopped()
    assert isinstance(call.ending, JobFailed)
    assert (call.ending.lost, call.ending.unstarted) == (True, False)
    assert call.ending.reason == "Its worker was told to stop, and ended the job."
    assert not behind.leased or behind.ending.lost
