"""How many values a text of JSON holds, told before it is decoded, for that may take forty times its length.

Servers ask of what they are sent, and clients of what they are about to send.
"""

from __future__ import annotations

#: Values in one spec, and in the body of one request, at most.
MAX_SPEC_VALUES, MAX_VALUES = 100_000, 1_000_000
#: What a value takes when it is decoded: of all kinds of JSON the most that was measured.
VALUE_BYTES = 136
_PIECE_BYTES = 1 << 16
_BEFORE_VALUES = b",[{"
_OTHERS = bytes(set(range(256)) - set(_BEFORE_VALUES) - set(b'"'))


def count_values(text: bytes, enough: int) -> int:
    """Return how many values there are in a text of JSON: no fewer than there are, or than are too many.

    An empty list or object may count as two.

    Parameters
    ----------
    text : bytes
        Not looked at whether it is JSON: up to where it is not, the number holds.
    enough : int
        How many it may be. Where even commas and brackets in strings are no more, they are taken for values; and
        beyond it nothing is counted.
    """
    number = sum(map(text.count, (b",", b"[", b"{"))) + 1
    if number <= enough:
        return number
    if b"\\" in text:
        text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    text = text.translate(None, _OTHERS)
    number, is_inside = 1, False
    for start in range(0, len(text), _PIECE_BYTES):  # in pieces: of quotes there may be millions
        parts = text[start : start + _PIECE_BYTES].split(b'"')
        number += sum(map(len, parts[is_inside::2]))
        if number > enough:
            break
        is_inside ^= len(parts) % 2 == 0
    return number
