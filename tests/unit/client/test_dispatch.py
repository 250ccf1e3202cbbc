"""What becomes of an executor's calls when the server refuses some, is away, or what listens to it has ended."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.client.conftest import until
from zbrain_nb import Client, ZBrainError
from zbrain_nb.client.calls import pack_function
from zbrain_nb.client.dispatch import Call, Dispatch
from zbrain_nb.client.executor import JobExecutor
from zbrain_nb.model.errors import InvalidSpec, ServerUnreachable
from zbrain_nb.model.job import Job
from zbrain_nb.model.payload import pack_arguments

SECS = 60


class Desk:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.values: dict[Call, bytes | None] = {}
        self.errors: dict[Call, Exception] = {}

    def started(self, call: Call) -> None:
        pass

    def ended(self, call: Call, job: Job, data: bytes | None) -> None:
        self.values[call] = data

    def refused(self, call: Call, error: Exception) -> None:
        self.errors[call] = error


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def dispatch(client: Client, desk: Desk) -> Iterator[Dispatch]:
    dispatch = Dispatch(client.asynchronous, desk)
    yield dispatch
    client.call(dispatch.stop)


@pytest.fixture
def paused(client: Client) -> Iterator[None]:
    """No job starts."""
    client.pause()
    yield
    client.resume()


def call_of(function: Callable[..., Any], *args: Any, **fields: Any) -> Call:
    return Call(pack_function(function), pack_arguments(args, {}), {"resources": {"cpus": 0.01}, **fields})


def submit(client: Client, dispatch: Dispatch, *calls: Call) -> None:
    """Submit calls in one list."""
    for call in calls:
        dispatch.add(call)
    client.call(dispatch.pump)


def test_call_that_the_server_refuses_fails_alone(client: Client, dispatch: Dispatch, desk: Desk) -> None:
    calls = [call_of(int, name="a\nb" if number == 3 else "good") for number in range(7)]
    submit(client, dispatch, *calls)
    until(lambda: len(desk.values) == 6)
    assert list(desk.errors) == [calls[3]]
    assert isinstance(desk.errors[calls[3]], InvalidSpec)
    assert "name" in str(desk.errors[calls[3]])


def test_whatever_goes_wrong_with_a_submit_is_told_to_its_calls(
    client: Client, dispatch: Dispatch, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Any) -> Any:
        raise ArithmeticError("it does not add up")

    calls = [call_of(int), call_of(int)]
    with monkeypatch.context() as patch:
        patch.setattr(client.asynchronous, "submit", fail)
        submit(client, dispatch, *calls)
    assert [str(desk.errors[call]) for call in calls] == ["it does not add up"] * 2
    assert all(call.settled is not None and call.settled.is_set() for call in calls)
    good = call_of(int)
    submit(client, dispatch, good)
    until(lambda: good in desk.values)


def test_whatever_ends_the_follower_is_told_to_its_calls(
    client: Client, dispatch: Dispatch, desk: Desk, monkeypatch: pytest.MonkeyPatch, paused: None
) -> None:
    def fail(*_: Any) -> Any:
        raise ArithmeticError("it does not add up")

    call = call_of(int)
    with monkeypatch.context() as patch:
        patch.setattr(client.asynchronous.transport, "events", fail)
        submit(client, dispatch, call)
        until(lambda: call in desk.errors)
    assert isinstance(desk.errors[call], ArithmeticError)


def test_end_that_came_while_nobody_followed_is_heard_with_the_next_call(
    client: Client, dispatch: Dispatch, desk: Desk
) -> None:
    client.pause()
    first, second = call_of(int), call_of(int)
    try:
        submit(client, dispatch, first)
        client.call(dispatch.stop)
    finally:
        client.resume()
    assert first.job is not None
    client.job(first.job.id).wait(SECS)
    assert first not in desk.values
    submit(client, dispatch, second)
    until(lambda: desk.values.keys() == {first, second})


def test_job_that_the_server_does_not_know_any_more_fails_its_call(
    client: Client, dispatch: Dispatch, desk: Desk, monkeypatch: pytest.MonkeyPatch, paused: None
) -> None:
    async def forget(ids: Any) -> tuple[list[Job], int]:
        return [], 0

    call = call_of(int)
    submit(client, dispatch, call)
    with monkeypatch.context() as patch:
        patch.setattr(client.asynchronous, "lookup", forget)
        client.call(dispatch._look)
    assert "does not know job" in str(desk.errors[call])


def test_calls_in_line_are_canceled_although_the_server_is_away(
    client: Client, monkeypatch: pytest.MonkeyPatch, paused: None
) -> None:
    executor: JobExecutor = client.executor()
    first: Any = executor.submit(int)
    until(lambda: first.job_id)
    held = threading.Event()
    release = asyncio.Event()

    async def hold(_: Any) -> Any:
        held.set()
        await release.wait()
        raise ServerUnreachable("It is away.")

    async def away(*_: Any, **__: Any) -> Any:
        raise ServerUnreachable("It is away.")

    with monkeypatch.context() as patch:
        patch.setattr(client.asynchronous, "submit", hold)
        patch.setattr(client.asynchronous, "cancel", away)
        on_its_way = executor.submit(int)
        assert held.wait(SECS)
        in_line = [executor.submit(int) for _ in range(3)]
        assert executor.cancel_all([first, *in_line]) == [False, True, True, True]  # type: ignore[list-item]

        async def let_go() -> None:
            release.set()

        client.call(let_go)
        assert isinstance(on_its_way.exception(SECS), ZBrainError)
    assert not first.done()
    assert first.cancel()
    executor.shutdown()
    assert cf.wait([first, on_its_way, *in_line], timeout=0).not_done == set()
