"""The fence around an attempt on another machine than the queue's: until when its lease is known to last.

The worker writes it, the attempt's supervisor reads it and kills its tree in time, whether the worker lives or not.
A file of eight bytes in ``runs/``: seconds of CLOCK_BOOTTIME, which also counts while the machine is suspended.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import time
from pathlib import Path

_SECONDS = struct.Struct("<d")
#: A tree is killed so long before the lease ends, but never in more than this share of the lease.
MARGIN_SECS, MARGIN_SHARE = 5.0, 0.1


def margin_secs(ttl_secs: float) -> float:
    """Return how long before the end of a lease of `ttl_secs` its processes have to be killed."""
    return min(MARGIN_SECS, ttl_secs * MARGIN_SHARE)


def now() -> float:
    """Return the seconds that fences count in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def fence_path(folder: Path, job_id: str, attempt: int) -> Path:
    """Where the fence of an attempt lies in a worker's folder."""
    return folder / "runs" / f"{job_id}.{attempt}.fence"


def _write(path: Path, until: float, flags: int) -> None:
    """Set a fence; a supervisor that reads at the same time sees the old or the new."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
    try:
        os.pwrite(descriptor, _SECONDS.pack(until), 0)
    finally:
        os.close(descriptor)


class Fences:
    """The worker's side: sets the fences of its attempts while its queue says that it needs any.

    Parameters
    ----------
    folder : Path
        The worker's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ttl_secs: float | None = None

    @property
    def are_up(self) -> bool:
        """Whether the queue goes by the clock."""
        return self._ttl_secs is not None

    def set_up(self, ttl_secs: float | None) -> None:
        """Hear how long leases last, or, with None, that no clock ends what runs here."""
        if ttl_secs is None and self._ttl_secs is not None:
            for path in (self._folder / "runs").glob("*.fence"):
                with contextlib.suppress(FileNotFoundError):
                    _write(path, math.inf, 0)
        self._ttl_secs = ttl_secs

    def begin(self, job_id: str, attempt: int, asked_at: float) -> None:
        """Put a fence around an attempt whose lease was asked for at `asked_at` (see `now`)."""
        if self._ttl_secs is not None:
            _write(fence_path(self._folder, job_id, attempt), self._until(self._ttl_secs, asked_at), os.O_CREAT)

    def renew(self, job_id: str, attempt: int, asked_at: float) -> None:
        """Move the fence of an attempt whose lease was renewed by a request sent at `asked_at`; harmless without."""
        if self._ttl_secs is not None:
            with contextlib.suppress(FileNotFoundError):  # the attempt is over
                _write(fence_path(self._folder, job_id, attempt), self._until(self._ttl_secs, asked_at), 0)

    @staticmethod
    def _until(ttl_secs: float, asked_at: float) -> float:
        return asked_at + ttl_secs - margin_secs(ttl_secs)


class Fence:
    """What a supervisor sees of its attempt's fence.

    Parameters
    ----------
    path : Path
        Its file; there is none for an attempt that no clock shall end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def secs_left(self) -> float | None:
        """Return how long the attempt may still run; None is for ever."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            data = os.pread(descriptor, _SECONDS.size, 0)
        finally:
            os.close(descriptor)
        if len(data) < _SECONDS.size:
            return None  # it is being made: whoever makes it is alive
        until: float = _SECONDS.unpack(data)[0]
        return until - now()
