"""The fence around an attempt on another machine than the queue's: until when its lease is known to last.

The worker writes it, the attempt's supervisor reads it and kills its tree in time, whether the worker lives or not.
A file of eight bytes in ``runs/``: seconds of CLOCK_BOOTTIME, which also counts while the machine is suspended.
"""

from __future__ import annotations

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


def write_fence(path: Path, until: float) -> None:
    """Set the fence; a supervisor that reads at the same time sees the old or the new."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, _SECONDS.pack(until), 0)
    finally:
        os.close(descriptor)


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
