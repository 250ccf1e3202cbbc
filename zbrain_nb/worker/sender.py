"""Sends the events of all runs to the queue: one batch under way at a time, nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import logging

from zbrain_nb.model.errors import WorkerNotFound, ZBrainError
from zbrain_nb.model.events import AnyWorkerEvent
from zbrain_nb.model.protocol import EventBatch, EventBatchAnswer, EventResult
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.patience import Patience, is_passing
from zbrain_nb.worker.run import Run
from zbrain_nb.worker.runs import Runs

log = logging.getLogger(__name__)
#: Events are gathered so long before they are sent, unless one is urgent.
GATHER_SECS = 0.002
BATCH_BYTES = 1024 * 1024
#: After a batch of so many events, more are gathered, for longer: each batch is a commit. With so many runs that have
#: something to say already, it is sent at once.
BUSY_EVENTS, BUSY_GATHER_SECS = 8, 0.015
_MANY_RUNS = 100


class Sender:
    """Delivers what waits in the runs.

    Parameters
    ----------
    link : Link
        To the queue.
    runs : Runs
        Whose deliveries.
    registered : asyncio.Event
        Set while the queue knows the worker; cleared here when it says that it does not.
    """

    def __init__(self, link: Link, runs: Runs, registered: asyncio.Event, worker_id: str) -> None:
        self._link = link
        self._runs = runs
        self._registered = registered
        self._worker_id = worker_id
        self._something = asyncio.Event()
        self._first = 0  # whose turn it is to be the first in a batch

    def notify(self) -> None:
        """Say that a run may have something to send."""
        self._something.set()

    async def run(self) -> None:
        """Send for ever."""
        patience = Patience()
        limit = BATCH_BYTES
        is_busy = False
        while True:
            await self._registered.wait()
            waiting = self._waiting()
            if not waiting:
                self._something.clear()
                await self._something.wait()
                continue
            if is_busy and len(waiting) < _MANY_RUNS:
                await asyncio.sleep(BUSY_GATHER_SECS)
                waiting = self._waiting()
            elif not any(run.delivery.urgent for run in waiting):
                await asyncio.sleep(GATHER_SECS)
            events = self._gather(waiting, limit)
            is_busy = len(events) >= BUSY_EVENTS
            try:
                answer = await self._link.send_events(self._worker_id, EventBatch(events))
            except WorkerNotFound:
                self._registered.clear()
                continue
            except ZBrainError as error:
                if is_passing(error):
                    log.warning("events wait for the queue", extra={"why": str(error)})
                    await patience.wait()
                    continue
                # one event may spoil a batch (too large, say): find it by sending one at a time
                if len(events) > 1:
                    limit = 1
                    continue
                refused = EventResult(events[0].job_id, events[0].attempt or 0, "invalid", message=str(error))
                answer = EventBatchAnswer([refused])
            patience.reset()
            limit = BATCH_BYTES
            for result in answer.results:
                self._apply(result)

    def _waiting(self) -> list[Run]:
        return [run for run in self._runs.all() if run.delivery.waiting and not (run.stale or run.is_put_off)]

    def _gather(self, waiting: list[Run], limit: int) -> list[AnyWorkerEvent]:
        """Return the next batch: one run after the other comes first, and all others get what is left to each.

        Who has little to say is in every batch, however much the others have.
        """
        self._first += 1
        start = self._first % len(waiting)
        share = limit // len(waiting)
        events: list[AnyWorkerEvent] = []
        total = 0
        for run in waiting[start:] + waiting[:start]:
            more, size = run.delivery.take(share)
            if events and size > share and total + size > limit:
                continue
            events += more
            total += size
        return events

    def _apply(self, result: EventResult) -> None:
        run = self._find(result)
        if run is None:
            return
        if result.status == "stale":
            log.info("attempt is not ours any more", extra={"job": run.job_id, "attempt": run.attempt})
            self._runs.discard(run.key)
        elif result.status == "invalid":
            self._replace(result)
        elif not run.delivery.acknowledge(result.high):
            log.warning("queue lacks events", extra={"job": run.job_id, "high": result.high})
            self._runs.restart(run, result.high)
        elif result.status == "later":
            self._put_off(run, result.wait_secs)
        self._runs.heard(run)

    def _put_off(self, run: Run, secs: float) -> None:
        """Send nothing of a run for a while: its log comes too fast. What it goes on to say stays in its spool."""

        def go_on() -> None:
            run.is_put_off = False
            self.notify()

        if not run.is_put_off:
            run.is_put_off = True
            asyncio.get_running_loop().call_later(secs, go_on)

    def _replace(self, result: EventResult) -> None:
        run = self._find(result)
        if run is None:
            return
        log.error("queue refuses an event", extra={"job": run.job_id, "why": result.message})
        if result.high:
            run.delivery.acknowledge(result.high)
        if not run.delivery.substitute(result.message):
            self._runs.discard(run.key)

    def _find(self, result: EventResult) -> Run | None:
        return self._runs.get((result.job_id, result.attempt))
