"""A runner as its foreman sees it: a process that runs calls one after the other, and what it says.

What the runner's Python says comes as frames in exact order. What is written to file descriptors 1 and 2 directly (by
C code, by programs that a call starts) comes by pipes of its own; the runner ends the part of each call with a marker
that nobody can guess.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from typing import NamedTuple

from zbrain_nb.worker.calls import NUMBER
from zbrain_nb.worker.launch import Child
from zbrain_nb.worker.pump import CHUNK_BYTES
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.spool import HEADER, MAX_PAYLOAD, Frame, Kind, split

#: Runs in the child; gets the request, the descriptors for event frames and of the calls, and the marker.
Body = Callable[[RunRequest, int, int, bytes], int]
_CHUNK = 256 * 1024
#: What is read of one pipe before the others get their turn.
_TURN = 1024 * 1024


class Runner:
    """One runner.

    Parameters
    ----------
    request : RunRequest
        Of the session.
    body : callable
        What the process does (see `Body`).
    private : list of int
        Descriptors of the foreman that the process shall not keep.

    Attributes
    ----------
    pid : int
        The process; leader of its own session and group.
    stdout, stderr : RawOutput
        What comes past Python.
    """

    def __init__(self, request: RunRequest, body: Body, private: list[int]) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        marker = b"\0" + secrets.token_bytes(16)
        feed = self._theirs.fileno()

        def run(request: RunRequest, events: int) -> int:
            return body(request, events, feed, marker)

        child = Child(request, run, [*private, self._ours.fileno()])
        self.pid = child.pid
        self.stdout = RawOutput(child.stdout, Kind.STDOUT, marker)
        self.stderr = RawOutput(child.stderr, Kind.STDERR, marker)
        self.events = Frames(child.events)
        self._failure = child.failure

    @property
    def sources(self) -> list[int]:
        """The descriptors to wait for."""
        return [one.descriptor for one in (self.stdout, self.stderr, self.events) if not one.at_end]

    @property
    def descriptors(self) -> list[int]:
        """All of the foreman's files of it."""
        of_pipes = [self.stdout.descriptor, self.stderr.descriptor, self.events.descriptor]
        return [*of_pipes, self._failure, self._ours.fileno(), self._theirs.fileno()]

    def send(self, order: bytes) -> bool:
        """Hand a call over; return False if it takes no more at the moment."""
        try:
            self._ours.send(order)
        except BlockingIOError:
            return False
        return True

    def take_back(self) -> list[bytes]:
        """Return the calls that it has not taken yet; it never will."""
        back: list[bytes] = []
        while True:
            try:
                back.append(self._theirs.recv(1 << 20, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return back

    def dismiss(self) -> None:
        """Have it end when it has done what it was handed."""
        self._ours.shutdown(socket.SHUT_WR)

    def failure(self) -> str:
        """Return why it could not be started, as a sentence; empty if it could."""
        try:
            return os.read(self._failure, 65536).decode(errors="replace")
        except BlockingIOError:
            return ""

    def close(self) -> None:
        """Close the foreman's files of it."""
        for descriptor in self.descriptors[:4]:
            os.close(descriptor)
        self._ours.close()
        self._theirs.close()


class RawOutput:
    """One of the pipes past Python, cut at the markers.

    Attributes
    ----------
    at_end : bool
        Whether nobody has it open for writing any more.
    """

    def __init__(self, descriptor: int, kind: Kind, marker: bytes) -> None:
        self.descriptor = descriptor
        self.kind = kind
        self.at_end = False
        self._marker = marker
        self._buffer = b""

    def read(self, turn: int = _TURN) -> bool:
        """Read what there is; return whether there was anything."""
        parts = _read(self, turn)
        self._buffer += b"".join(parts)
        return bool(parts)

    def take(self) -> list[bytes]:
        """Return what was read of the present call, in pieces of at most `CHUNK_BYTES`."""
        if not self._buffer:
            return []
        end = self._buffer.find(self._marker)
        if end < 0:
            end = len(self._buffer)
            for start in range(max(0, end - len(self._marker) + 1), end):
                if self._marker.startswith(self._buffer[start:]):  # it may be the beginning of a marker
                    end = start
                    break
        data, self._buffer = self._buffer[:end], self._buffer[end:]
        return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]

    def to_marker(self) -> None:
        """Read to the end of the present call, which is there: the runner has said so."""
        while self._marker not in self._buffer and self.read():
            pass

    def next(self) -> None:
        """Go on behind the marker."""
        self._buffer = self._buffer.removeprefix(self._marker)


class Frames:
    """The pipe of frames.

    Attributes
    ----------
    at_end : bool
        Whether nobody has it open for writing any more.
    is_broken : bool
        Whether something else than frames came; nothing after that is believed.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.at_end = False
        self.is_broken = False
        self._buffer = bytearray()
        self._needed = HEADER.size

    def read(self, turn: int = _TURN) -> list[Frame]:
        """Return the frames that have become whole."""
        parts = _read(self, turn)
        if self.is_broken or not parts:
            return []
        self._buffer += b"".join(parts)
        if len(self._buffer) < self._needed:
            return []
        frames, used = split(bytes(self._buffer))
        del self._buffer[:used]
        self._needed = HEADER.size
        if len(self._buffer) >= HEADER.size:
            kind, _, length = HEADER.unpack_from(self._buffer)
            self._needed += length
            self.is_broken = kind not in Kind._value2member_map_ or length > MAX_PAYLOAD
        return frames


def _read(source: RawOutput | Frames, turn: int) -> list[bytes]:
    parts: list[bytes] = []
    while turn > 0 and not source.at_end:
        try:
            data = os.read(source.descriptor, _CHUNK)
        except BlockingIOError:
            break
        if not data:
            source.at_end = True
            break
        parts.append(data)
        turn -= len(data)
        if len(data) < 65536:  # a pipe that was not full is most likely empty now
            break
    return parts


class Begun(NamedTuple):
    """What a runner says before a call: which, and where its files go."""

    number: int
    outbox: str

    def pack(self) -> bytes:
        """Return the payload of a ``BEGIN`` frame."""
        return NUMBER.pack(self.number) + os.fsencode(self.outbox)

    @classmethod
    def unpack(cls, payload: bytes) -> Begun:
        """Read the payload of a ``BEGIN`` frame."""
        return cls(NUMBER.unpack_from(payload)[0], os.fsdecode(payload[NUMBER.size :]))
