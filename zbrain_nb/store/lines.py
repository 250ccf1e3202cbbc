"""`Lines`: the log lines of one worker event as columns, from intake to the store, the ring and the followers.

Two hundred thousand lines a second leave no time for an object a line: what every line shares stands once, and the
rest goes as whole columns into Arrow, and into JSON only if somebody follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import msgspec

from zbrain_nb.model.events import LogEntry, LogStream

#: What a line costs in memory beside its text, about.
LINE_BYTES = 120

_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, gc=False):
    """A `LogEntry` on its way into JSON, which no garbage collector needs to see."""

    seq: int
    attempt: int
    stream: LogStream
    ts: float
    line: str


class Lines(msgspec.Struct, frozen=True, gc=False):
    """Consecutive lines of one job's log, at least one.

    Attributes
    ----------
    job_id : str
        Whose log.
    first : int
        ``log_seq`` of the first line.
    attempt, worker_seq, event_seq : int
        What brought them; `worker_seq` is None if no worker numbered them.
    streams : sequence of LogStream
        Where each came from.
    micros : sequence of int
        When each was written, microseconds since the epoch.
    texts : sequence of str
        What they say; text that UTF-8 can hold.
    text_chars : int
        Length of all texts together.
    """

    job_id: str
    first: int
    attempt: int
    worker_seq: int | None
    event_seq: int
    streams: Sequence[LogStream]
    micros: Sequence[int]
    texts: Sequence[str]
    text_chars: int

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def end(self) -> int:
        """The ``log_seq`` behind the last line."""
        return self.first + len(self.texts)

    @property
    def size_bytes(self) -> int:
        """About what the lines take in memory."""
        return self.text_chars + LINE_BYTES * len(self.texts)

    @property
    def ts(self) -> float:
        """When the first line was written, seconds since the epoch."""
        return self.micros[0] / 1e6

    def last(self, count: int) -> Lines:
        """Return the last `count` lines, 1 or more."""
        if count >= len(self.texts):
            return self
        texts = self.texts[-count:]
        return msgspec.structs.replace(
            self,
            first=self.end - count,
            streams=self.streams[-count:],
            micros=self.micros[-count:],
            texts=texts,
            text_chars=sum(map(len, texts)),
        )

    def entries(self, from_seq: int = 0) -> list[LogEntry]:
        """Return the lines from `from_seq` on, in order."""
        skip = max(0, from_seq - self.first)
        columns = zip(self.streams[skip:], self.micros[skip:], self.texts[skip:], strict=True)
        start = self.first + skip
        return [
            LogEntry(seq, self.attempt, stream, micros / 1e6, text)
            for seq, (stream, micros, text) in enumerate(columns, start)
        ]

    def as_json(self) -> bytes:
        """Return ``{"entries": [...]}``, the data of ``job_logged``."""
        seqs = range(self.first, self.end)
        times = [micros / 1e6 for micros in self.micros]
        lines = list(map(_Line, seqs, repeat(self.attempt), self.streams, times, self.texts))
        return b'{"entries":%b}' % _encode(lines)

    def row(self) -> tuple[Any, ...]:
        """Return the first line in the order of the table's columns."""
        return (
            self.job_id,
            self.first,
            self.attempt,
            self.worker_seq,
            self.event_seq,
            self.streams[0].value,
            self.micros[0],
            self.texts[0],
        )


def as_columns(some: Sequence[Lines]) -> list[Sequence[Any]]:
    """Return the columns of all the lines, in the order of the table's."""
    if len(some) == 1:
        (one,) = some
        count = len(one.texts)
        shared = ([one.job_id] * count, range(one.first, one.end), [one.attempt] * count)
        return [
            *shared,
            [one.worker_seq] * count,
            [one.event_seq] * count,
            one.streams,
            one.micros,
            one.texts,
        ]
    columns: list[list[Any]] = [[] for _ in range(8)]
    for one in some:
        for column, values in zip(columns, as_columns([one]), strict=True):
            column.extend(values)
    return list(columns)
