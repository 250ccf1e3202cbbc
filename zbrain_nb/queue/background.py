"""`Background`: what its owner starts, such as a watch, and then runs beside everything else until it is stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Background:
    """One task of its owner.

    Parameters
    ----------
    run : callable
        What is done; most often for ever.
    """

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._run = run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the loop that runs now; harmless while it is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(_say_if_broken)

    async def stop(self) -> bool:
        """End it; return whether it was started, also if it has ended since."""
        task, self._task = self._task, None
        if task is None:
            return False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # what broke it was logged when it broke
        return True


def _say_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        what = getattr(task.get_coro(), "__qualname__", "")
        message = "What ran in the background broke, and rests until it is started again."
        log.error(message, exc_info=error, extra={"what": what})
