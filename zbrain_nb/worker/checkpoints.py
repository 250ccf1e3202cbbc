"""The folders in which jobs keep checkpoints: they outlive attempts, and a job's Retry has the same one.

They lie in the worker's folder, under the id of the first job; a Retry has a link of its own id to it. A folder
goes when the queue keeps neither that job nor any Retry of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import Job

log = logging.getLogger(__name__)
#: So often the queue is asked which jobs it keeps.
_PAUSE_SECS = 3600.0
#: Younger folders are let be.
YOUNG_SECS = 86_400.0


class Checkpoints:
    """The checkpoints in one worker's folder.

    Parameters
    ----------
    root : Path
        Made when the first job needs it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder_of(self, job: Job) -> Path:
        """Return where the job's checkpoints lie, or would lie; a Retry is given those of the job that it repeats."""
        own = self._root / job.id
        if job.retry_of is None:
            return own
        if not os.path.lexists(own):
            before = self._target(self._root / job.retry_of)
            if before.is_dir() and any(before.iterdir()):
                own.symlink_to(before.name)
        return self._target(own)

    async def sweep_for_ever(self, keeps: Callable[[str], Awaitable[bool]]) -> None:
        """Remove now and then what no job needs that the queue keeps.

        Parameters
        ----------
        keeps : callable
            Says whether the queue keeps a job; may raise `ZBrainError`.
        """
        while True:
            await asyncio.sleep(_PAUSE_SECS)
            try:
                await self.sweep(keeps, time.time() - YOUNG_SECS)
            except (ZBrainError, OSError) as error:
                log.warning("checkpoints could not be looked through", extra={"why": str(error)})

    async def sweep(self, keeps: Callable[[str], Awaitable[bool]], before: float) -> int:
        """Remove folders that no kept job needs, untouched since `before` (seconds since the epoch); return how many.

        Raises
        ------
        ZBrainError
            If the queue did not answer; nothing was removed that a job needs.
        OSError
            If a folder cannot be read or removed.
        """
        needed: set[Path] = set()
        gone: list[Path] = []
        for entry in await asyncio.to_thread(self._entries):
            if entry.lstat().st_mtime >= before or await keeps(entry.name):
                needed.add(self._target(entry))
            elif entry.is_symlink():
                entry.unlink()
            else:
                gone.append(entry)
        removable = [entry for entry in gone if entry not in needed]
        for entry in removable:
            await asyncio.to_thread(shutil.rmtree, entry)
            log.info("checkpoints were removed, for their job is kept no more", extra={"job": entry.name})
        return len(removable)

    def _entries(self) -> list[Path]:
        try:
            return sorted(self._root.iterdir())
        except FileNotFoundError:
            return []

    def _target(self, entry: Path) -> Path:
        try:
            return self._root / os.readlink(entry)
        except OSError:  # no link
            return entry
