"""Heartbeats: from a timer of their own, whatever else is said to the queue or waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from zbrain_nb.model.errors import WorkerNotFound, ZBrainError
from zbrain_nb.model.protocol import HeartbeatAnswer, HeartbeatRequest, WorkerState
from zbrain_nb.worker.fence import Fences, now
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.runs import Runs

log = logging.getLogger(__name__)
#: So many beats in the time that a lease lasts, so that some may get lost.
BEATS = 5
LONGEST_SECS = 10.0
_GOODBYE_SECS = 2.0


class Heart:
    """Beats for one worker.

    Parameters
    ----------
    link : Link
        To the queue.
    worker_id : str
        Whose heart.
    runs : Runs
        Their leases are renewed; they hear what the queue says of them.
    fences : Fences
        Are moved when a lease was renewed.
    registered : asyncio.Event
        It beats while this is set; cleared here when the queue does not know the worker.
    report : callable
        Returns what a heartbeat says.
    unknown : callable
        Called when the queue does not know the worker.
    """

    def __init__(
        self,
        link: Link,
        worker_id: str,
        runs: Runs,
        fences: Fences,
        registered: asyncio.Event,
        *,
        report: Callable[[], HeartbeatRequest],
        unknown: Callable[[], None],
    ) -> None:
        self._link = link
        self._worker_id = worker_id
        self._runs = runs
        self._fences = fences
        self._registered = registered
        self._report = report
        self._unknown = unknown
        self.pause_secs = LONGEST_SECS

    def set_pace(self, lease_ttl_secs: float) -> None:
        """Beat often enough for leases that last so long."""
        self.pause_secs = min(lease_ttl_secs / BEATS, LONGEST_SECS)

    async def beat_for_ever(self) -> None:
        """Beat at a steady pace; an answer that takes longer than a beat is not waited for."""
        loop = asyncio.get_running_loop()
        while True:
            await self._registered.wait()
            begun = loop.time()
            try:
                async with asyncio.timeout(self.pause_secs):
                    await self._beat()
            except WorkerNotFound:
                self._registered.clear()
                self._unknown()
                continue
            except TimeoutError:
                log.warning("heartbeat was not answered in time", extra={"secs": self.pause_secs})
            except ZBrainError as error:
                log.warning("heartbeat failed", extra={"why": str(error)})
            except OSError as error:  # the supervisors go by the fences as they are
                log.warning("fences cannot be moved", extra={"why": str(error)})
            await asyncio.sleep(begun + self.pause_secs - loop.time())

    async def _beat(self) -> None:
        asked_at = now()
        self._hear(await self._link.heartbeat(self._worker_id, self._report()), asked_at)

    async def say_goodbye(self) -> None:
        """Tell the queue that the worker ends; it is not told if it does not answer at once."""
        if not self._registered.is_set():
            return
        last = msgspec.structs.replace(self._report(), state=WorkerState.STOPPED, free=0)
        with contextlib.suppress(ZBrainError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECS):
                await self._link.heartbeat(self._worker_id, last)

    def _hear(self, answer: HeartbeatAnswer, asked_at: float) -> None:
        for verdict in answer.verdicts:
            key = verdict.job_id, verdict.attempt
            if verdict.verdict == "stale":
                self._runs.discard(key)
                continue
            self._fences.renew(*key, asked_at)
            if verdict.verdict == "cancel":
                self._runs.cancel(key)
