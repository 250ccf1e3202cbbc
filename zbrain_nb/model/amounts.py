"""How many values a text of JSON holds, told before it is decoded, for that may take forty times its length.

Servers ask of what they are sent, and clients of what they are about to send.
"""

from __future__ import annotations

#: Values in one spec, and in the body of one request, at most.
MAX_SPEC_VALUES, MAX_VALUES = 100_000, 1_000_000
#: What a value takes when it is decoded: of all kinds of JSON the most that was measured.
VALUE_BYTES = 136
#: What a byte takes when it is decoded: one wide character makes all of its text wide, in which others were one byte.
WIDE_BYTES = 4
#: So much is looked at in one go: of quotes there may be millions.
PIECE_BYTES = 1 << 16
_BEFORE_VALUES = b",[{"
_OTHERS = bytes(set(range(256)) - set(_BEFORE_VALUES) - set(b'"'))
# Likewise, but a backslash and what may stand behind it are left too.
_PLAIN = bytes(set(_OTHERS) - set(b"\\/bfnrtu"))
#: A value is at most a name and a text.
_QUOTES_OF_VALUE = 4


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
    number = most_values(text)
    return number if number <= enough else _count_outside_strings(text, enough)


def most_values(text: bytes) -> int:
    """Return how many values there are at most in a text of JSON: commas and brackets in strings count too."""
    return len(text) - len(text.translate(None, _BEFORE_VALUES)) + 1


def estimate_values(text: bytes) -> int:
    """Return how many values there are in a text of JSON: no fewer than there are, and less than twice as many.

    Commas and brackets in strings count only where they are fewer than what stands outside: so much is told by
    looking at part of the text. An empty list or object may count as two.
    """
    text = text.translate(None, _PLAIN)  # a third is left, to be looked at more closely
    most = most_values(text)
    number = _count_outside_strings(text, most // 2)
    return number if number <= most // 2 else most


def _count_outside_strings(text: bytes, enough: int) -> int:
    counter = ValueCounter(enough)
    for start in range(0, len(text), PIECE_BYTES):
        if counter.add(text[start : start + PIECE_BYTES]) > enough:
            break
    return counter.number


def decoded_bytes(text: bytes, values: int) -> int:
    """Return what a text of JSON takes at most when it is decoded."""
    is_narrow = text.isascii() and text.count(rb"\u") == text.count(rb"\u00")
    return values * VALUE_BYTES + len(text) * (1 if is_narrow else WIDE_BYTES)


class ValueCounter:
    """Counts the values of a text that is given piece by piece, as `count_values` does; beyond `enough` none.

    Attributes
    ----------
    number : int
        Of the pieces so far.
    """

    def __init__(self, enough: int) -> None:
        self.number = 1
        self._enough = enough
        self._quotes = 0
        self._is_inside = False  # of a string
        self._is_escaped = False

    def add(self, piece: bytes) -> int:
        """Take the next piece, which is not empty; return the number."""
        if self._is_escaped:
            piece = piece[1:]
            self._is_escaped = False
        if b"\\" in piece:
            piece = piece.replace(rb"\\", b"").replace(rb"\"", b"")
            self._is_escaped = piece.endswith(b"\\")
        parts = piece.translate(None, _OTHERS).split(b'"')
        self.number += sum(map(len, parts[self._is_inside :: 2]))
        self._is_inside ^= len(parts) % 2 == 0
        self._quotes += len(parts) - 1
        if self._quotes > _QUOTES_OF_VALUE * self._enough:  # no JSON, or as many values
            self.number = max(self.number, self._enough + 1)
        return self.number
