"""About how much memory a job takes once its row is decoded: told from the row's text.

Many values of JSON take more than a long text: forty times its length, where it is full of empty objects.
"""

from __future__ import annotations

from zbrain_nb.model.amounts import VALUE_BYTES, decoded_bytes, estimate_values, most_values
from zbrain_nb.model.job import JobSpec

#: A job that says little, with all that the queue keeps beside it (measured: 1.8 kB, and its place in line).
JOB_BYTES = 2_000
#: Texts up to this length are not looked at: they hold little beside the names of the fields.
SHORT_TEXT = 600
_FIELDS = len(JobSpec.__struct_fields__)
# Of UTF-8: bytes of a character behind its first, and bytes that begin no character beyond U+00FF, and U+FFFF.
_BEHIND_FIRST, _UPTO_LATIN_1, _UPTO_BMP = bytes(range(0x80, 0xC0)), bytes(range(0xC4)), bytes(range(0xF0))


def extra_bytes(text: bytes) -> int:
    """Return about how much more than `JOB_BYTES` a job takes of which a row says this, in JSON.

    No less than it is, told quickly: commas and brackets in strings count as values.
    """
    return decoded_bytes(text, most_values(text)) if len(text) > SHORT_TEXT else 0


def extra_bytes_of_spec(text: bytes) -> int:
    """Return the same of a job's spec; not much more than it is if that is mostly text, such as code.

    All fields are written, though most say nothing: these are known.
    """
    if len(text) <= SHORT_TEXT:
        return 0
    return _text_bytes(text) + VALUE_BYTES * (estimate_values(text) - _FIELDS)


def _text_bytes(text: bytes) -> int:
    """Return what it takes as a string, in which each character takes as much as the widest."""
    if text.isascii():
        return len(text)
    wide = text.translate(None, _UPTO_LATIN_1)
    each = 4 if wide.translate(None, _UPTO_BMP) else 2 if wide else 1
    return each * len(text.translate(None, _BEHIND_FIRST))
