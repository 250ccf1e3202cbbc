"""What must not be read in what a job says: its token and the values of its secrets become ``***``.

`Delivery` asks it about everything that goes to the queue: lines, rich outputs, errors, values as text. Files that a
job keeps are its own: nobody looks into artifacts and pickled results. It finds a value as it is, each longer line of
one that has several, and the usual spellings of it (Base64, percent-encoding, escapes of JSON and Python); no other
encoding, and not what a job prints in pieces, over several lines or streams.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any

from zbrain_nb.model.protocol import Lease

STARS = "***"
#: Shorter lines of a value of several lines are no secrets by themselves.
_SHORTEST_LINE = 8


class Mask:
    """Hides values.

    Parameters
    ----------
    values : iterable of str
        What to hide; empty ones are passed over.

    Attributes
    ----------
    longest : int
        How many characters the longest spelling has; 0 if there is nothing to hide.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        spellings = sorted({one for value in values if value for one in _spellings(value)}, key=len, reverse=True)
        self._spellings = spellings
        self._pattern = re.compile("|".join(map(re.escape, spellings)))
        self.longest = max(map(len, spellings), default=0)

    @classmethod
    def of(cls, lease: Lease | None) -> Mask:
        """Return the mask for what an attempt says."""
        return cls() if lease is None else cls([lease.token, *lease.secrets.values()])

    def hits(self, text: str) -> bool:
        """Whether anything in `text` is to be hidden."""
        return any(spelling in text for spelling in self._spellings)

    def text(self, text: str) -> str:
        """Return `text` with stars for what is hidden."""
        return self._pattern.sub(STARS, text) if self.hits(text) else text

    def place_to_cut(self, text: str, at: int) -> int:
        """Return where to cut `text`: at `at`, or behind the value that a cut there would part."""
        for found in self._pattern.finditer(text, max(0, at - self.longest)):
            if found.start() >= at:
                break
            at = max(at, found.end())
        return at

    def tree(self, value: Any) -> Any:
        """Return a JSON value with stars in its texts, names of members too."""
        if not self._spellings:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name) if isinstance(name, str) else name: self.tree(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.tree(one) for one in value]
        return value


def _spellings(value: str) -> set[str]:
    data = value.encode("utf-8", "surrogateescape")
    lines = [line for line in value.splitlines() if len(line) >= _SHORTEST_LINE]
    coded = [base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()]
    found = {
        value,
        *(lines if len(lines) > 1 or "\n" in value else ()),
        *(text.rstrip("=") for text in coded),
        urllib.parse.quote(data, safe=""),
        urllib.parse.quote_plus(data),
        json.dumps(value)[1:-1],
        repr(value)[1:-1],
    }
    return {one for one in found if one.strip()}
