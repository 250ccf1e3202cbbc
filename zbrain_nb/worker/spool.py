"""The spool: one append-only file of frames for each attempt, between supervisor and worker.

The supervisor alone writes it, and holds the flock on it from before its job starts until the end is written.
So a locked spool is a running attempt, a free one with an end frame is finished, and a free one without an end
frame is lost. Readers take whole frames; a torn last frame, left by a crash, is never seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

HEADER = struct.Struct("<BdI")
#: The largest payload that is believed; more means that the writer of a pipe wrote no frames.
MAX_PAYLOAD = 256 * 1024 * 1024


class Kind(IntEnum):
    """What a frame holds; the last four stand in spools of many calls only (see `calls`)."""

    STDOUT = 1
    STDERR = 2
    EVENT = 3
    BEGIN = 4
    END = 5
    MARK = 6
    CALL = 7
    HANDED = 8
    WITHDRAWN = 9
    NAMED = 10


_KINDS = frozenset(Kind)


class Frame(NamedTuple):
    """One frame: what it holds (`Kind`), when it was written (seconds since the epoch), and its bytes."""

    kind: int
    ts: float
    payload: bytes


class Begin(msgspec.Struct, kw_only=True):
    """Payload of the first frame: who runs the attempt (`pid` is 0 when nothing was started).

    `outbox` is the folder for its files, if it is another than the request says.
    """

    pid: int
    supervisor_pid: int
    start_time: int = 0
    boot_id: str = ""
    outbox: str = ""


class End(msgspec.Struct, kw_only=True):
    """Payload of the last frame.

    Attributes
    ----------
    reason : str
        ``exited``, ``canceled``, ``timeout``, ``memory``, ``cpu``, ``fenced`` (its lease could not be renewed),
        ``stopped`` (its worker was told to stop), ``unstartable`` or ``supervisor`` (it failed).
    exit_code : int or None
        Of the main process; negative is a signal.
    signal : str or None
        Name of the signal that ended it.
    message : str
        One sentence for a person, when `reason` alone does not say it.
    peak_kib : int
        The most memory that was seen (see `usage`), in KiB; 0 if none was.
    cpu_secs : float or None
        CPU time of all processes that were reaped (see `usage`); None if nobody has counted.
    """

    reason: str
    exit_code: int | None = None
    signal: str | None = None
    message: str = ""
    peak_kib: int = 0
    cpu_secs: float | None = None


def pack(kind: int, payload: bytes, ts: float | None = None) -> bytes:
    """Return one frame as bytes."""
    return HEADER.pack(kind, time.time() if ts is None else ts, len(payload)) + payload


class SpoolWriter:
    """Writes a spool and holds its lock; made by `create`.

    `append` either writes a whole frame or leaves the file as it was.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = 0

    @classmethod
    def create(cls, path: Path) -> SpoolWriter:
        """Make the spool, locked from the moment it can be seen.

        Raises
        ------
        FileExistsError
            If the attempt has a spool already: it runs, or ran.
        """
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(fresh, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.link(fresh, path)
        except OSError:
            os.close(descriptor)
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh)
        return cls(descriptor)

    def append(self, kind: Kind, payload: bytes, ts: float | None = None) -> None:
        """Append one frame.

        Raises
        ------
        OSError
            If the disk does not take it; nothing of the frame stays.
        """
        self.append_packed(pack(kind, payload, ts))

    def append_packed(self, frames: bytes) -> None:
        """Append frames that are packed already (see `append`)."""
        rest = memoryview(frames)
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError:
            os.ftruncate(self.descriptor, self.size)
            raise
        self.size += len(frames)

    def append_struct(self, kind: Kind, value: msgspec.Struct) -> None:
        """Append one frame with a struct as JSON."""
        self.append(kind, msgspec.json.encode(value))

    def close(self) -> None:
        """Free the lock."""
        os.close(self.descriptor)


def write_closed(path: Path, end: End) -> bool:
    """Write the spool of an attempt that never started; return False if it has a spool already.

    Whoever makes the spool decides what becomes of the attempt, so this also bars a launch under way.
    """
    try:
        writer = SpoolWriter.create(path)
    except FileExistsError:
        return False
    writer.append_struct(Kind.BEGIN, Begin(pid=0, supervisor_pid=0))
    writer.append_struct(Kind.END, end)
    writer.close()
    return True


class SpoolReader:
    """Reads whole frames from a spool that may still grow.

    Raises
    ------
    FileNotFoundError
        If there is no spool.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.offset = 0

    def read(self, limit: int = 1 << 20) -> list[Frame]:
        """Return the next frames, about `limit` bytes of them (at least one, if one is whole)."""
        data = os.pread(self._descriptor, limit, self.offset)
        if len(data) >= HEADER.size:
            needed = HEADER.size + HEADER.unpack_from(data)[2]
            if len(data) < needed <= os.fstat(self._descriptor).st_size - self.offset:
                data = os.pread(self._descriptor, needed, self.offset)
        frames, used = split(data)
        self.offset += used
        return frames

    def rewind(self) -> None:
        """Start again from the first frame."""
        self.offset = 0

    def is_locked(self) -> bool:
        """Whether the supervisor lives."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def split(data: bytes) -> tuple[list[Frame], int]:
    """Return the whole frames at the start of `data`, and how many bytes they take."""
    frames = list(_frames(data))
    return frames, sum(HEADER.size + len(frame.payload) for frame in frames)


def _frames(data: bytes) -> Iterator[Frame]:
    at, total = 0, len(data)
    while at + HEADER.size <= total:
        kind, ts, length = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        if end > total or kind not in _KINDS:
            return
        yield Frame(kind, ts, data[at + HEADER.size : end])
        at = end


def read_json(payload: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an event frame, or None if it holds something else."""
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
