"""A session of calls as the worker sees it: gives orders to its foreman, makes events of what stands in its spool."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable
from pathlib import Path

import msgspec

from zbrain_nb.model.datadir import boot_id
from zbrain_nb.model.events import JobFailed
from zbrain_nb.worker.calls import (
    Call,
    Cancel,
    Close,
    HighMark,
    Order,
    OrderBook,
    Withdraw,
    unpack_numbers,
    unpack_of_call,
)
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.employer import Employer
from zbrain_nb.worker.finishing import Ending, lost
from zbrain_nb.worker.folder import WorkerFolder
from zbrain_nb.worker.grip import Grip
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.run import Run
from zbrain_nb.worker.spool import Begin, End, Frame, Kind, SpoolReader

log = logging.getLogger(__name__)
_TICK_SECS = 1.0
#: So long the start of a session may take before its calls go elsewhere.
_START_SECS = 2.0
#: The spool is read no further while so much of it waits for the queue.
_WINDOW_BYTES = 8 * 1024 * 1024
_READ_BYTES = 256 * 1024
#: So many calls a session takes, and so much its spool may hold: it is read again from its start when a worker died.
MOST_CALLS = 20_000
MOST_BYTES = 32 * 1024 * 1024
_NOT_BEGUN = "Its worker had no process free for it."


class Session:
    """One session.

    Parameters
    ----------
    folder : WorkerFolder
        Where it lies.
    own : Run
        The session itself, as what the spawner starts.
    key : object
        What its calls have in common.
    employer : Employer
        See there.

    Attributes
    ----------
    open : dict of int to Run
        Calls that have not ended, by number, in order.
    moved_at : float
        When the last call began or ended, on the monotonic clock.
    is_withdrawing : bool
        Whether it was told to give back what was not begun.
    is_closed : bool
        Whether it takes no more calls.
    """

    def __init__(self, folder: WorkerFolder, own: Run, key: object, employer: Employer) -> None:
        assert own.request is not None
        assert own.request.orders is not None
        self.own = own
        self.key = key
        self.open: dict[int, Run] = {}
        self.moved_at = time.monotonic()
        self.is_withdrawing = False
        self.is_closed = False
        self._begun_at: float | None = None  # when its foreman was heard first
        self._folder = folder
        self._request = own.request
        self._employer = employer
        self._book = OrderBook(Path(own.request.orders))
        self._next = 0
        self._kept: dict[int, Run] = {}  # calls that are not over
        self._handed: set[int] = set()
        self._named: set[int] = set()
        self._outboxes: dict[int, str] = {}
        self._boot_id = ""  # of the machine, when its foreman began
        self._end: End | None = None
        self._finishing: set[asyncio.Task[None]] = set()

    def is_stuck(self, secs: float) -> bool:
        """Whether it has calls, and none has begun or ended for so long; one that is being started gets more time."""
        if self._begun_at is None:
            secs = max(secs, _START_SECS)
        return bool(self.open) and time.monotonic() - max(self.moved_at, self._begun_at or 0.0) > secs

    def begin(self) -> None:
        """Follow it from now on; it is launched if it was not."""
        self.own.task = asyncio.create_task(self._live(), name=f"session {self.own.job_id}")

    def adopt(self, call: Call, run: Run) -> None:
        """Go on with a call that stands in its book."""
        run.session, run.number = self, call.number
        self.open[call.number] = self._kept[call.number] = run

    # Orders

    def take(self, runs: list[tuple[Run, str]]) -> None:
        """Run calls, each with the path of its file; that of a command is empty.

        Raises
        ------
        OSError
            If the orders cannot be written; none is run.
        """
        orders: list[Order] = []
        for number, (run, path) in enumerate(runs, self._next):
            assert run.job is not None
            spec = run.job.spec
            orders.append(
                Call(
                    number,
                    run.job_id,
                    run.attempt,
                    path,
                    spec.function or "",
                    spec.timeout_secs,
                    spec.input,
                    spec.arguments,
                    spec.cmd,
                    str(self._folder.checkpoints.folder_of(run.job)),
                    run.lease.token if run.lease is not None else "",
                )
            )
        self._book.append(orders)
        self._wake_foreman()
        if not self.open:
            self.moved_at = time.monotonic()
        for number, (run, _) in enumerate(runs, self._next):
            run.session, run.number = self, number
            self.open[number] = self._kept[number] = run
        self._next += len(runs)
        if self._next >= MOST_CALLS:
            self.close()

    def cancel(self, run: Run) -> None:
        """End a call, or do not begin it."""
        self._owe(Cancel(run.number))

    def withdraw(self) -> None:
        """Have what was not begun given back (see `Employer.withdrawn`)."""
        self.is_withdrawing = True
        self._owe(Withdraw())

    def close(self) -> None:
        """Take no more calls; its foreman ends when they are done."""
        if not self.is_closed:
            self.is_closed = True
            self._owe(Close())

    def end_all(self) -> None:
        """End all calls, without waiting."""
        if self.own.grip is not None:
            self.own.grip.end_job()

    def _owe(self, order: Order) -> None:
        """Give an order that has to be given: now, or as soon as the disk takes it."""
        self._book.owe(order)
        self._pay()

    def _pay(self) -> None:
        if self._book.pay():
            self._wake_foreman()

    def _wake_foreman(self) -> None:
        if self.own.grip is not None:
            self.own.grip.wake()

    def let_go(self) -> None:
        """Close the files; the foreman goes on."""
        self._book.close()
        if self.own.reader is not None:
            self.own.reader.close()
        if self.own.grip is not None:
            self.own.grip.release()

    # What the foreman says

    async def _live(self) -> None:
        path = self._folder.spool_path(*self.own.key)
        try:
            if not path.exists():
                await self._employer.launch(self.own)
            self.own.reader = SpoolReader(path)
            await self._follow(self.own.reader)
        except Exception as error:
            # what was handed over may run or not; nobody is left here to say
            log.exception("session is given up", extra={"session": self.own.job_id})
            self._end = End(reason="supervisor", message=f"Its worker failed at it: {error!r}")
            self.end_all()
        self.is_closed = True
        await self._end_rest()
        while self._kept:
            await self.own.wait(60)
        await asyncio.gather(*self._finishing, return_exceptions=True)
        self.let_go()
        await asyncio.to_thread(self._folder.remove, self._request, *self.own.key)
        self._employer.ended(self)

    async def _follow(self, reader: SpoolReader) -> None:
        while True:
            self._pay()
            if sum(run.delivery.waiting_bytes for run in self._kept.values() if not run.stale) > _WINDOW_BYTES:
                await self.own.wait(_TICK_SECS)
                continue
            is_locked = reader.is_locked()  # before the read: the end is written before the lock is freed
            frames = reader.read(_READ_BYTES)
            for frame in frames:
                await self._hear(frame)
            if frames:
                self._employer.told()
                await asyncio.sleep(0)
                if reader.offset > MOST_BYTES:
                    self.close()
            elif self._end is not None or not is_locked:
                return
            else:
                await self.own.wait(_TICK_SECS)

    async def _hear(self, frame: Frame) -> None:
        if frame.kind == Kind.CALL:
            number, frame = unpack_of_call(frame)
            run = self._kept.get(number)
            if run is not None:
                await self._hear_call(number, run, frame)
        elif frame.kind == Kind.HANDED:
            self._handed.update(unpack_numbers(frame))
        elif frame.kind == Kind.NAMED:
            self._named.update(unpack_numbers(frame))
        elif frame.kind == Kind.WITHDRAWN:
            self.is_withdrawing = False
            runs = [self.open.pop(number) for number in unpack_numbers(frame) if number in self.open]
            for run in runs:
                del self._kept[run.number]
                run.session = None
                self._unname(run)
            self._employer.withdrawn(runs)
        elif frame.kind == Kind.BEGIN:
            begin = msgspec.json.decode(frame.payload, type=Begin)
            self._begun_at = time.monotonic()
            self._boot_id = begin.boot_id
            if self.own.reader is not None:
                self.own.grip = Grip.take(begin, self.own.reader, self.own.wake.set)
                if self.own.grip is not None:
                    self.own.grip.wake()  # orders may have been written before there was anybody to tell
        elif frame.kind == Kind.END:
            self._end = msgspec.json.decode(frame.payload, type=End)

    async def _hear_call(self, number: int, run: Run, frame: Frame) -> None:
        if frame.kind == Kind.BEGIN:
            self.moved_at = time.monotonic()
            self._outboxes[number] = msgspec.json.decode(frame.payload, type=Begin).outbox
        if not run.stale or frame.kind == Kind.END:
            run.delivery.feed(frame)
        if frame.kind != Kind.END or number not in self.open:
            return
        self.moved_at = time.monotonic()
        del self.open[number]
        said = run.delivery.finished
        if said is None or said.get("files"):
            self._later(self._finish(run))
        else:
            self._employer.learn(float(said.get("secs") or 0.0))
            await self._finish(run)

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _finish(self, run: Run) -> None:
        """Make the ending of a call whose process is done with it."""
        run.ended = True
        end = run.delivery.end
        assert end is not None
        if not run.stale:
            self._close(run, await self._ending_of(run, end))
        self.heard(run)

    async def _ending_of(self, run: Run, end: End) -> Ending:
        """Have what a call left gathered; if that fails, it is this call's failure, not the session's."""
        try:
            return await self._employer.finish(run, self._request_of(run), end)
        except Exception as error:
            log.exception("what a call left cannot be gathered", extra={"job": run.job_id, "attempt": run.attempt})
            what = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            reason = f"It ran to its end, but what it left could not be kept: {what}"
            return Ending(JobFailed(job_id=run.job_id, reason=reason), [])

    def _request_of(self, run: Run) -> RunRequest:
        own = self._request
        outbox = self._outboxes.get(run.number) or own.outbox
        spec = run.job.spec if run.job is not None else None
        return RunRequest(
            job_id=run.job_id,
            attempt=run.attempt,
            cmd=own.cmd,
            function="call" if own.cmd is None else None,
            cwd=own.cwd,
            outbox=outbox,
            timeout_secs=spec.timeout_secs if spec is not None else None,
        )

    def _close(self, run: Run, ending: Ending) -> None:
        run.delivery.close(ending.event, ending.sentences)
        self._employer.told()

    def heard(self, run: Run) -> None:
        """Hear that something changed about a call: events of it were acknowledged, or it is not ours any more."""
        if run.ended and (run.delivery.done or run.stale) and self._kept.get(run.number) is run:
            del self._kept[run.number]
            outbox = self._outboxes.pop(run.number, "")
            if run.delivery.finished is None or run.delivery.finished.get("files"):
                self._later(asyncio.to_thread(self._folder.remove_outbox, outbox))
            self._unname(run)
            self._employer.over(run)
        self.own.wake.set()

    def _unname(self, run: Run) -> None:
        """Remove the name that its foreman has given to a call that was long."""
        if run.number in self._named:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._folder.spool_path(*run.key))

    def feed_again(self, run: Run, high: int) -> None:
        """Make the events of a call anew, from those that follow `high`."""
        run.delivery = Delivery(run.job_id, run.attempt, run.delivery.worker_id, high, mask=run.delivery.mask)
        if run.canceled:
            run.delivery.hurry()
        if self.own.reader is None:
            return
        reader = SpoolReader(self._folder.spool_path(*self.own.key))
        try:
            while reader.offset < self.own.reader.offset:
                frames = reader.read(min(_READ_BYTES, self.own.reader.offset - reader.offset))
                if not frames:
                    break
                for frame in frames:
                    if frame.kind == Kind.CALL:
                        number, inner = unpack_of_call(frame)
                        if number == run.number:
                            run.delivery.feed(inner)
        finally:
            reader.close()
        if run.delivery.end is not None:
            self._later(self._finish(run))

    async def _end_rest(self) -> None:
        """End the calls that have not: the foreman is gone."""
        high: int | None = None
        if self.open and self._end is None:
            await self._employer.see_gone(self.own)
            if self._boot_id == boot_id():  # else what was written before the machine went down may be missing
                high = HighMark.read(self._request.outbox)
        for number, run in list(self.open.items()):
            del self.open[number]
            run.ended = True
            if self._end is not None and self._end.reason == "unstartable":
                ending = await self._ending_of(run, self._end)
            elif number in self._handed and (high is None or number <= high):
                run.delivery.lose(time.time())
                ending = lost(run.job_id)
            else:
                ending = not_begun(run, is_orderly=self._end is not None and self._end.reason == "exited")
            if not run.stale:
                self._close(run, ending)
            self.heard(run)


def not_begun(run: Run, *, is_orderly: bool = True) -> Ending:
    """Return the ending of a call that certainly never ran: it goes back to the queue."""
    event = JobFailed(job_id=run.job_id, lost=True, unstarted=True, returned=is_orderly, reason=_NOT_BEGUN)
    return Ending(event, [])
