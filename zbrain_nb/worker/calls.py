"""Sessions of calls: many small functions, one after the other, in a process that is used again; or small commands.

A *session* is one foreman (`foreman`) with one spool, in the worker's folder named as an attempt with the number 0 of a
job that does not exist. The worker tells it what to do by an *order book*, an append-only file of JSON lines: what
stands there is done even if the worker dies. What the calls say stands in the session's spool: each frame of a call is
wrapped in a `CALL` frame with the call's number, so that the frames of one call are what an attempt's own spool holds.
`HANDED` frames name calls that may run from then on, `WITHDRAWN` ones calls that certainly never ran and never will,
`NAMED` ones calls that got a name in the folder by which the queue sees that they live. Each call's number stands in a
file of the session before the call begins: if the foreman is killed, that tells the calls that never ran.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from zbrain_nb.worker.spool import Frame, Kind, pack

log = logging.getLogger(__name__)
SESSION_PREFIX = "calls-"
TAG = struct.Struct("<IB")
NUMBER = struct.Struct("<I")
#: The exit code of a runner that ends because it shall not be used again, not because of a call.
RETIRED = 75
#: What a runner says at the end of a call: whether another may follow. `End` may follow, of a command it does.
MORE, LAST = b"more", b"last"
#: The longest order that a runner takes.
PACKET_BYTES = 128 * 1024


class HighMark:
    """The number of the call of a session that began last; what stands here outlives the session's processes.

    Parameters
    ----------
    outbox : str
        Of the session; the file is made there.

    Raises
    ------
    OSError
        If it cannot be.
    """

    def __init__(self, outbox: str) -> None:
        self._descriptor = os.open(f"{outbox}/begun", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def raise_to(self, number: int) -> None:
        """Write down a call that is about to begin.

        Raises
        ------
        OSError
            If the disk does not take it; then the call must not begin.
        """
        os.pwrite(self._descriptor, NUMBER.pack(number), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    @staticmethod
    def read(outbox: str) -> int | None:
        """Return the number that stands there; -1 before the first call, None if nothing can be said."""
        try:
            data = Path(outbox, "begun").read_bytes()
            return int(NUMBER.unpack(data)[0]) if data else -1
        except (OSError, struct.error):
            return None


class Call(msgspec.Struct, tag="call"):
    """An order: run a call.

    Attributes
    ----------
    number : int
        0, 1, 2, ... in its session.
    job_id, attempt : str, int
        Whose attempt it is.
    path, sha256 : str
        The file with the pickled call, and what it has to hash to; empty for a command.
    timeout_secs : float or None
        How long it may run.
    input : object
        The job's JSON input.
    arguments : str or None
        Packed arguments to add to the call's own, as Base64.
    cmd : list of str or None
        A command, run without a shell; then there is no file.
    checkpoints : str
        Folder that outlives the attempt; made when the call asks for it.
    token : str
        The attempt's own; empty if it has none.
    """

    number: int
    job_id: str
    attempt: int
    path: str
    sha256: str
    timeout_secs: float | None = None
    input: Any = None
    arguments: str | None = None
    cmd: list[str] | None = None
    checkpoints: str = ""
    token: str = ""


class Cancel(msgspec.Struct, tag="cancel"):
    """An order: end a call, or do not begin it."""

    number: int


class Withdraw(msgspec.Struct, tag="withdraw"):
    """An order: give back all calls that were not begun."""


class Close(msgspec.Struct, tag="close"):
    """An order: end when all calls have; no more will come."""


Order = Call | Cancel | Withdraw | Close
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Order).decode


def encode_order(order: Order) -> bytes:
    """Return one line of an order book."""
    return _encode(order) + b"\n"


class OrderBook:
    """The writing end; of the worker that holds the folder's lock.

    Parameters
    ----------
    path : Path
        Made if it is not there. A last line that was cut off, for its writer was killed, is removed.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        if content and not content.endswith(b"\n"):
            os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)
        self._path = path
        self._owed: list[Order] = []
        self._is_in_debt = False  # and it was said

    def append(self, orders: Iterable[Order]) -> None:
        """Write orders; they stand when this returns.

        Raises
        ------
        OSError
            If the disk does not take them; then none stands.
        """
        size = os.fstat(self._descriptor).st_size
        rest = memoryview(b"".join(map(encode_order, orders)))
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def owe(self, order: Order) -> None:
        """Take an order that has to be written, by the next `pay` that the disk allows."""
        self._owed.append(order)

    def pay(self) -> bool:
        """Write the orders that are owed; return whether any were written. What the disk does not take stays owed."""
        if not self._owed:
            return False
        try:
            self.append(self._owed)
        except OSError as error:
            if not self._is_in_debt:
                log.warning("orders wait for the disk", extra={"book": self._path.name, "why": str(error)})
            self._is_in_debt = True
            return False
        self._owed.clear()
        self._is_in_debt = False
        return True

    def close(self) -> None:
        """Close the file; harmless when it is closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class OrderReader:
    """The reading end.

    Raises
    ------
    FileNotFoundError
        If there is no book.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._offset = 0

    def read(self) -> list[Order]:
        """Return the orders since the last time; a line that is not whole yet comes later."""
        data = os.pread(self.descriptor, max(0, os.fstat(self.descriptor).st_size - self._offset), self._offset)
        end = data.rfind(b"\n") + 1
        self._offset += end
        return [_decode(line) for line in data[:end].splitlines()]

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def pack_of_call(number: int, kind: int, payload: bytes, ts: float | None = None) -> bytes:
    """Return a frame of a call, as it stands in the spool of its session."""
    return pack(Kind.CALL, TAG.pack(number, kind) + payload, ts)


def unpack_of_call(frame: Frame) -> tuple[int, Frame]:
    """Return the number of the call, and the frame as the call's own."""
    number, kind = TAG.unpack_from(frame.payload)
    return number, Frame(kind, frame.ts, frame.payload[TAG.size :])


def pack_numbers(kind: Kind, numbers: Iterable[int]) -> bytes:
    """Return a frame that lists calls (`HANDED`, `WITHDRAWN`, `NAMED`)."""
    return pack(kind, b"".join(map(NUMBER.pack, numbers)))


def unpack_numbers(frame: Frame) -> list[int]:
    """Return which calls a frame names."""
    return [number for (number,) in NUMBER.iter_unpack(frame.payload)]
