"""What a foreman writes to the spool of its session: gathered, and written at once.

Output of a call past its cap is dropped, but for the last of it.
"""

from __future__ import annotations

import time

import msgspec

from zbrain_nb.worker.calls import pack_of_call
from zbrain_nb.worker.spool import Begin, End, Frame, Kind, SpoolWriter
from zbrain_nb.worker.tail import Tail

_TAIL_BYTES = 64 * 1024
#: So much is gathered in memory at most while the disk takes nothing.
_HELD_BYTES = 16 * 1024 * 1024


class Record:
    """Gathers and writes frames.

    Parameters
    ----------
    spool : SpoolWriter
        Of the session.
    cap_bytes : int
        What of each call's output is written, about.

    Attributes
    ----------
    size : int
        Bytes gathered so far.
    """

    def __init__(self, spool: SpoolWriter, cap_bytes: int) -> None:
        self._spool = spool
        self._cap = cap_bytes
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._written_of_call = 0
        self._tail: Tail[Kind] | None = None
        self._number = -1  # of the present call
        self.size = 0

    @property
    def is_written(self) -> bool:
        """Whether all that was gathered stands in the spool."""
        return not self._parts

    def add_packed(self, frames: bytes) -> None:
        """Gather frames that are packed already."""
        self._parts.append(frames)
        self._held_bytes += len(frames)
        self.size += len(frames)

    def begin(self, number: int, begin: Begin) -> None:
        """Gather the beginning of a call."""
        self._number, self._written_of_call, self._tail = number, 0, None
        self.add_packed(pack_of_call(number, Kind.BEGIN, msgspec.json.encode(begin)))

    def add(self, number: int, frame: Frame) -> None:
        """Gather what the present call says."""
        self.size += 1  # even what is dropped was something
        self._written_of_call += len(frame.payload)
        kind = Kind(frame.kind)
        is_final = kind == Kind.EVENT and b'"finished"' in frame.payload[:64]
        is_full = self._written_of_call > self._cap or self._held_bytes > _HELD_BYTES
        if kind == Kind.EVENT:
            if is_final or not is_full:
                self.add_packed(pack_of_call(number, kind, frame.payload, frame.ts))
            return
        if self._tail is None and is_full:
            self._tail = Tail(_TAIL_BYTES)
            mark = f"Output past {self._cap:,} bytes was dropped, but for its last lines."
            self.add_packed(pack_of_call(number, Kind.MARK, mark.encode()))
        if self._tail is not None:
            self._tail.add(kind, frame.ts, frame.payload)
            return
        self.add_packed(pack_of_call(number, kind, frame.payload, frame.ts))

    def end(self, number: int, end: End) -> None:
        """Gather the end of a call."""
        if self._tail is not None and number == self._number:
            begun: set[Kind] = set()
            for kind, ts, data in self._tail.take():
                # it does not go on where the output was cut off
                self.add_packed(pack_of_call(number, kind, data if kind in begun else b"\n" + data, ts))
                begun.add(kind)
            self._tail = None
        self.add_packed(pack_of_call(number, Kind.END, msgspec.json.encode(end)))

    def write(self) -> bool:
        """Write what was gathered; return False if there was nothing, or the disk takes nothing at present."""
        if not self._parts:
            return False
        frames = b"".join(self._parts)
        try:
            self._spool.append_packed(frames)
        except OSError:
            self._parts = [frames]
            return False
        self._parts, self._held_bytes = [], 0
        return True

    def insist(self) -> None:
        """Write what was gathered, and wait for room on a full disk: without it results are lost."""
        while self._parts and not self.write():
            time.sleep(1)
