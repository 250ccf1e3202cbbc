"""Checks the log lines that workers send, a column at a time: what is well formed passes at the speed of C."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import LogStream

_TEXT, _NUMBER, _STREAM = {str}, {float}, {LogStream}
#: Times are below this: the year 5138.
MAX_TIME = 1e11


class Columns(msgspec.Struct, frozen=True, gc=False):
    """Checked lines, at least one: see `zbrain_nb.store.lines.Lines`."""

    streams: Sequence[LogStream]
    micros: Sequence[int]
    texts: Sequence[str]
    text_chars: int


def as_columns(lines: Sequence[Any]) -> Columns:
    """Return `lines`, ``(stream, ts, line)`` and at least one, as columns.

    Text that UTF-8 cannot hold is replaced; times are rounded to microseconds.

    Raises
    ------
    InvalidSpec
        If a line is no such triple.
    """
    try:
        streams, times, texts = zip(*lines, strict=True)
    except (TypeError, ValueError) as error:
        raise InvalidSpec("A log line must be a stream, a time and text.", field="lines") from error
    streams = _checked_streams(streams)
    micros = _checked_times(times)
    texts, chars = _checked_texts(texts)
    return Columns(streams, micros, texts, chars)


def from_texts(stdout: Sequence[str], stderr: Sequence[str], ts: float) -> Columns:
    """Return texts that were written at `ts`, first those of `stdout`; at least one in all."""
    streams = [LogStream.STDOUT] * len(stdout) + [LogStream.STDERR] * len(stderr)
    texts, chars = _checked_texts((*stdout, *stderr))
    return Columns(streams, [round(ts * 1e6)] * len(texts), texts, chars)


def clean(text: Any) -> str:
    """Return `text` with what UTF-8 cannot hold replaced.

    Raises
    ------
    InvalidSpec
        If it is no text.
    """
    if type(text) is not str:
        raise InvalidSpec("A log line must be text.", field="lines")
    return text if text.isascii() else text.encode(errors="replace").decode()


def _checked_streams(streams: tuple[Any, ...]) -> tuple[LogStream, ...]:
    if set(map(type, streams)) == _STREAM:
        return streams
    try:
        return tuple(map(LogStream, streams))
    except ValueError as error:
        names = ", ".join(LogStream)
        raise InvalidSpec(f"The stream of a log line must be one of {names}.", field="lines") from error


def _checked_times(times: tuple[Any, ...]) -> list[int]:
    # A NaN hides from min() and max(), but not from the sum.
    if set(map(type, times)) == _NUMBER and math.isfinite(sum(times)) and min(times) >= 0 and max(times) < MAX_TIME:
        return [round(ts * 1e6) for ts in times]
    return [_checked_time(ts) for ts in times]


def _checked_time(ts: Any) -> int:
    if isinstance(ts, bool) or not isinstance(ts, (int, float)) or not 0 <= ts < MAX_TIME:
        raise InvalidSpec("The time of a log line must be seconds since the epoch.", field="lines")
    return round(ts * 1e6)


def _checked_texts(texts: tuple[Any, ...]) -> tuple[tuple[str, ...], int]:
    if set(map(type, texts)) != _TEXT:
        raise InvalidSpec("A log line must be text.", field="lines")
    whole = "".join(texts)
    if not whole.isascii():
        try:
            whole.encode()
        except UnicodeEncodeError:
            texts = tuple(map(clean, texts))
    return texts, len(whole)
