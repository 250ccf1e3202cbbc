"""Keeps a user's server from being culled while jobs run beside it: the culler ends it, and with it they would end.

Cullers go by the server's last activity, which is the latest of all settings of Jupyter whose names end in
``_last_activity``. Started by the extension. The person is told by way of the worker (see `zbrain_nb.model.culling`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from zbrain_nb.model.culling import WRITE_SECS, Culling, write_culling
from zbrain_nb.model.datadir import is_locked
from zbrain_nb.queue.background import Background

#: The setting of Jupyter that is kept fresh.
ACTIVITY = "zbrain_last_activity"


class WebApp(Protocol):
    """What is needed of Jupyter's web application."""

    settings: dict[str, object]

    def last_activity(self) -> datetime:
        """Return when the server last did something."""
        ...


class ActivityKeeper:
    """Keeps one server's activity fresh while jobs run beside it.

    Parameters
    ----------
    app : WebApp
        Jupyter's.
    folder : Path
        The folder of the worker beside the server.
    cap : timedelta
        For how long after the last activity of anybody else; 0 lets the server be culled, and only says so.
    log : logging.Logger
        Jupyter's, for the person who looks there why the server lives, or does not.
    clock : callable
        Gives the time.
    """

    def __init__(
        self,
        app: WebApp,
        folder: Path,
        cap: timedelta,
        log: logging.Logger,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._app = app
        self._folder = folder
        self._cap = cap
        self._log = log
        self._clock = clock
        self._is_keeping = self._is_over = False
        self._watch = Background(self._look_for_ever)

    def start(self) -> None:
        """Begin to look."""
        self._watch.start()

    async def stop(self) -> None:
        """Cease to look."""
        await self._watch.stop()

    async def _look_for_ever(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(WRITE_SECS)

    def look(self) -> None:
        """Refresh the activity if jobs run, unless nobody else has been active for as long as the cap."""
        running = running_attempts(self._folder)
        kept = self._app.settings.pop(ACTIVITY, None)
        active_at = self._app.last_activity()
        idle = self._clock() - active_at
        self._tell(active_at)
        if running and idle < self._cap:
            kept = self._clock()
            if not self._is_keeping:
                self._log.info("zbrain: %d jobs run here, so this server counts as active and is not culled", running)
        elif running and self._cap and not self._is_over:
            self._log.warning(
                "zbrain: %d jobs run here, but this server may be culled: nobody did anything for %s "
                "(ZBrainExtension.keep_server_hours)",
                running,
                timedelta(seconds=int(idle.total_seconds())),
            )
        if kept is not None:
            self._app.settings[ACTIVITY] = kept
        self._is_keeping = running > 0 and idle < self._cap
        self._is_over = running > 0 and idle >= self._cap

    def _tell(self, active_at: datetime) -> None:
        try:
            write_culling(self._folder, Culling(active_at=active_at.timestamp(), cap_secs=self._cap.total_seconds()))
        except OSError as error:  # that it cannot be told is no reason to be culled
            self._log.warning("zbrain: the worker is not told how long jobs keep this server: %s", error)


def running_attempts(folder: Path) -> int:
    """Return how many attempts, or sessions of calls, run in a worker's folder."""
    return sum(is_locked(spool) for spool in (folder / "runs").glob("*.spool"))
