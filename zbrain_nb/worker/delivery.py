"""Turns the frames of one spool into numbered worker events, and keeps them until the queue has them.

What is made of a spool depends on its content alone, so that a new worker that reads it from the start makes
the same again and skips what the queue has. Frame n owns the numbers ``4n - 3 ... 4n``: what it completes
first (unfinished lines that an output pushes out), then what it says itself. An event covers all numbers since
the one before it.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import msgspec

from zbrain_nb.model.events import (
    AnyWorkerEvent,
    JobDisplayed,
    JobFailed,
    JobLogged,
    JobProgress,
    JobStarted,
    LogStream,
)
from zbrain_nb.worker.lines import LineAssembler
from zbrain_nb.worker.spool import End, Frame, Kind, read_json

#: How many numbers a frame owns.
STRIDE = 4
_FLUSHED, _SYSTEM, _OWN = 1, 2, 4
_LINES_BYTES = 256 * 1024
_LINE_BYTES = 48
#: Lines past this are left out of the log, but for the last ones.
LOG_BYTES = 128 * 1024 * 1024
LAST_LINES = 200
_STREAMS = {Kind.STDOUT: LogStream.STDOUT, Kind.STDERR: LogStream.STDERR}


class Delivery:
    """Events of one attempt on their way to the queue.

    Parameters
    ----------
    job_id, attempt, worker_id : str, int, str
        Whose events.
    high : int
        The highest number that the queue has; what is up to it is not sent again.

    Attributes
    ----------
    finished : dict or None
        What a cell said at its end.
    end : End or None
        The last frame, once it was read.
    waiting_bytes : int
        About how much waits to be acknowledged.
    urgent : bool
        Whether something waits that shall be sent without gathering: the first lines, the end.
    """

    def __init__(self, job_id: str, attempt: int, worker_id: str, high: int = 0) -> None:
        self._job_id = job_id
        self._attempt = attempt
        self._worker_id = worker_id
        self._assemblers = {LogStream.STDOUT: LineAssembler(), LogStream.STDERR: LineAssembler()}
        self._frames = 0
        self._high = high
        self._last = high  # the number up to which events were made
        self._lines: list[tuple[LogStream, float, str]] = []
        self._lines_seq = 0
        self._lines_bytes = 0
        self._events: deque[tuple[AnyWorkerEvent, int]] = deque()
        self._logged = high > STRIDE
        self._log_bytes = 0
        self._left_out = 0
        self._last_lines: deque[tuple[LogStream, float, str]] = deque(maxlen=LAST_LINES)
        self._closed = False
        self.finished: dict[str, Any] | None = None
        self.end: End | None = None
        self.waiting_bytes = 0
        self.urgent = False

    @property
    def high(self) -> int:
        """The highest number that the queue is known to have."""
        return self._high

    @property
    def done(self) -> bool:
        """Whether the ending was made and acknowledged."""
        return self._closed and not self._events

    @property
    def waiting(self) -> bool:
        """Whether anything waits to be sent."""
        return bool(self._events or self._lines)

    def feed(self, frame: Frame) -> None:
        """Take the spool's next frame."""
        self._frames += 1
        kind = frame.kind
        if kind in _STREAMS:
            stream = _STREAMS[Kind(kind)]
            self._log(stream, frame.ts, self._assemblers[stream].feed(frame.payload), _OWN)
        elif kind == Kind.EVENT:
            self._feed_event(frame)
        elif kind == Kind.BEGIN:
            self._add(JobStarted(job_id=self._job_id, worker_id=self._worker_id), 100, _OWN)
        elif kind == Kind.MARK:
            self._log(LogStream.SYSTEM, frame.ts, [frame.payload.decode(errors="replace")], _OWN)
        elif kind == Kind.END:
            self._flush(frame.ts)
            self._tell_last_lines(frame.ts)
            self.end = msgspec.json.decode(frame.payload, type=End)

    def _feed_event(self, frame: Frame) -> None:
        event = read_json(frame.payload)
        if event is None:
            return
        kind = event.get("kind")
        if kind == "displayed" and isinstance(event.get("outputs"), list):
            self._flush(frame.ts)
            outputs = [output for output in event["outputs"] if isinstance(output, dict)]
            self._add(JobDisplayed(job_id=self._job_id, outputs=outputs), len(frame.payload), _OWN)
        elif kind == "progress":
            progress = {"fraction": _fraction(event.get("fraction")), "note": _note(event.get("note"))}
            self._add(JobProgress(job_id=self._job_id, progress=progress), len(frame.payload), _OWN)
        elif kind == "finished":
            self.finished = event

    def _flush(self, ts: float) -> None:
        for stream, assembler in self._assemblers.items():
            self._log(stream, ts, assembler.flush(), _FLUSHED)

    def _log(self, stream: LogStream, ts: float, lines: list[str], part: int) -> None:
        """Take lines of a stream, up to the cap; of what comes after it the last lines are told at the end."""
        size = sum(map(len, lines)) + _LINE_BYTES * len(lines)
        self._log_bytes += size
        if self._log_bytes <= LOG_BYTES or stream == LogStream.SYSTEM:
            self._add_lines([(stream, ts, line) for line in lines], size, part)
            return
        if not self._left_out:
            sentence = f"The log is over {LOG_BYTES >> 20} MiB: from here on only its last lines are kept."
            self._add_lines([(LogStream.SYSTEM, ts, sentence)], len(sentence), part)
        self._left_out += len(lines)
        self._last_lines.extend((stream, ts, line) for line in lines)

    def _tell_last_lines(self, ts: float) -> None:
        if self._left_out:
            sentence = f"{self._left_out - len(self._last_lines):,} lines were left out here."
            lines = [(LogStream.SYSTEM, ts, sentence), *self._last_lines]
            self._add_lines(lines, sum(len(line) + _LINE_BYTES for _, _, line in lines), _FLUSHED)

    def _add_lines(self, lines: list[tuple[LogStream, float, str]], size: int, part: int) -> None:
        number = self._number(part)
        if not lines or number <= self._last:
            return
        self._lines += lines
        self._lines_seq = number
        self._lines_bytes += size
        self.waiting_bytes += size
        if not self._logged:
            self._logged = self.urgent = True
        if self._lines_bytes >= _LINES_BYTES:
            self._close_lines()

    def _close_lines(self) -> None:
        if self._lines:
            lines, size = self._lines, self._lines_bytes
            self._lines, self._lines_bytes = [], 0
            self._append(JobLogged(job_id=self._job_id, lines=lines), size, self._lines_seq)

    def _add(self, event: AnyWorkerEvent, size: int, part: int) -> None:
        number = self._number(part)
        if number <= self._last:
            return
        self._close_lines()
        self.waiting_bytes += size
        self._append(event, size, number)

    def _append(self, event: AnyWorkerEvent, size: int, number: int) -> None:
        stamped = msgspec.structs.replace(event, attempt=self._attempt, after=self._last, seq=number)
        self._events.append((stamped, size))
        self._last = number

    def _number(self, part: int) -> int:
        return STRIDE * (self._frames - 1) + part

    def lose(self, ts: float) -> None:
        """Hear that the attempt vanished: what it has written is all; an ending has to follow."""
        self._frames += 1
        self._flush(ts)
        self._tell_last_lines(ts)

    def say(self, ts: float, sentences: list[str]) -> None:
        """Add lines of the worker itself, before the ending."""
        self._log(LogStream.SYSTEM, ts, sentences, _SYSTEM)

    def close(self, ending: AnyWorkerEvent) -> None:
        """Add the ending."""
        self._closed = True
        # even if the spool was cut short below what the queue has, the ending has to come after it
        self._frames = max(self._frames, self._last // STRIDE + 1)
        self._add(ending, 1000, _OWN)
        self.urgent = True

    def take(self, limit: int) -> tuple[list[AnyWorkerEvent], int]:
        """Return the next events to send, about `limit` bytes (at least one), and their size."""
        self._close_lines()
        self.urgent = False
        events: list[AnyWorkerEvent] = []
        total = 0
        for event, size in self._events:
            if events and total + size > limit:
                break
            events.append(event)
            total += size
        return events, total

    def acknowledge(self, high: int) -> bool:
        """Forget events up to `high`; return False if the queue lacks what was forgotten before."""
        if high < self._high:
            return False
        while self._events and (self._events[0][0].seq or 0) <= high:
            self.waiting_bytes -= self._events.popleft()[1]
        self._high = high
        return True

    def substitute(self, message: str) -> bool:
        """Put something acceptable in the place of the first waiting event, which the queue refuses.

        Returns
        -------
        bool
            False if what would be put there was refused already.
        """
        if not self._events:
            return True
        event, size = self._events.popleft()
        sentence = f"The queue did not take this: {message}"
        place = {"job_id": event.job_id, "attempt": event.attempt, "after": event.after, "seq": event.seq}
        other: AnyWorkerEvent
        if not isinstance(event, (JobStarted, JobLogged, JobDisplayed, JobProgress)):
            if isinstance(event, JobFailed) and event.error is None and not event.artifacts:
                return False
            other = JobFailed(**place, reason=f"The result could not be kept: {message}", final=True)  # type: ignore[arg-type]
        elif isinstance(event, JobLogged) and event.lines and event.lines[0][0] == LogStream.SYSTEM:
            return False
        else:
            other = JobLogged(**place, lines=[(LogStream.SYSTEM, time.time(), sentence)])  # type: ignore[arg-type]
        self._events.appendleft((other, size))
        return True


def _fraction(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return min(1.0, max(0.0, float(value)))


def _note(value: Any) -> str | None:
    return value[:1000] if isinstance(value, str) else None
