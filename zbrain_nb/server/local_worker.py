"""The watch over a local worker, the host's or, on JupyterHub, a user's own.

It starts the worker, starts it again when it ended, and adopts one that already lives.

The worker is a process of its own in its own session, so that it outlives the host; it is known by the lock in
its folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from zbrain_nb.model.datadir import LEAVE_SIGNAL, DataDir, is_locked, lock_holder
from zbrain_nb.model.environment import serving_environ
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue.background import Background

log = logging.getLogger(__name__)
CHECK_SECS = 0.25
LONGEST_PAUSE_SECS = 30.0
STOP_SECS = 10.0


class LocalWorkerWatch:
    """Keeps one local worker running on a folder.

    Parameters
    ----------
    folder : Path
        The worker's.
    command : list of str
        What runs it.
    umask : int
        The worker's and its jobs'; -1 leaves them this process's.
    """

    def __init__(self, folder: Path, command: list[str], *, umask: int = -1) -> None:
        self._command = command
        self._umask = umask
        self._lock = folder / "worker.lock"
        self._process: subprocess.Popen[bytes] | None = None
        self._watching = Background(self._watch)

    def start(self) -> None:
        """Begin to watch; a worker is started if none lives."""
        self._watching.start()

    async def stop(self, *, end_worker: bool) -> None:
        """Cease to watch; with `end_worker`, end the worker too (its running jobs go on)."""
        await self._watching.stop()
        if end_worker:
            await self._end()

    async def _end(self) -> None:
        pid = lock_holder(self._lock)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, LEAVE_SIGNAL)
        deadline = time.monotonic() + STOP_SECS
        while is_locked(self._lock) and time.monotonic() < deadline:
            if self._process is not None:
                self._process.poll()
            await asyncio.sleep(0.05)

    async def _watch(self) -> None:
        pause = CHECK_SECS
        started = 0.0
        while True:
            if self._process is not None and self._process.poll() is not None:
                log.warning("local worker ended", extra={"code": self._process.returncode, "pid": self._process.pid})
                self._process = None
                pause = min(pause * 2, LONGEST_PAUSE_SECS) if time.monotonic() - started < 5 else CHECK_SECS
                await asyncio.sleep(pause if pause > CHECK_SECS else 0)
            if self._process is None and not is_locked(self._lock):
                started = time.monotonic()
                self._process = self._spawn()
                log.info("local worker started", extra={"pid": self._process.pid})
            await asyncio.sleep(CHECK_SECS)  # the worker may not be our child: its lock has no event to wait for

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=self._lock.parent.parent,
            umask=self._umask,
            env=serving_environ(),
        )


def host_worker_command(data: DataDir, settings: Settings) -> list[str]:
    """Return what runs the worker of a data directory's host."""
    command = [sys.executable, "-m", "zbrain_nb.worker", "--data", str(data.root)]
    return [*command, "--concurrency", str(settings.worker_concurrency)]
