"""One attempt as its worker sees it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import Lease
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.grip import Grip
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.spool import SpoolReader

if TYPE_CHECKING:
    from zbrain_nb.worker.session import Session

Key = tuple[str, int]


@dataclass
class Run:
    """One attempt.

    Attributes
    ----------
    job : Job or None
        As it was leased; None if that is not known any more.
    delivery : Delivery
        Its events on their way.
    start : int
        The highest number that the queue had when the run was taken up.
    ended : bool
        Whether its processes are gone: it takes up no slot.
    canceled, stale, stopped : bool
        Whether its processes shall end; of a stale one nothing is told any more, a stopped one is lost.
    is_put_off : bool
        Whether the queue wants nothing of it for a while.
    failures : int
        How often the worker failed at it without getting any further.
    lease : Lease or None
        The whole of what was leased, if that is known.
    session, number : Session or None, int
        Of a call: the session that runs it, and its number there.
    """

    job_id: str
    attempt: int
    job: Job | None
    delivery: Delivery
    start: int = 0
    request: RunRequest | None = None
    reader: SpoolReader | None = None
    grip: Grip | None = None
    ended: bool = False
    canceled: bool = False
    stale: bool = False
    stopped: bool = False
    is_put_off: bool = False
    failures: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    session: Session | None = None
    number: int = 0
    lease: Lease | None = None

    @property
    def key(self) -> Key:
        """Job and attempt."""
        return self.job_id, self.attempt

    async def wait(self, secs: float) -> None:
        """Wait until it is woken, or for `secs`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(secs):
                await self.wake.wait()
        self.wake.clear()
