"""What of a job's words the queue would refuse for good is left out before it is sent, and said so in the log.

The queue bounds the bytes and values of a request and the depth of JSON. Here each part of an ending has bounds of its
own, which together leave room in a request for all others: what a job leaves never decides whether its end is taken.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zbrain_nb.model.amounts import count_values
from zbrain_nb.model.checks import check_depth
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import AnyWorkerEvent, JobCompleted, JobFailed
from zbrain_nb.model.sizes import format_kib

#: Of what a command leaves as its output.
MAX_OUTPUT_BYTES, MAX_OUTPUT_VALUES = 8 * 1024 * 1024, 700_000
#: Of what is shown at once, which travels alone.
MAX_DISPLAY_BYTES, MAX_DISPLAY_VALUES = 30 * 1024 * 1024, 990_000
#: Files and variables that are kept, and what the list of each takes.
MAX_ARTIFACTS, MAX_VARIABLES = 50_000, 10_000
_ARTIFACTS_BYTES, _VARIABLES_BYTES = 12 * 1024 * 1024, 4 * 1024 * 1024
_MAX_ERROR_BYTES, _MAX_ERROR_VALUES = 2 * 1024 * 1024, 20_000
#: What stays of an error that is longer: of its name and message the start, of its traceback the last lines.
_NAME_CHARS, _MESSAGE_CHARS, _TRACEBACK_CHARS, _TRACEBACK_LINES = 1_000, 100_000, 100_000, 1_000
_MAX_REASON = 10_000
#: Whatever is shorter fits.
_SHORT_BYTES = 64 * 1024


class ListRoom:
    """Room for the list of what is kept.

    Parameters
    ----------
    number : int
        How many entries it has.
    size : int
        How many bytes they take as JSON.
    """

    def __init__(self, number: int, size: int) -> None:
        self._number = number
        self._size = size

    @classmethod
    def of_artifacts(cls) -> ListRoom:
        """Return that of one ending's artifacts."""
        return cls(MAX_ARTIFACTS, _ARTIFACTS_BYTES)

    @classmethod
    def of_variables(cls) -> ListRoom:
        """Return that of one ending's variables."""
        return cls(MAX_VARIABLES, _VARIABLES_BYTES)

    def takes(self, *texts: str) -> bool:
        """Take an entry with these texts; return False if there is no room for it."""
        size = 200 + sum(len(msgspec.json.encode(text)) for text in texts)
        if not self._number or size > self._size:
            return False
        self._number -= 1
        self._size -= size
        return True


def too_much(text: bytes, most_bytes: int, most_values: int) -> str:
    """Return in which way a text of JSON is too much, in words; nothing if it is not."""
    if len(text) > most_bytes:
        return f"it is over {format_kib(most_bytes / 1024)}"
    if count_values(text, most_values) > most_values:
        return f"it holds more than {most_values:,} values"
    return ""


def too_deep(value: Any) -> str:
    """Return that a JSON value is nested too deep, in words; nothing if it is not."""
    try:
        check_depth("it", value)
    except InvalidSpec as error:
        return error.message.removesuffix(".")
    return ""


def fitted(ending: AnyWorkerEvent) -> tuple[AnyWorkerEvent, int, list[str]]:
    """Return an ending that the queue takes, about its bytes, and sentences about what was left out.

    Its artifacts and variables have taken their room already.
    """
    size = len(msgspec.json.encode(ending))
    if size <= _SHORT_BYTES:
        return ending, size, []
    changed: dict[str, Any] = {}
    sentences: list[str] = []
    if isinstance(ending, JobCompleted):
        why = too_much(msgspec.json.encode(ending.output), MAX_OUTPUT_BYTES, MAX_OUTPUT_VALUES)
        if why:
            changed["output"] = None
            sentences.append(not_taken(why))
    if isinstance(ending, JobFailed):
        why = too_much(msgspec.json.encode(ending.error), _MAX_ERROR_BYTES, _MAX_ERROR_VALUES)
        if why:
            changed["error"] = _shortened(ending.error)
            sentences.append(f"The error was shortened: {why}.")
    if (reason := getattr(ending, "reason", None)) is not None:
        changed["reason"] = reason[:_MAX_REASON]
    ending = msgspec.structs.replace(ending, **changed)
    return ending, len(msgspec.json.encode(ending)), sentences


def not_taken(why: str) -> str:
    """Return that an output was left out, and what to do."""
    return f"The output was not taken: {why}; save it as an artifact."


def _shortened(error: Any) -> dict[str, Any]:
    """Return what matters most of an error; the exception itself is not among it."""
    if not isinstance(error, dict):
        error = {"ename": "Error", "evalue": error}
    traceback, lines = error.get("traceback"), list[str]()
    left = _TRACEBACK_CHARS
    for line in reversed(traceback[-_TRACEBACK_LINES:] if isinstance(traceback, list) else []):
        lines.append(str(line)[:left])
        left -= len(lines[-1])
        if not left:
            break
    return {
        "ename": str(error.get("ename", "Error"))[:_NAME_CHARS],
        "evalue": str(error.get("evalue", ""))[:_MESSAGE_CHARS],
        "traceback": lines[::-1],
    }
