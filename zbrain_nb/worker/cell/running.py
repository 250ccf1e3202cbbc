"""Runs one cell, or one call, as a kernel would: inside a running loop, interruptible, errors caught and shown."""

from __future__ import annotations

import ast
import asyncio
import inspect
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import FrameType, SimpleNamespace
from typing import Any

from zbrain_nb.worker.cell.shell import CALL_FILE, Shell

INTERRUPTED = 130


class Outcome:
    """How the code ended.

    Attributes
    ----------
    value : object
        Of the last expression, or what the call returned.
    raised : BaseException or None
        What ended it early.
    interrupted : bool
        Whether a SIGINT did.
    """

    def __init__(self, value: Any = None, raised: BaseException | None = None, interrupted: bool = False) -> None:
        self.value = value
        self.raised = raised
        self.interrupted = interrupted or isinstance(raised, KeyboardInterrupt)

    @property
    def exit_code(self) -> int:
        """As a process of its own would end."""
        if self.interrupted:
            return INTERRUPTED
        if isinstance(self.raised, SystemExit):
            code = self.raised.code
            return 0 if code is None else code & 0xFF if isinstance(code, int) else 1
        return 0 if self.raised is None else 1


async def run_cell(shell: Shell, code: str) -> Outcome:
    """Run a cell's text; its errors are shown and returned, not raised."""
    trouble = None
    transformed = code
    try:
        transformed = shell.transform_cell(code)
    except SyntaxError:
        trouble = sys.exc_info()
    if not shell.should_run_async(code, transformed_cell=transformed, preprocessing_exc_tuple=trouble):
        # a synchronous cell keeps Python's own handler: SIGINT raises KeyboardInterrupt right in it
        return _outcome(shell.run_cell(code, store_history=True))
    task = asyncio.ensure_future(
        shell.run_cell_async(code, store_history=True, transformed_cell=transformed, preprocessing_exc_tuple=trouble)
    )
    result = None
    with _interrupt_cancels(task) as interrupt:
        try:
            result = await task
        except asyncio.CancelledError as error:
            return Outcome(raised=error, interrupted=interrupt.seen)
        finally:
            shell.events.trigger("post_execute")
            shell.events.trigger("post_run_cell", result)
    return _outcome(result, interrupt.seen)


def run_call(
    shell: Shell, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], args: Any, kwargs: Any
) -> Outcome:
    """Call a function outside of any loop, as a script would; a coroutine that it returns is awaited."""
    found: dict[str, Any] = {}

    def call() -> None:
        found["value"] = function(*args, **kwargs)

    async def wait() -> None:
        found["value"] = await found["value"]

    result = SimpleNamespace(error_before_exec=None, error_in_exec=None, result=None)
    with shell.builtin_trap, shell.display_trap:
        step = shell.run_code(_as_code("call()"), result)
        shell.user_ns["__zbrain_call__"] = call
        with suppress(StopIteration):
            step.send(None)
        if result.error_in_exec is None and inspect.isawaitable(found["value"]):
            shell.user_ns["__zbrain_call__"] = wait
            loop.run_until_complete(_awaiting(shell, result))
        del shell.user_ns["__zbrain_call__"]
    shell.events.trigger("post_execute")
    result.result = found.get("value")
    return _outcome(result)


async def _awaiting(shell: Shell, result: Any) -> None:
    with _interrupt_cancels(asyncio.current_task()):
        await shell.run_code(_as_code("await call()"), result, async_=True)


@lru_cache
def _as_code(text: str) -> Any:
    text = text.replace("call", "__zbrain_call__")
    return compile(text, CALL_FILE, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def _outcome(result: Any, interrupted: bool = False) -> Outcome:
    raised = result.error_before_exec or result.error_in_exec
    return Outcome(result.result, raised, interrupted and raised is not None)


@contextmanager
def _interrupt_cancels(task: asyncio.Task[Any] | None) -> Iterator[SimpleNamespace]:
    """Let the first SIGINT raise in the cell if it runs, and cancel it if it waits; the second always raises."""
    loop = asyncio.get_running_loop()
    state = SimpleNamespace(seen=False)

    def interrupt(number: int, frame: FrameType | None) -> None:
        state.seen = True
        if asyncio.current_task(loop) is task:
            signal.default_int_handler(number, frame)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop.call_soon_threadsafe(task.cancel if task is not None else loop.stop)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield state
    finally:
        signal.signal(signal.SIGINT, before)
