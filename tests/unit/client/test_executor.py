"""`client.executor()` against the standard library's ProcessPoolExecutor: the same tests run over both."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import importlib
import os
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.conftest import until
from zbrain_nb import Client, JobCanceledError, JobFailedError
from zbrain_nb.model.errors import NotPicklable, ValueNotKept

Make = Callable[..., cf.Executor]
WORK = """
import pathlib
import time

class Mine(Exception):
    def __init__(self, code, note):
        super().__init__(f"{code}: {note}")
        self.code, self.note = code, note

def square(x): return x * x
def add(x, y, *, z=0): return x + y + z
def divide(x, y): return x / y
def fail(code): raise Mine(code, note="why")
def quit(code): raise SystemExit(code)
def nothing(*args): pass
def generate(): yield 1

class Odd(Exception):
    def __reduce__(self):
        return int, ("no number",)

def fail_unloadable(): raise Odd("it is odd")
def fail_unpicklable():
    error = Odd("it is odd")
    Odd.__reduce__ = lambda self: (print, (time.sleep, open("/dev/null")))
    raise error
def wait_for(path):
    while not pathlib.Path(path).exists():
        time.sleep(0.01)
    return path
"""
SECS = 60


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A module that both kinds of processes import."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "zbrain_executor_work.py").write_text(WORK)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("zbrain_executor_work")
    sys.path.remove(str(folder))


@pytest.fixture(params=["process pool", "zbrain"])
def make(request: pytest.FixtureRequest, client: Client, work: Any) -> Iterator[Make]:
    """Makes executors of either kind; they are shut down after the test."""
    made: list[cf.Executor] = []

    def executor(max_workers: int | None = None) -> cf.Executor:
        one: cf.Executor
        if request.param == "zbrain":
            one = client.executor(max_workers, resources={"cpus": 0.01})
        else:
            import multiprocessing

            spawn = multiprocessing.get_context("spawn")  # a fork would copy the client's threads' locks
            one = cf.ProcessPoolExecutor(max_workers or 2, mp_context=spawn)
        made.append(one)
        return one

    yield executor
    for one in made:
        one.shutdown(cancel_futures=True)


def test_submit_gives_a_future_of_the_standard_library_with_its_result(make: Make, work: Any) -> None:
    with make() as executor:
        future = executor.submit(work.add, 1, 2, z=3)
        assert isinstance(future, cf.Future)
        assert future.result(SECS) == 6
        assert future.done()
        assert not future.running()
        assert not future.cancelled()
        assert future.exception() is None


def test_exception_is_the_original_with_the_remote_traceback_as_its_cause(make: Make, work: Any) -> None:
    with make() as executor:
        future = executor.submit(work.divide, 1, 0)
        with pytest.raises(ZeroDivisionError) as caught:
            future.result(SECS)
        error = future.exception()
        assert error is caught.value
        assert error is not None
        assert "ZeroDivisionError: division by zero" in str(error.__cause__)
        assert "divide" in str(error.__cause__)
        assert "in divide" in "".join(traceback.format_exception(error))


def test_exception_with_an_init_of_its_own_keeps_its_type(make: Make, work: Any) -> None:
    with make() as executor:
        error = executor.submit(work.fail, 7).exception(SECS)
        if isinstance(executor, cf.ProcessPoolExecutor):  # it cannot rebuild it, and the pool breaks
            assert isinstance(error, cf.process.BrokenProcessPool)
        else:
            assert type(error) is work.Mine
            assert str(error) == "7: why"


def test_system_exit_does_not_end_the_executor(make: Make, work: Any) -> None:
    with make() as executor:
        with pytest.raises(SystemExit) as caught:
            executor.submit(work.quit, 3).result(SECS)
        assert caught.value.code == 3
        assert executor.submit(work.square, 3).result(SECS) == 9


def test_what_cannot_travel_is_the_futures_exception_not_submits(make: Make, work: Any) -> None:
    with make() as executor:
        future = executor.submit(work.nothing, (n for n in [1]))
        assert future.exception(SECS) is not None
        assert executor.submit(work.square, 2).result(SECS) == 4


def test_map_keeps_order_and_ends_with_the_shortest(make: Make, work: Any) -> None:
    with make() as executor:
        assert list(executor.map(work.add, [3, 1, 2], range(100))) == [3, 2, 4]
        assert list(executor.map(work.square, [])) == []


def test_map_in_chunks_gives_the_same(make: Make, work: Any) -> None:
    with make() as executor:
        assert list(executor.map(work.add, range(7), range(7), chunksize=3)) == [2 * n for n in range(7)]
        with pytest.raises(ValueError):
            executor.map(work.square, [1], chunksize=0)


def test_map_raises_at_the_place_of_the_call_that_failed(make: Make, work: Any) -> None:
    with make() as executor:
        results = executor.map(work.divide, [4, 1, 9], [2, 0, 3])
        assert next(results) == 2
        with pytest.raises(ZeroDivisionError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)


def test_map_past_its_time_raises_timeout_error(make: Make, work: Any, gate: Path) -> None:
    with make() as executor:
        results = executor.map(work.wait_for, [str(gate)] * 2, timeout=0.05)
        with pytest.raises(TimeoutError):
            next(results)
        gate.touch()


def test_cancel_of_a_waiting_call_is_true_and_of_a_running_one_false(make: Make, work: Any, gate: Path) -> None:
    with make(1) as executor:
        first = executor.submit(work.wait_for, str(gate))
        others = [executor.submit(work.wait_for, str(gate)) for _ in range(4)]
        until(first.running)
        assert first.cancel() is False
        assert others[-1].cancel() is True
        assert others[-1].cancel() is True
        assert others[-1].cancelled()
        with pytest.raises(cf.CancelledError):
            others[-1].result()
        gate.touch()
        assert [future.result(SECS) for future in (first, *others[:-1])] == [str(gate)] * 4
        assert first.cancel() is False


def test_wait_and_as_completed_see_results_errors_and_cancels(make: Make, work: Any, gate: Path) -> None:
    with make(1) as executor:
        first = executor.submit(work.wait_for, str(gate))
        fails = executor.submit(work.divide, 1, 0)
        rest = [executor.submit(work.square, n) for n in range(3)]
        until(first.running)
        assert rest[-1].cancel()
        futures = [first, fails, *rest]
        _, waiting = cf.wait(futures, timeout=0, return_when=cf.FIRST_COMPLETED)
        assert first in waiting
        gate.touch()
        assert set(cf.as_completed(futures, timeout=SECS)) == set(futures)
        assert cf.wait(futures, timeout=0).not_done == set()
        assert [future.cancelled() for future in futures] == [False, False, False, False, True]


def test_callback_may_submit_and_cancel(make: Make, work: Any) -> None:
    with make() as executor:
        answers: list[int] = []
        told = threading.Event()

        def again(future: cf.Future[int]) -> None:
            more = executor.submit(work.square, future.result() + 1)
            more.add_done_callback(lambda last: (answers.append(last.result()), told.set()))
            future.cancel()

        executor.submit(work.square, 3).add_done_callback(again)
        assert told.wait(SECS)
        assert answers == [100]


def test_shutdown_waits_and_then_nothing_is_taken(make: Make, work: Any) -> None:
    executor = make()
    futures = [executor.submit(work.square, n) for n in range(5)]
    executor.shutdown()
    assert [future.done() for future in futures] == [True] * 5
    for call in (lambda: executor.submit(work.square, 1), lambda: list(executor.map(work.square, [1]))):
        with pytest.raises(RuntimeError, match="after shutdown"):
            call()
    executor.shutdown()


def test_shutdown_without_wait_lets_calls_end(make: Make, work: Any, gate: Path) -> None:
    executor = make()
    future = executor.submit(work.wait_for, str(gate))
    executor.shutdown(wait=False)
    assert not future.done()
    gate.touch()
    assert future.result(SECS) == str(gate)


def test_shutdown_with_cancel_futures_cancels_those_that_wait(make: Make, work: Any, gate: Path) -> None:
    executor = make(1)
    first = executor.submit(work.wait_for, str(gate))
    rest = [executor.submit(work.square, n) for n in range(10)]
    until(first.running)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.touch()
    assert first.result(SECS) == str(gate)
    assert rest[-1].cancelled()
    assert sum(future.cancelled() for future in rest) >= 8  # the pool has taken some ahead


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_a_value_error(make: Make, workers: int, client: Client) -> None:
    for kind in (client.executor, cf.ProcessPoolExecutor):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            kind(workers)


# What only jobs can do


def test_job_that_ends_without_python_fails_its_own_future_only(client: Client) -> None:
    import os

    with client.executor(resources={"cpus": 0.01}) as executor:
        good, bad = executor.submit(int, "7"), executor.submit(os._exit, 4)
        assert isinstance(bad.exception(SECS), JobFailedError)
        assert good.result(SECS) == 7


@pytest.mark.parametrize("name", ["fail_unpicklable", "fail_unloadable"])
def test_exception_that_cannot_come_here_is_told_with_its_traceback_as_cause(
    client: Client, work: Any, name: str
) -> None:
    with client.executor(resources={"cpus": 0.01}) as executor:
        error = executor.submit(getattr(work, name)).exception(SECS)
    assert isinstance(error, JobFailedError)
    assert str(error) == (
        f"Job {name!r} failed: Odd: it is odd. The Odd itself cannot be pickled, or not be rebuilt here."
    )
    assert f"in {name}" in str(error.__cause__)
    assert "\x1b" not in str(error.__cause__)


def test_result_that_cannot_be_kept_is_the_futures_exception(client: Client, work: Any) -> None:
    with client.executor(resources={"cpus": 0.01}) as executor:
        error = executor.submit(work.generate).exception(SECS)
    assert isinstance(error, ValueNotKept)
    assert "generator" in str(error)


def test_all_that_cannot_travel_is_named_in_the_futures_exception(client: Client, work: Any) -> None:
    with client.executor() as executor:
        error = executor.submit(work.add, (n for n in [1]), 2, z=threading.local()).exception(SECS)
    assert isinstance(error, NotPicklable)
    assert error.details["names"] == ["argument x", "argument z"]


def test_value_of_a_cell_that_cannot_be_kept_is_said_by_result_and_not_by_exception(client: Client) -> None:
    job = client.submit(code="(n for n in [1])")
    with pytest.raises(ValueNotKept, match="The value of type generator was not kept: cannot pickle"):
        job.result(SECS)
    assert job.exception() is None


def test_what_is_in_line_at_the_end_of_the_process_gets_to_the_server(client: Client) -> None:
    script = """
import zbrain_nb
client = zbrain_nb.connect()
client.pause()
executor = client.executor(name="in line at the end")
for number in range(1500):
    executor.submit(abs, number)
"""
    endpoint = client.call(client.asynchronous.transport.endpoint)
    environ = os.environ | {"ZBRAIN_URL": endpoint.url, "ZBRAIN_TOKEN": endpoint.token or ""}
    try:
        subprocess.run([sys.executable, "-c", script], check=True, timeout=SECS, env=environ)
        assert len(client.jobs(name="in line at the end", limit=1000)) == 1000
        assert client.queues()[0].waiting == 1500
    finally:
        client.resume()


def test_idle_executor_leaves_nothing_behind_and_works_again(
    client: Client, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbrain_nb.client.executor.IDLE_SECS", 0.05)

    def use() -> weakref.ref[Any]:
        executor = client.executor(resources={"cpus": 0.01})
        for number in range(2):
            assert executor.submit(work.square, number).result(SECS) == number * number
            until(lambda: executor._thread is None and executor._dispatch._follower is None)
        return weakref.ref(executor)

    gone = use()
    until(lambda: gc.collect() >= 0 and gone() is None)


def test_job_canceled_by_somebody_else_cancels_a_waiting_future_and_fails_a_running_one(
    client: Client, work: Any, gate: Path
) -> None:
    with client.executor(1) as executor:
        first, second = (executor.submit(work.wait_for, str(gate)) for _ in range(2))
        until(first.running)
        until(lambda: second.job_id)  # type: ignore[attr-defined]
        for future in (second, first):
            client.job(future.job_id).cancel()  # type: ignore[attr-defined]
        with pytest.raises(cf.CancelledError):
            second.result(SECS)
        with pytest.raises(JobCanceledError):
            first.result(SECS)


def test_many_calls_take_few_requests(client: Client, work: Any, requests: list[str]) -> None:
    with client.executor() as executor:
        assert list(executor.map(work.nothing, range(60))) == [None] * 60
    assert len([word for word in requests if word.startswith(("POST", "PUT", "HEAD"))]) <= 15


def test_option_that_does_not_hold_is_refused_when_the_executor_is_made(client: Client) -> None:
    with pytest.raises(Exception, match="timeout_secs"):
        client.executor(timeout_secs=-1)
