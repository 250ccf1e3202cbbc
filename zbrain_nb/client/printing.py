"""Text for a terminal: what a job wrote may not steer it."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable

from zbrain_nb.model.job import Job, JobState

#: Colours; other control sequences; strings for the terminal, ended or not; other escapes; other control characters,
#: among them those of C1, which some terminals take for sequences, and overrides of the writing direction.
_CONTROLS = re.compile(
    r"(?P<colour>\x1b\[[0-9;:]*m)|(?P<escape>\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
_RESET = "\x1b[0m"
_STYLES = {
    JobState.RUNNING: "blue",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.RETRYING: "yellow",
}


def printable(text: str, *, colours: bool = False) -> str:
    """Return `text` without control characters, bidirectional overrides and escapes.

    With `colours` they may stay, and end with the text: whatever follows is printed as the terminal was before.
    """
    coloured = False

    def replace(found: re.Match[str]) -> str:
        nonlocal coloured
        if colours and found["colour"]:
            coloured = True
            return found[0]
        return "" if found["colour"] or found["escape"] else "\N{REPLACEMENT CHARACTER}"

    shown = _CONTROLS.sub(replace, text)
    return shown + _RESET if coloured else shown


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


def elapsed(job: Job) -> str:
    """Return how long a job has run, or ran, such as ``1:02:03``; empty if it waits for its first or next attempt."""
    if job.started_at is None or job.state is JobState.RETRYING:
        return ""
    return span(((job.finished_at or dt.datetime.now(dt.UTC)) - job.started_at).total_seconds())


def span(seconds: float) -> str:
    """Return how long something took, such as ``1:02:03`` or ``4.2 s``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{max(0.0, seconds):.1f} s"


def attempts(job: Job) -> str:
    """Return which attempt a job is in, and of how many if it may be tried again: ``1``, ``2/3``."""
    if not job.attempt:
        return ""
    return f"{job.attempt}/{job.spec.max_retries + 1 + job.losses}" if job.spec.max_retries else str(job.attempt)


def short_ids(ids: Iterable[str], least: int = 13) -> dict[str, str]:
    """Return, for each id, its head: as much as tells it from the others, the same length for all."""
    known = list(ids)
    length = next((n for n in range(least, 36) if len({one[:n] for one in known}) == len(set(known))), 36)
    return {one: one[:length] for one in known}
