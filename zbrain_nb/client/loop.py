"""The one event loop of all blocking clients of a process, in a daemon thread of its own.

anyio's blocking portal is not used: as a context manager it wants to be closed, and closing it while the
interpreter ends, or in a forked child that has no such thread, waits for ever.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
END_SECS = 2.0
#: They tell of each request; in a notebook whose user asked for INFO that would be all one sees.
_TALKATIVE = ("httpx", "httpcore.connection", "httpcore.http11", "websockets.client")


class LoopThread:
    """An asyncio loop that runs in a thread until the process ends."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="zbrain-client", daemon=True)
        self._thread.start()
        for name in _TALKATIVE:
            logging.getLogger(name).addFilter(self._is_not_ours)
        atexit.register(self._end)

    def start(self, function: Callable[..., Awaitable[T]], *args: Any) -> concurrent.futures.Future[T]:
        """Start a coroutine function in the loop, from any other thread; canceling the future cancels it."""

        async def run() -> T:
            return await function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self._loop)

    def run(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function in the loop and return its result.

        Raises
        ------
        KeyboardInterrupt
            If one came while waiting; the coroutine has been canceled and has ended.
        """
        ended = threading.Event()

        async def tell() -> T:
            try:
                return await function(*args)
            finally:
                ended.set()

        future = self.start(tell)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(END_SECS)
            raise

    def _is_not_ours(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread.ident or record.levelno >= logging.WARNING

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with contextlib.suppress(TimeoutError):
            self._loop.run_until_complete(_all_ended(asyncio.all_tasks(self._loop)))
        self._loop.close()

    def _end(self) -> None:
        if self._pid == os.getpid():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(END_SECS)

    @property
    def is_here(self) -> bool:
        """Whether the thread lives in this process: a forked child has none."""
        return self._pid == os.getpid()


async def _all_ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), END_SECS / 2)


_lock = threading.Lock()
_shared: LoopThread | None = None


def shared_loop() -> LoopThread:
    """Return the loop, started by the first caller (again after a fork)."""
    global _shared  # noqa: PLW0603 - the one loop of this process
    with _lock:
        if _shared is None or not _shared.is_here:
            _shared = LoopThread()
        return _shared
