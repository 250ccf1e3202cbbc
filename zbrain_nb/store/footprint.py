"""About how much memory a job takes once its row is decoded: told from the row's text.

Many values of JSON take more than a long text: forty times its length, where it is full of empty objects.
"""

from __future__ import annotations

from zbrain_nb.model.amounts import VALUE_BYTES

#: A job that says little, with all that the queue keeps beside it (measured: 1.8 kB, and its place in line).
JOB_BYTES = 2_000
#: Texts up to this length are not looked at: they hold little beside the names of the fields.
SHORT_TEXT = 600
#: Text with a character beyond the Basic Multilingual Plane takes so many bytes for each of its characters.
_WIDEST = 4
_BEFORE_VALUES = b",[{"


def extra_bytes(text: str | bytes) -> int:
    """Return about how much more than `JOB_BYTES` a job takes of which a row says this, in JSON.

    No less than it is: commas and brackets in strings count as values.
    """
    if len(text) <= SHORT_TEXT:
        return 0
    raw = text.encode() if isinstance(text, str) else text
    values = len(raw) - len(raw.translate(None, _BEFORE_VALUES))
    return len(raw) * (1 if raw.isascii() else _WIDEST) + VALUE_BYTES * values
