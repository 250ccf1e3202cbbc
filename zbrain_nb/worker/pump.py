"""The pump: moves what a job says from its pipes to the spool."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from zbrain_nb.worker.launch import Child
from zbrain_nb.worker.spool import HEADER, MAX_PAYLOAD, Kind, SpoolWriter, pack
from zbrain_nb.worker.tail import Tail

#: The most output in one frame: it may be empty lines, all of which travel in one event.
CHUNK_BYTES = 64 * 1024
#: What is read of one pipe before the others get their turn: more than a pipe holds, so that all output
#: written before an event is spooled before it.
_TURN = 1024 * 1024
#: At the very end, when the tree is gone, no stranger who got hold of a pipe keeps us longer than this.
_LAST_TURN = 16 * 1024 * 1024
#: Of output that is dropped so much of the end is kept: it tells most of why a job failed.
_TAIL_BYTES = 64 * 1024
#: Said of a job that writes something else where event frames go.
NO_EVENTS = "A process of the job wrote something else than events to the events pipe."
_FRAMES = frozenset({Kind.STDOUT, Kind.STDERR, Kind.EVENT})


class Pump:
    """Moves output and events of one job to its spool.

    Parameters
    ----------
    spool : SpoolWriter
        Gets the frames.
    child : Child
        Its pipes are read, and closed when they end.
    fifo : int or None
        Where other processes of the job send events.
    cap_bytes : int
        Output past this size of the spool is dropped, with one mark, but for the last of it; other events past
        twice this size. The event that a cell ends with is always kept.
    """

    def __init__(self, spool: SpoolWriter, child: Child, fifo: int | None, cap_bytes: int) -> None:
        self._spool = spool
        self._cap = cap_bytes
        self._marked: set[str] = set()
        self._tail: Tail[Kind] | None = None  # output that is dropped, since it is
        self._output = {child.stdout: Kind.STDOUT, child.stderr: Kind.STDERR}
        self._events = {child.events: _Splitter(MAX_PAYLOAD)}
        if fifo is not None:
            self._events[fifo] = _Splitter(4096)
        self._failure: int | None = child.failure
        self._closed: list[int] = []
        #: Why the job could not be started, as a sentence; empty if it could.
        self.failure = ""

    @property
    def sources(self) -> list[int]:
        """The descriptors to wait for."""
        return [*self._output, *self._events, *([] if self._failure is None else [self._failure])]

    def take_closed(self) -> list[int]:
        """Return the descriptors that ended since the last call; they have to be waited for no longer."""
        closed, self._closed = self._closed, []
        return closed

    def move(self, ready: set[int], turn: int = _TURN) -> bool:
        """Move what can be read; return whether anything was written to the spool."""
        before = self._spool.size
        if self._failure in ready:
            self._read_failure()
        # output first, whether poll named it or not: it may have come between
        if any(source in ready for source in (*self._output, *self._events)):
            for source, kind in list(self._output.items()):
                self._move_output(source, kind, turn)
        for source in [source for source in self._events if source in ready]:
            self._move_events(source, turn)
        return self._spool.size != before

    def drain(self) -> None:
        """Move what is left when the job's processes are gone, without waiting for the pipes' ends."""
        self.move(set(self.sources), _LAST_TURN)
        if self._tail is None:
            return
        begun: set[Kind] = set()
        with contextlib.suppress(OSError):  # no room for it
            for kind, ts, data in self._tail.take():
                # it does not go on where the output was cut off
                self._spool.append(kind, data if kind in begun else b"\n" + data, ts)
                begun.add(kind)

    def _move_output(self, source: int, kind: Kind, turn: int) -> None:
        for data in self._read(source, turn):
            self._append(kind, data)

    def _move_events(self, source: int, turn: int) -> None:
        splitter = self._events[source]
        for data in self._read(source, turn):
            for kind, payload in splitter.feed(data):
                self._append(kind, payload)
            if splitter.broken:
                self._mark(NO_EVENTS)

    def _read(self, source: int, turn: int) -> Iterator[bytes]:
        moved = 0
        while moved < turn:
            try:
                data = os.read(source, CHUNK_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close(source)
                return
            moved += len(data)
            yield data

    def _read_failure(self) -> None:
        assert self._failure is not None
        self.failure = os.read(self._failure, 65536).decode(errors="replace")
        self._close(self._failure)
        self._failure = None

    def _close(self, source: int) -> None:
        self._output.pop(source, None)
        self._events.pop(source, None)
        os.close(source)
        self._closed.append(source)

    def _append(self, kind: Kind, payload: bytes) -> None:
        final = kind == Kind.EVENT and b'"finished"' in payload[:64]
        size = self._spool.size + len(payload)
        if kind != Kind.EVENT:
            if self._tail is None and size > self._cap:
                self._tail = Tail(_TAIL_BYTES)
                self._mark(f"Output past {self._cap:,} bytes was dropped, but for its last lines.")
            if self._tail is not None:
                self._tail.add(kind, time.time(), payload)
                return
        elif not final and size > 2 * self._cap:
            self._mark(f"Events past {2 * self._cap:,} bytes were dropped.")
            return
        try:
            self._spool.append(kind, payload)
        except OSError as error:
            if not final:
                self._mark(f"Output was dropped: {error.strerror}.")
                return
            self._insist(payload)

    def _insist(self, payload: bytes) -> None:
        """Write the result of a cell when the disk has room again: without it the run was in vain."""
        while True:
            time.sleep(1)
            try:
                self._spool.append(Kind.EVENT, payload)
            except OSError:
                continue
            return

    def _mark(self, sentence: str) -> None:
        if sentence in self._marked:
            return
        try:
            self._spool.append_packed(pack(Kind.MARK, sentence.encode()))
        except OSError:
            return  # no room for the mark either: the next drop tries again
        self._marked.add(sentence)


class _Splitter:
    """Cuts the bytes of a pipe into frames, and never believes a writer who does not write frames."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self.broken = False

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        """Return the kinds and payloads of the frames that `data` completes."""
        buffer = self._buffer
        buffer += data
        frames: list[tuple[Kind, bytes]] = []
        at = 0
        while at + HEADER.size <= len(buffer):
            kind, _, length = HEADER.unpack_from(buffer, at)
            if kind not in _FRAMES or length > self._limit:
                self.broken = True
                buffer.clear()
                return frames
            end = at + HEADER.size + length
            if end > len(buffer):
                break
            frames.append((Kind(kind), bytes(buffer[at + HEADER.size : end])))
            at = end
        del buffer[:at]
        return frames
