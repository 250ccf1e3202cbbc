"""The one event loop of all blocking clients of a process, in a daemon thread of its own."""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import ExitStack

from anyio.from_thread import BlockingPortal, start_blocking_portal

_lock = threading.Lock()
_portal: BlockingPortal | None = None
_stack: ExitStack | None = None
_pid = 0


def shared_portal() -> BlockingPortal:
    """Return the portal to the loop, started by the first caller (again after a fork)."""
    global _portal, _stack, _pid  # noqa: PLW0603 - the one loop of this process
    with _lock:
        if _portal is None or _pid != os.getpid():
            _stack = ExitStack()
            _portal = _stack.enter_context(start_blocking_portal("asyncio", name="zbrain-client"))
            _pid = os.getpid()
            atexit.register(_stop, _pid)
        return _portal


def _stop(pid: int) -> None:
    if _portal is not None and pid == os.getpid():
        _portal.start_task_soon(_portal.stop, True)
