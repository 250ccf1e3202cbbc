"""What an operator sees of the queues: one for each org and kind of worker."""

from __future__ import annotations

import msgspec


class QueueInfo(msgspec.Struct, kw_only=True):
    """The jobs of one org and kind that have not ended.

    Attributes
    ----------
    org_id, kind : str
        Of which.
    waiting, running : int
        How many jobs, without and with an attempt under way.
    paused : str or None
        Why nothing is leased, in one sentence; None if the queue goes on.
    """

    org_id: str
    kind: str
    waiting: int = 0
    running: int = 0
    paused: str | None = None
