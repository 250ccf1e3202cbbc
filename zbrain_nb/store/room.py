"""Room on the disk: a floor under which nothing new is taken in, and a ballast that lets the rest be finished.

The ballast is a file of zeros beside the database, really allocated. When the disk fills up it is removed, so that
running jobs can report their ends; it is made again when space is back. What is *free* here is what would be free
with the ballast in place, so that giving it away does not let new jobs in.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from pathlib import Path

from zbrain_nb.model.sizes import disk_floor

log = logging.getLogger(__name__)

#: The size of the ballast: so much, or on a small disk this part of it.
BALLAST_BYTES, BALLAST_PART = 128 << 20, 0.05
#: Between two looks at the disk.
LOOK_SECS = 0.02
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Room:
    """What a disk still takes; safe to use from several threads.

    Parameters
    ----------
    folder : Path or None
        A folder on the disk, or one that will be made there; None has all the room there is.
    ballast : Path or None
        Where the ballast lies; None does without.
    """

    def __init__(self, folder: Path | None, ballast: Path | None = None) -> None:
        self._folder = folder
        self._ballast = ballast
        self._lock = threading.Lock()
        self._look_at = 0.0
        self._is_low = False
        self._held = ballast is not None and ballast.exists()

    def is_low(self) -> bool:
        """Whether new jobs and uploads have to be refused; looks at the disk now and then."""
        if self._folder is None:
            return False
        now = time.monotonic()
        if now >= self._look_at:
            with self._lock:
                self._look_at = now + LOOK_SECS
                self._look(self._folder)
        return self._is_low

    def look_now(self) -> bool:
        """Look at the disk at once; return `is_low`."""
        self._look_at = 0.0
        return self.is_low()

    def free_bytes(self) -> int:
        """Return how much the disk has left; 0 if there is none (a store in memory)."""
        found = _disk_of(self._folder) if self._folder is not None else None
        return found[0] if found else 0

    def close(self) -> None:
        """Remove the ballast: nothing is to be finished here."""
        with self._lock:
            if self._ballast is not None and self._held:
                self._held = False
                self._ballast.unlink(missing_ok=True)

    def _look(self, folder: Path) -> None:
        found = _disk_of(folder)
        if found is None:
            return
        free, total = found
        floor = disk_floor(total)
        size = 0 if self._ballast is None else min(BALLAST_BYTES, int(total * BALLAST_PART))
        spare = free - (0 if self._held else size)
        was_low, self._is_low = self._is_low, spare < floor
        if self._held and free < floor / 2:
            self._release()
        elif not self._held and size and not self._is_low:
            self._hold(size)
        if self._is_low and not was_low:
            log.error("The disk is nearly full; new jobs are refused.", extra={"folder": str(folder), "free": free})
        elif was_low and not self._is_low:
            log.warning("There is room on the disk again; new jobs are taken.", extra={"free": free})

    def release(self) -> bool:
        """Give the ballast away at once, for a write found no room; return whether there was one."""
        with self._lock:
            self._look_at = 0.0
            return self._release()

    def _release(self) -> bool:
        if self._ballast is None or not self._held:
            return False
        self._held = False
        with contextlib.suppress(FileNotFoundError):
            self._ballast.unlink()
        log.warning("The ballast was given away, so that running jobs can end.", extra={"file": str(self._ballast)})
        return True

    def _hold(self, size: int) -> None:
        assert self._ballast is not None
        descriptor = os.open(self._ballast, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            self._held = True
        except OSError as error:
            self._ballast.unlink()
            if error.errno not in _NO_ROOM:
                log.warning("No ballast can be made here.", extra={"file": str(self._ballast), "why": str(error)})
        finally:
            os.close(descriptor)


def _disk_of(folder: Path) -> tuple[int, int] | None:
    """Return the free and the total bytes of the disk on which the folder lies, or will lie."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError):
            found = os.statvfs(place)
            return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return None
