"""The sessions of a worker: what they take ahead, give back, and do when the disk or a call makes trouble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.worker.conftest import Station, eventually
from tests.unit.worker.function_station import Calls, nothing, own_pid, value
from tests.unit.worker.memory_link import Tracked
from zbrain_nb.model.events import JobCanceled, JobFailed
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.worker import crew as crew_module
from zbrain_nb.worker import session as session_module
from zbrain_nb.worker.crew import IDLE_SESSIONS, TURN_SECS, Crew
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.run import Run

pytestmark = pytest.mark.anyio


def long_call() -> Callable[[str], None]:
    """Return a function that runs until the file ``go`` is there."""

    def wait(folder: str) -> None:
        import os
        import time

        open(os.path.join(folder, "began"), "w").close()
        while not os.path.exists(os.path.join(folder, "go")):
            time.sleep(0.01)

    return wait


async def begun(calls: Calls) -> Tracked:
    """Return a long call that has begun."""
    call = calls.submit(long_call(), str(calls.folder))
    await eventually((calls.folder / "began").exists)
    return call


class StandIn:
    """A session that is only looked at."""

    def __init__(self, moved_at: float = 0.0, *, is_busy: bool = False) -> None:
        self.key = "its kind"
        self.moved_at = moved_at
        self.is_closed = False
        self.open: dict[int, object] = {0: None} if is_busy else {}

    def is_stuck(self, secs: float) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The crew's clock, which stands still."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(crew_module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def crew(idle_station: Station, clock: SimpleNamespace) -> Crew:
    """A crew with one slot, and calls that are brief."""
    nobody: Any = lambda *_: None  # noqa: E731
    folder = idle_station.folder
    told = dict.fromkeys(("launch", "finish", "told", "over", "see_gone"), nobody)
    crew = Crew(folder, nobody, "w", slots=1, others=lambda: 0, **told)
    crew.blobs = Path("/nowhere")
    crew._call_secs = 0.001
    return crew


async def test_calls_are_taken_ahead_for_a_turn_and_then_not_before_a_slot_is_free(
    crew: Crew, clock: SimpleNamespace
) -> None:
    session = StandIn(is_busy=True)
    crew._sessions = [session]  # type: ignore[list-item]
    assert crew.ahead() > 0
    clock.now += TURN_SECS
    assert crew.ahead() == 0
    session.open.clear()
    assert crew.ahead() > 0
    session.open[1] = None
    assert crew.ahead() > 0


async def test_after_a_call_for_which_there_is_no_session_none_are_taken_ahead_before_a_slot_is_free(
    crew: Crew,
) -> None:
    session = StandIn(is_busy=True)
    crew._sessions = [session]  # type: ignore[list-item]
    assert crew.ahead() > 0
    other = Job(JobSpec(function="0" * 64, cwd="/elsewhere"))
    run = Run(other.id, 1, other, Delivery(other.id, 1, "w"))
    crew.start([run])
    assert run.ended
    assert crew.ahead() == 0
    session.open.clear()
    assert crew.ahead() > 0
    assert crew._looking is not None
    crew._looking.cancel()


async def test_sessions_that_were_idle_for_longest_are_closed_when_another_opens(crew: Crew) -> None:
    idle = [StandIn(moved_at) for moved_at in range(IDLE_SESSIONS + 3)]
    chosen, busy = idle[0], StandIn(-1, is_busy=True)
    crew._sessions = [*idle, busy]  # type: ignore[list-item]
    crew._close_idle({chosen: []})  # type: ignore[dict-item]
    assert [session.is_closed for session in idle] == [False, True, True] + [False] * IDLE_SESSIONS
    assert not busy.is_closed


async def test_flood_of_calls_lets_other_jobs_have_their_turn(calls: Calls) -> None:
    def brief() -> None:
        import time

        time.sleep(0.004)

    await calls.warm_up()
    flood = [calls.submit(brief) for _ in range(200)]
    await calls.station.until(lambda: flood[20].ended)
    command = calls.station.submit("true")
    deadline = asyncio.get_running_loop().time() + 15

    def is_low() -> bool:
        return command.ended or sum(not call.ended for call in flood) < 150

    while not command.ended:
        assert asyncio.get_running_loop().time() < deadline, "the command did not get its turn"
        await calls.station.until(is_low)
        flood += [calls.submit(brief) for _ in range(50)]
    await calls.ended(*flood)


async def test_session_with_nothing_to_give_back_says_so_and_can_be_asked_again(calls: Calls) -> None:
    call = await begun(calls)
    (session,) = calls.sessions
    for _ in range(2):
        session.withdraw()
        assert session.is_withdrawing
        await eventually(lambda: not session.is_withdrawing)
    (calls.folder / "go").touch()
    await calls.ended(call)


async def test_what_waits_behind_a_long_call_goes_back_after_another_worker_took_over(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    await calls.warm_up()
    monkeypatch.setattr(crew_module, "BACK_SECS", 3600.0)
    first = calls.submit(long_call(), str(calls.folder))
    others = [calls.submit(own_pid()) for _ in range(5)]
    await eventually(lambda: [len(session.open) for session in calls.sessions] == [6])
    await calls.station.stop()
    monkeypatch.setattr(crew_module, "BACK_SECS", 0.1)
    await calls.station.start(concurrency=1, warm=True)
    await calls.ended(*others)
    assert not first.ended
    assert all(call.ending.returned for call in others)
    (calls.folder / "go").touch()
    await calls.ended(first)


async def test_session_that_starts_slowly_is_given_calls_all_the_same(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_START_SECS", 3600.0)
    await calls.warm_up()
    launch, may_start = calls.crew.launch, asyncio.Event()

    async def launch_late(run: Run) -> None:
        await may_start.wait()
        await launch(run)

    calls.crew.launch = launch_late
    elsewhere = str(calls.folder.parent)
    first = calls.submit(own_pid(), cwd=elsewhere)
    await eventually(lambda: any(session.open for session in calls.sessions))
    (session,) = [session for session in calls.sessions if session.open]
    await eventually(lambda: time.monotonic() - session.moved_at > crew_module.BACK_SECS)
    assert not session.is_stuck(crew_module.BACK_SECS)
    run = Run(first.job.id, 2, first.job, Delivery(first.job.id, 2, "w"))
    assert calls.crew._choose(run, {}) is session
    may_start.set()
    await calls.ended(first)
    assert isinstance(value(first), int)


async def test_cancel_of_a_call_that_runs_for_a_while_is_obeyed_at_once(calls: Calls) -> None:
    call = await begun(calls)
    # from when it has a name of its own its foreman has nothing to do that would wake it for 5 s
    await eventually(calls.station.folder.spool_path(call.job.id, 1).exists)
    calls.station.queue.cancel(call)
    await calls.station.until(lambda: call.ended, secs=4)
    assert isinstance(call.ending, JobCanceled)


async def test_cancel_that_the_disk_does_not_take_is_written_later(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await begun(calls)
    (session,) = calls.sessions
    refused: list[Any] = []
    append = session._book.append

    def refuse_once(orders: Any) -> None:
        if not refused:
            refused.append(orders)
            raise OSError(28, "No space left on device")
        append(orders)

    monkeypatch.setattr(session._book, "append", refuse_once)
    calls.station.queue.cancel(call)
    await calls.ended(call)
    assert refused
    assert isinstance(call.ending, JobCanceled)


async def test_result_that_cannot_be_gathered_fails_its_own_call_only(calls: Calls) -> None:
    pid = value(await calls.run(own_pid()))
    finish = calls.crew.finish

    async def fail(*_: Any) -> Any:
        raise RuntimeError("the store fell over")

    calls.crew.finish = fail
    failed = await calls.run(nothing())
    assert isinstance(failed.ending, JobFailed)
    assert failed.ending.reason == (
        "It ran to its end, but what it left could not be kept: RuntimeError: the store fell over"
    )
    calls.crew.finish = finish
    assert value(await calls.run(own_pid())) == pid
