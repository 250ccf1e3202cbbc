"""The worker's look at itself: room on its disk, load, what is free; what is wrong, it says with its heartbeats.

A worker that is not well takes no jobs until it is well again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from zbrain_nb.model.culling import Culling, read_culling
from zbrain_nb.model.protocol import MAX_PATH, Health
from zbrain_nb.model.sizes import format_kib

log = logging.getLogger(__name__)
LOOK_SECS = 2.0
#: With less room than this on the disks that jobs write to, no job is begun.
LOW_DISK_BYTES = 64 << 20


def sayable(text: str) -> str:
    """Return what went wrong as a heartbeat takes it, whatever an error says: one that is refused renews no lease."""
    return text[:MAX_PATH].replace("\0", "?").encode(errors="replace").decode()


class Checkup:
    """Looks now and then.

    Parameters
    ----------
    folder : Path
        The worker's, where a person's server beside it says how long jobs keep that from being culled.
    folders : list of Path
        Where jobs write.
    changed : callable
        Called when the worker has become well, or is so no more.
    """

    def __init__(self, folder: Path, folders: list[Path], changed: Callable[[], None]) -> None:
        self._folder = folder
        self._folders = folders
        self._changed = changed
        self.problem = ""
        self._disk_free_bytes: int | None = None
        self._load: float | None = None
        self._culling: Culling | None = None

    def health(self, last_error: str = "", **more: object) -> Health:
        """Return what was seen last."""
        return Health(
            problem=sayable(self.problem),
            last_error=sayable(last_error),
            load=self._load,
            disk_free_bytes=self._disk_free_bytes,
            culling=self._culling,
            **more,  # type: ignore[arg-type]
        )

    async def look_for_ever(self) -> None:
        """Look every `LOOK_SECS`."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECS)

    async def look(self) -> None:
        """Look once."""
        problem = await asyncio.to_thread(self._look)
        if problem != self.problem and bool(problem) != bool(self.problem):
            log.warning("worker is well again" if not problem else "worker takes no jobs", extra={"why": problem})
            self.problem = problem
            self._changed()
        self.problem = problem

    def _look(self) -> str:
        self._load = os.getloadavg()[0]
        self._culling = read_culling(self._folder)
        rooms = []
        for folder in self._folders:
            try:
                rooms.append((shutil.disk_usage(_existing(folder)).free, folder))
            except OSError as error:
                return f"Jobs cannot write to {folder}: {error.strerror}."
        self._disk_free_bytes, folder = min(rooms)
        if self._disk_free_bytes < LOW_DISK_BYTES:
            return f"Only {format_kib(self._disk_free_bytes / 1024)} are free on the disk of {folder}."
        return ""


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there: it is made for the first job."""
    return next((place for place in (folder, *folder.parents) if place.exists()), folder)
