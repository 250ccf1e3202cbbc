"""What of a job's words the queue would refuse for good is left out before it is sent, and said so in the log.

The queue bounds the bytes and values of a request, the depth of JSON and each part of an ending
(`model/leavings.py`): what a job leaves never decides whether its end is taken.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zbrain_nb.model.checks import check_depth
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import AnyWorkerEvent, JobCompleted, JobFailed
from zbrain_nb.model.leavings import (
    LONG_ERROR,
    MAX_ERROR_BYTES,
    MAX_ERROR_VALUES,
    MAX_REASON,
    shortened,
    too_much,
)

#: Of what a command leaves as its output.
MAX_OUTPUT_BYTES, MAX_OUTPUT_VALUES = 8 * 1024 * 1024, 700_000
#: Of what is shown at once, which travels alone.
MAX_DISPLAY_BYTES, MAX_DISPLAY_VALUES = 30 * 1024 * 1024, 990_000
#: Whatever is shorter fits.
_SHORT_BYTES = 64 * 1024


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
        why = too_much(msgspec.json.encode(ending.error), MAX_ERROR_BYTES, MAX_ERROR_VALUES)
        if why:
            changed["error"] = shortened(ending.error, LONG_ERROR)
            sentences.append(f"The error was shortened: {why}.")
    if (reason := getattr(ending, "reason", None)) is not None:
        changed["reason"] = reason[:MAX_REASON]
    ending = msgspec.structs.replace(ending, **changed)
    return ending, len(msgspec.json.encode(ending)), sentences


def not_taken(why: str) -> str:
    """Return that an output was left out, and what to do."""
    return f"The output was not taken: {why}; save it as an artifact."
