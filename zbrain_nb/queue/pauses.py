"""Pauses: nothing is leased from a paused queue until it is resumed, over restarts too."""

from __future__ import annotations

import msgspec

from zbrain_nb.store import waiting
from zbrain_nb.store.storage import Storage

#: Under keys that begin so the store keeps the pauses.
_HEAD = "paused:"

#: Org and kind.
QueueOf = tuple[str, str]


async def read_pauses(storage: Storage) -> dict[QueueOf, str]:
    """Return the paused queues, and why, in words."""
    found = await storage.read(waiting.metas, _HEAD)
    return {msgspec.json.decode(name, type=QueueOf): why for name, why in found.items()}


async def save_pause(storage: Storage, paused: QueueOf, why: str | None) -> None:
    """Keep that a queue is paused, and why; None is that it goes on."""
    key = _HEAD + msgspec.json.encode(paused).decode()
    await storage.write(lambda database: database.save_meta(key, why))
