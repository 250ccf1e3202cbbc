"""The last output of what is left out of a log: kept as bytes, for nobody may ever read it."""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

#: What a piece costs besides its bytes.
_PIECE_BYTES = 48
S = TypeVar("S")


class Piece(NamedTuple, Generic[S]):
    """Bytes of one stream, and when they came (seconds since the epoch)."""

    stream: S
    ts: float
    data: bytes


class Tail(Generic[S]):
    """Keeps about the last bytes of all streams together, in their order.

    Parameters
    ----------
    limit : int
        How many bytes are kept, about.

    Attributes
    ----------
    breaks : int
        How many line breaks were added, kept or not.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[Piece[S]] = deque()
        self._size = 0
        self._cut: set[S] = set()
        self.breaks = 0

    def add(self, stream: S, ts: float, data: bytes) -> None:
        """Take the next bytes of a stream."""
        self.breaks += data.count(b"\n")
        if len(data) > self._limit:
            data = data[-self._limit :]
            self._cut.add(stream)
        self._pieces.append(Piece(stream, ts, data))
        self._size += len(data) + _PIECE_BYTES
        while len(self._pieces) > 1 and self._size > self._limit:
            first = self._pieces.popleft()
            self._size -= len(first.data) + _PIECE_BYTES
            self._cut.add(first.stream)

    def take(self) -> list[Piece[S]]:
        """Return what was kept and forget it; a stream that was cut begins with a whole line, if it has one."""
        pieces = list(self._pieces)
        self._pieces.clear()
        self._size = 0
        for stream in self._cut:
            mine = [at for at, piece in enumerate(pieces) if piece.stream == stream]
            first = next((at for at in mine if b"\n" in pieces[at].data), None)
            if first is None:
                continue
            rest = pieces[first].data.partition(b"\n")[2]
            if not rest and first == mine[-1]:
                continue  # nothing but the end of one line is left: better that than nothing
            for at in mine[: mine.index(first) + 1]:
                pieces[at] = pieces[at]._replace(data=rest if at == first else b"")
        return [piece for piece in pieces if piece.data]
