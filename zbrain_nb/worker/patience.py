"""When a queue does not answer: what to try again, and when."""

from __future__ import annotations

import asyncio

from zbrain_nb.model.errors import ZBrainError

FIRST_PAUSE_SECS, LONGEST_PAUSE_SECS = 0.05, 5.0
_NOT_FOR_GOOD = frozenset({401, 403, 429})


def is_passing(error: ZBrainError) -> bool:
    """Whether an error says nothing about what was sent, so that the same may go through later."""
    return error.status >= 500 or error.status in _NOT_FOR_GOOD


class Patience:
    """Pauses that grow from `FIRST_PAUSE_SECS` to `LONGEST_PAUSE_SECS` while nothing succeeds."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE_SECS

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._pause = FIRST_PAUSE_SECS

    async def wait(self) -> None:
        """Sleep for the next pause."""
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECS)
