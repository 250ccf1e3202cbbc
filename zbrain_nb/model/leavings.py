"""How much an attempt may leave: bounds that workers keep to, and to which the queue holds whoever reports.

Together they leave room in a request for all else that an ending says. Of what a job leaves that is tried again less
stays, and its log says so: it is in memory until the job has ended.
"""

from __future__ import annotations

from typing import Any

import msgspec

from zbrain_nb.model.amounts import count_values
from zbrain_nb.model.sizes import format_kib

#: Files and variables that are kept, and what the list of each takes as JSON.
MAX_ARTIFACTS, MAX_VARIABLES = 50_000, 10_000
ARTIFACTS_BYTES, VARIABLES_BYTES = 12 * 1024 * 1024, 4 * 1024 * 1024
MAX_ERROR_BYTES, MAX_ERROR_VALUES = 2 * 1024 * 1024, 20_000
#: In characters of up to 4 bytes: with what the queue adds it fits into one cell of the store.
MAX_REASON = 4_000
#: What an error's name is cut to that is longer.
_NAME_CHARS = 1_000


class ErrorRoom(msgspec.Struct, frozen=True):
    """What stays of an error: of its message the start, of its traceback the last lines."""

    message_chars: int
    traceback_chars: int
    traceback_lines: int


#: Of an error that is too much.
LONG_ERROR = ErrorRoom(100_000, 100_000, 1_000)
#: Of any error after which the job is tried again; the same of the reason, and of both lists together, neither of which
#: stays where they are longer.
BRIEF_ERROR = ErrorRoom(1_000, 4_000, 50)
BRIEF_REASON, BRIEF_LISTS_BYTES = 1_000, 256 * 1024


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
        return cls(MAX_ARTIFACTS, ARTIFACTS_BYTES)

    @classmethod
    def of_variables(cls) -> ListRoom:
        """Return that of one ending's variables."""
        return cls(MAX_VARIABLES, VARIABLES_BYTES)

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


def shortened(error: Any, room: ErrorRoom) -> dict[str, Any]:
    """Return what matters most of an error; the exception itself is not among it."""
    if not isinstance(error, dict):
        error = {"ename": "Error", "evalue": error}
    traceback, lines = error.get("traceback"), list[str]()
    left = room.traceback_chars
    for line in reversed(traceback[-room.traceback_lines :] if isinstance(traceback, list) else []):
        lines.append(str(line)[:left])
        left -= len(lines[-1])
        if not left:
            break
    return {
        "ename": str(error.get("ename", "Error"))[:_NAME_CHARS],
        "evalue": str(error.get("evalue", ""))[: room.message_chars],
        "traceback": lines[::-1],
    }
