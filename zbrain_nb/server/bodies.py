"""How much memory the bodies of requests may take together, which handlers collect before they look at them.

They count as long as they are held, and from then on with what they take when they are decoded.
"""

from __future__ import annotations

from collections import Counter

from zbrain_nb.model.access import Principal
from zbrain_nb.model.errors import Unavailable

#: Of all senders, and of one who does not hold the data directory.
MOST_BYTES, MOST_BYTES_EACH = 512 * 1024 * 1024, 128 * 1024 * 1024
RETRY_SECS = 2


class BodyRoom:
    """Room for bodies; what is taken is given back when the request is answered or its sender gone.

    Attributes
    ----------
    most_each : int
        Bytes of one sender at most who does not hold the data directory.
    """

    def __init__(self, most: int = MOST_BYTES, most_each: int = MOST_BYTES_EACH) -> None:
        self._most = most
        self.most_each = most_each
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many bytes are taken."""
        return self._taken.total()

    def take(self, by: Principal, size: int) -> None:
        """Take room for `size` bytes.

        Raises
        ------
        Unavailable
            If there is too little now, or the sender has too much of it.
        """
        mine = self._taken[by.owner] + size
        if self.taken + size > self._most or (mine > self.most_each and not by.is_holder):
            raise Unavailable(
                "Too many large requests are under way.",
                "Send it again when others are through.",
                retry_after_secs=RETRY_SECS,
            )
        self._taken[by.owner] = mine

    def give_back(self, by: Principal, size: int) -> None:
        """Give back what was taken."""
        self._taken[by.owner] -= size
        if not self._taken[by.owner]:
            del self._taken[by.owner]
