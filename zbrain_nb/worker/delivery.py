"""Turns the frames of one spool into numbered worker events, and keeps them until the queue has them.

What is made of a spool depends on its content alone, so that a new worker that reads it from the start makes
the same again and skips what the queue has. Frame n owns the numbers ``4n - 3 ... 4n``: what it completes
first (unfinished lines that an output pushes out), then what it says itself. What has one number goes into one
event; an event covers all numbers since the one before it. Only a cancel makes less of a spool (`Delivery.hurry`):
it leaves out lines, but never gives a number to others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from zbrain_nb.model.events import (
    ENDINGS,
    AnyWorkerEvent,
    JobCompleted,
    JobDisplayed,
    JobFailed,
    JobLogged,
    JobProgress,
    JobStarted,
    LogStream,
)
from zbrain_nb.model.leavings import too_much
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.worker.fitting import MAX_DISPLAY_BYTES, MAX_DISPLAY_VALUES, fitted, too_deep
from zbrain_nb.worker.lines import LineAssembler
from zbrain_nb.worker.masking import Mask
from zbrain_nb.worker.request import LOG_BYTES
from zbrain_nb.worker.spool import Begin, End, Frame, Kind, read_json
from zbrain_nb.worker.tail import Tail

#: How many numbers a frame owns.
STRIDE = 4
_FLUSHED, _TOLD, _SYSTEM, _OWN = 1, 2, 3, 4
_LINES_BYTES = 256 * 1024
_LINE_BYTES = 48
#: Of lines past the log's cap only so many of the last are kept, from so many of the last bytes.
LAST_LINES = 200
_TAIL_BYTES = 256 * 1024
#: After a cancel, what waits or comes past so many bytes is left out like what is over the log's cap.
HURRY_BYTES = 512 * 1024
_CANCELED = "The job was canceled: from here on only the last lines of its log are kept."
#: Hides nothing.
OPEN = Mask()
_STREAMS = {Kind.STDOUT: LogStream.STDOUT, Kind.STDERR: LogStream.STDERR}


class Delivery:
    """Events of one attempt on their way to the queue.

    Parameters
    ----------
    job_id, attempt, worker_id : str, int, str
        Whose events.
    high : int
        The highest number that the queue has; what is up to it is not sent again.
    log_cap_bytes : int
        Of a longer log only this much is told, and its last lines.
    mask : Mask
        Hides values in all that is told.

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

    def __init__(
        self,
        job_id: str,
        attempt: int,
        worker_id: str,
        high: int = 0,
        log_cap_bytes: int = LOG_BYTES,
        mask: Mask = OPEN,
    ) -> None:
        self.mask = mask
        self._job_id = job_id
        self._attempt = attempt
        self._worker_id = worker_id
        self._log_cap = log_cap_bytes
        self._assemblers = {stream: LineAssembler(mask) for stream in (LogStream.STDOUT, LogStream.STDERR)}
        self._frames = 0
        self._high = high
        self._last = high  # the number up to which events were made
        self._lines: list[tuple[LogStream, float, str]] = []
        self._lines_seq = 0
        self._lines_bytes = 0
        self._events: deque[tuple[AnyWorkerEvent, int]] = deque()
        self._logged = high > STRIDE
        self._start = high  # up to here another delivery, of a worker before, has told what there was to tell
        self._log_bytes = 0
        self._hurry_bytes: int | None = None  # what may still be told of the log after a cancel
        self._tail: Tail[LogStream] | None = None  # what is left out, since it is
        self._mark = ""  # says that something is left out, and was not told yet
        self._taken = 0  # how many of the events may be on their way
        self._closed = False
        self.finished: dict[str, Any] | None = None
        self.end: End | None = None
        self.waiting_bytes = 0
        self.urgent = False

    @property
    def worker_id(self) -> str:
        """Who sends the events."""
        return self._worker_id

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
            self._feed_output(_STREAMS[Kind(kind)], frame.ts, frame.payload)
        elif kind == Kind.EVENT:
            self._feed_event(frame)
        elif kind == Kind.BEGIN and msgspec.json.decode(frame.payload, type=Begin).pid:  # else nothing was started
            self._add(JobStarted(job_id=self._job_id, worker_id=self._worker_id), 100, _OWN)
        elif kind == Kind.MARK:
            self._log([(LogStream.SYSTEM, frame.ts, self.mask.text(frame.payload.decode(errors="replace")))], _OWN)
        elif kind == Kind.END:
            self._flush(frame.ts)
            self._tell_last_lines()
            self.end = msgspec.json.decode(frame.payload, type=End)

    def _feed_event(self, frame: Frame) -> None:
        event = read_json(frame.payload)
        if event is None:
            return
        kind = event.get("kind")
        if kind == "displayed" and isinstance(event.get("outputs"), list):
            self._flush(frame.ts)
            outputs = [output for output in event["outputs"] if isinstance(output, dict)]
            why = too_much(frame.payload, MAX_DISPLAY_BYTES, MAX_DISPLAY_VALUES) or too_deep(outputs)
            if why:
                sentence = f"What it displayed here was left out: {why}; save it as an artifact."
                self._log([(LogStream.SYSTEM, frame.ts, sentence)], _OWN)
                return
            outputs = [self.mask.tree(output) for output in outputs]
            self._add(JobDisplayed(job_id=self._job_id, outputs=outputs), len(frame.payload), _OWN)
        elif kind == "progress":
            progress = {"fraction": _fraction(event.get("fraction")), "note": self.mask.tree(_note(event.get("note")))}
            self._add(JobProgress(job_id=self._job_id, progress=progress), len(frame.payload), _OWN)
        elif kind == "finished":
            self.finished = event

    def _feed_output(self, stream: LogStream, ts: float, data: bytes) -> None:
        """Take output; what is left out is neither decoded nor split."""
        size = len(data) + _LINE_BYTES * data.count(b"\n")
        self._log_bytes += size
        lines: list[tuple[LogStream, float, str]] = []
        if self._tail is None:
            if self._log_bytes > self._log_cap:
                if head := _head(data, 1 - (self._log_bytes - self._log_cap) / size):
                    lines = [(stream, ts, line) for line in self._assemblers[stream].feed(data[:head])]
                    data = data[head:]
                limit = format_kib(self._log_cap / 1024)
                self._leave_out(ts, f"The log is over {limit}: from here on only its last lines are kept.")
            elif self._hurry_bytes is not None and self._number(_OWN) > self._start:
                self._hurry_bytes -= size
                if self._hurry_bytes < 0:
                    self._leave_out(ts, _CANCELED)
        if self._tail is None:
            self._log([(stream, ts, line) for line in self._assemblers[stream].feed(data)], _OWN)
            return
        self._tail.add(stream, ts, data)
        if self._mark:
            self._log([*lines, (LogStream.SYSTEM, ts, self._mark)], _OWN)
            self._mark = ""

    def _leave_out(self, ts: float, mark: str) -> Tail[LogStream]:
        """Tell no more of the output before the end; unfinished lines belong to what is left out."""
        tail = self._tail = Tail(_TAIL_BYTES)
        self._mark = mark
        for stream, assembler in self._assemblers.items():
            if rest := assembler.take_rest():
                tail.add(stream, ts, rest)
        return tail

    def _flush(self, ts: float) -> None:
        rests = [(stream, ts, line) for stream, assembler in self._assemblers.items() for line in assembler.flush()]
        self._log(rests, _FLUSHED)

    def _tell_last_lines(self) -> None:
        """Tell the last of the lines that were left out."""
        if self._tail is None or not (pieces := self._tail.take()):
            return
        count = self._tail.breaks
        lines: list[tuple[LogStream, float, str]] = []
        for stream, ts, data in pieces:
            lines += [(stream, ts, line) for line in self._assemblers[stream].feed(data)]
        for stream, assembler in self._assemblers.items():
            rest = assembler.flush()
            count += len(rest)
            lines += [(stream, pieces[-1].ts, line) for line in rest]
        last = lines[-LAST_LINES:]
        sentence = f"{max(count - len(last), 0):,} lines were left out here."
        self._log([(LogStream.SYSTEM, pieces[-1].ts, sentence), *last], _TOLD)

    def _log(self, lines: list[tuple[LogStream, float, str]], part: int) -> None:
        """Add lines; all that have the same number have to come at once."""
        self._add_lines(lines, sum(len(line) + _LINE_BYTES for _, _, line in lines), part)

    def hurry(self) -> None:
        """Hear of a cancel: the ending shall come soon, so that a backlog of output is left out of the log.

        Events that may be on their way stay as they are. What is left out costs its numbers, no more: a delivery
        that begins after any of the events that are sent goes on from there, and tells no line a second time.
        """
        if self._hurry_bytes is not None:
            return
        self._hurry_bytes = HURRY_BYTES
        self._close_lines()
        events = list(self._events)
        self._events = deque(events[: self._taken])
        self._last = (self._events[-1][0].seq or 0) if self._events else self._high
        dropped: list[tuple[LogStream, float, str]] = []
        for event, size in events[self._taken :]:
            if isinstance(event, JobLogged):
                self._hurry_bytes -= size
                if self._hurry_bytes < 0:
                    self.waiting_bytes -= size
                    dropped += event.lines
                    continue
            self._append(event, size, event.seq or 0)
        if dropped:
            self._drop(dropped)

    def _drop(self, lines: list[tuple[LogStream, float, str]]) -> None:
        """Leave out lines that were made already, and all output from here on."""
        rests = self._leave_out(lines[-1][1], _CANCELED)
        tail = self._tail = Tail(_TAIL_BYTES)
        for stream, ts, line in lines:
            if stream in self._assemblers:
                tail.add(stream, ts, line.encode() + b"\n")
        for piece in rests.take():
            tail.add(*piece)

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
        self._tell_last_lines()

    def close(self, ending: AnyWorkerEvent, sentences: Sequence[str] = ()) -> None:
        """Add the ending, and before it sentences of the worker itself, also of what had to be left out of it."""
        self._closed = True
        ending, size, left_out = fitted(_masked(ending, self.mask))
        now = time.time()
        lines = [(LogStream.SYSTEM, now, self.mask.text(sentence)) for sentence in (*sentences, *left_out)]
        self._log(lines, _SYSTEM)
        # even if the spool was cut short below what the queue has, the ending has to come after it
        self._frames = max(self._frames, self._last // STRIDE + 1)
        self._add(ending, size, _OWN)
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
        self._taken = len(events)
        return events, total

    def acknowledge(self, high: int) -> bool:
        """Forget events up to `high`; return False if the queue lacks what was forgotten before."""
        if high < self._high:
            return False
        while self._events and (self._events[0][0].seq or 0) <= high:
            self.waiting_bytes -= self._events.popleft()[1]
            self._taken = max(0, self._taken - 1)
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
        event, size = self._events[0]
        other = _acceptable(event, message)
        if other is not None:
            self._events[0] = other, size
        return other is not None


def _acceptable(event: AnyWorkerEvent, why: str) -> AnyWorkerEvent | None:
    """Return what may be taken in the place of an event that was refused; None if nothing is left to leave out.

    An ending stays what it is as long as it can: a command that succeeded has not failed for its output.
    """
    if isinstance(event, JobCompleted) and event.output is not None:
        reason = event.reason or f"The output was not taken: {why}"
        return msgspec.structs.replace(event, output=None, reason=reason)
    if isinstance(event, JobFailed) and not (event.error is None and not event.artifacts and not event.variables):
        return msgspec.structs.replace(event, error=None, artifacts=[], variables=[])
    if isinstance(event, JobFailed) or (
        isinstance(event, JobLogged) and event.lines and event.lines[0][0] == LogStream.SYSTEM
    ):
        return None
    place: dict[str, Any] = {name: getattr(event, name) for name in ("job_id", "attempt", "after", "seq")}
    if isinstance(event, ENDINGS):
        return JobFailed(**place, reason=f"The result could not be kept: {why}", final=True)
    return JobLogged(**place, lines=[(LogStream.SYSTEM, time.time(), f"The queue did not take this: {why}")])


def _masked(ending: AnyWorkerEvent, mask: Mask) -> AnyWorkerEvent:
    """Return an ending with values hidden in all that it says in words."""
    if not mask.longest:
        return ending
    said: dict[str, Any] = {
        name: mask.tree(getattr(ending, name)) for name in ("output", "error", "reason") if hasattr(ending, name)
    }
    if variables := getattr(ending, "variables", None):
        said["variables"] = [msgspec.structs.replace(one, summary=mask.text(one.summary)) for one in variables]
    return msgspec.structs.replace(ending, **said)


def _head(data: bytes, part: float) -> int:
    """Return where the whole lines end that are about this part of `data`, from its start."""
    return data.rfind(b"\n", 0, max(0, int(len(data) * part))) + 1


def _fraction(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return min(1.0, max(0.0, float(value)))


def _note(value: Any) -> str | None:
    return value[:1000] if isinstance(value, str) else None
