"""How much the kernel may say: what goes to a page through it shares one connection with the outputs of all cells.

A Jupyter server drops messages of a kernel that says more than 1 MB or 1,000 messages a second, over three seconds, and
tells nobody which. `Pace` stays below that; `Mailbox` bounds what waits meanwhile.
"""

from __future__ import annotations

import asyncio

import msgspec

from zbrain_nb.model.events import Event

#: So much in a second, which may be saved up; the rest is left to cells.
BYTES_PER_SEC = 500_000.0
MESSAGES_PER_SEC = 200.0
PART_BYTES = 200_000
#: Lines of one job's log that wait; the view fetches older ones when somebody looks at them.
WAITING_LINES = 1_000
#: Events that wait before no more are taken from the server, which then holds them back; and those with outputs.
WAITING_EVENTS = 2_000
WAITING_OUTPUTS = 16


class Pace:
    """Lets messages pass one after another, no faster than the front end takes them."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def wait(self, size_bytes: int) -> None:
        """Wait until a message of so many bytes may be sent."""
        now = asyncio.get_running_loop().time()
        start = max(self._free_at, now - 1)
        self._free_at = start + max(size_bytes / BYTES_PER_SEC, 1 / MESSAGES_PER_SEC)
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


class Mailbox:
    """Events between the one who brings them and the one who sends them on, bounded.

    Lines of logs are thinned: a page sees by their numbers that some are missing. All else is kept, and when it is much
    `put` waits.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._is_closed = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    def close(self) -> None:
        """Let `take` end once all is taken."""
        self._is_closed = True
        self._filled.set()

    async def put(self, batch: list[Event]) -> None:
        """Add events, in order; an empty batch is a sign of life, and is passed on as one."""
        while not self._has_room():
            self._emptied.clear()
            await self._emptied.wait()
        self._events = thinned([*self._events, *batch])
        self._filled.set()

    async def take(self) -> list[Event] | None:
        """Wait for a batch, and return all that has come by then; None when it is closed and empty."""
        await self._filled.wait()
        if self._is_closed and not self._events:
            return None
        taken, self._events = self._events, []
        if not self._is_closed:
            self._filled.clear()
        self._emptied.set()
        return taken

    def _has_room(self) -> bool:
        outputs = sum(event.kind == "job_displayed" for event in self._events)
        return len(self._events) < WAITING_EVENTS and outputs < WAITING_OUTPUTS


def thinned(events: list[Event]) -> list[Event]:
    """Return `events` with the newest `WAITING_LINES` lines of each job alone."""
    room: dict[str, int] = {}
    kept = []
    for event in reversed(events):
        if event.kind == "job_logged":
            entries = event.data["entries"]
            left = room.get(event.job_id, WAITING_LINES)
            room[event.job_id] = max(0, left - len(entries))
            if not left:
                continue
            if len(entries) > left:
                event = msgspec.structs.replace(event, data={**event.data, "entries": entries[-left:]})  # noqa: PLW2901
        kept.append(event)
    return kept[::-1]
