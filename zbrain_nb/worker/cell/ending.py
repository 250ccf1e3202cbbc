"""The end of a cell's process, in the order in which Python itself would end: tasks, threads, atexit functions."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from typing import Any


def finish_tasks(loop: asyncio.AbstractEventLoop, *, cancel: bool) -> None:
    """Let the tasks end that the cell has left behind, or cancel them; then the loop's helpers.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
        The cell's loop, not running.
    cancel : bool
        Whether the tasks shall be canceled, not awaited: the cell failed.
    """
    while tasks := asyncio.all_tasks(loop):
        if cancel:
            for task in tasks:
                task.cancel()
        try:
            _complete(loop, _all(tasks))
        except KeyboardInterrupt:
            if cancel:
                raise
            finish_tasks(loop, cancel=True)
            raise
    _complete(loop, loop.shutdown_asyncgens())


def finish_threads() -> None:
    """Wait for threads that are no daemons, as Python does at its end (pools are told to stop)."""
    threading._shutdown()  # type: ignore[attr-defined]


def finish_process() -> None:
    """Call what was registered with `atexit`; `os._exit` does not."""
    atexit._run_exitfuncs()


async def _all(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "Task exception was never retrieved", "exception": error, "task": task}
            )


def _complete(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
    loop.run_until_complete(work)
