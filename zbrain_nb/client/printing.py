"""Text for a terminal: what a job wrote may not steer it."""

from __future__ import annotations

import datetime as dt
import re

from zbrain_nb.model.job import JobState

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
_STYLES = {
    JobState.RUNNING: "blue",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.RETRYING: "yellow",
}


def printable(text: str, *, colours: bool = False) -> str:
    """Return `text` without control characters, bidirectional overrides and escapes; `colours` may stay."""
    text = _ESCAPES.sub(lambda m: m[0] if colours and _COLOUR.match(m[0]) else "", text)
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def state_style(state: JobState) -> str:
    """Return the colour of a state; what rests has none."""
    return _STYLES.get(state, "default")


def age(moment: dt.datetime) -> str:
    """Return how long ago `moment` was, such as ``3 min``."""
    seconds = (dt.datetime.now(dt.UTC) - moment).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
