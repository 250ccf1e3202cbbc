"""How a worker ends: it drains; ends what runs, if it is told to; or leaves that to the next worker on its folder.

The worker asks here whether it may take jobs. Nothing here talks to the queue: what the attempts have to say is sent
meanwhile as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from enum import IntEnum

from zbrain_nb.worker.run import Run
from zbrain_nb.worker.runs import Runs

#: When all that ran has ended, the queue is waited for no longer than this.
DELIVER_SECS = 10.0
_LOOK_SECS = 0.5
#: The queue is not spoken of when it is told within this time.
_PATIENCE_SECS = 1.0
_NAMED = 5


class Stage(IntEnum):
    """How far a worker has come; it only ever goes on."""

    WORKING = 0
    #: Takes no job, and ends when those that run have ended and the queue has all that they said.
    DRAINING = 1
    #: Ends what runs, and tells the queue.
    ENDING = 2
    #: Ends at once.
    LEAVING = 3


class Drain:
    """The end of one worker.

    Parameters
    ----------
    runs : Runs
        What has to end before.
    timeout_secs : float, optional
        Draining takes no longer; what runs then is ended. None is for ever.
    is_busy : callable
        Returns whether there may be jobs that are leased to the worker and of which `runs` does not know.
    is_fenced : callable
        Returns whether jobs that are left behind are ended soon by the clock.
    say : callable
        Takes sentences for the person at the terminal.
    """

    def __init__(
        self,
        runs: Runs,
        *,
        timeout_secs: float | None,
        is_busy: Callable[[], bool],
        is_fenced: Callable[[], bool],
        say: Callable[[str], None],
    ) -> None:
        self.stage = Stage.WORKING
        self._runs = runs
        self._timeout_secs = timeout_secs
        self._is_busy = is_busy
        self._is_fenced = is_fenced
        self._say = say
        self._said = ""
        self._all_ended_at: float | None = None
        self._moved = asyncio.Event()

    @property
    def is_on(self) -> bool:
        """Whether no more jobs are to be taken."""
        return self.stage is not Stage.WORKING

    def ask(self) -> None:
        """Hear that a person or a service manager wants the worker to end; hear it again if that takes too long."""
        if self.stage is Stage.WORKING:
            self._go_to(Stage.DRAINING)
        elif self.stage is Stage.DRAINING and self._is_fenced():
            self._go_to(Stage.ENDING)
        else:
            self._go_to(Stage.LEAVING)

    def leave(self) -> None:
        """Hear that the worker shall end at once; what runs goes on, for the next worker to take up."""
        self._go_to(Stage.LEAVING)

    def look(self) -> None:
        """Hear that something has changed about the runs."""
        self._moved.set()

    def _go_to(self, stage: Stage) -> None:
        self.stage = max(self.stage, stage)
        self._moved.set()

    async def until_over(self) -> None:
        """Return when the worker may end."""
        while self.stage is Stage.WORKING:
            await self._wait()
        await self._drain()
        await self._end()
        if left := self._runs.all():
            self._say(self._farewell(left))

    async def _drain(self) -> None:
        deadline = None if self._timeout_secs is None else time.monotonic() + self._timeout_secs
        if self.stage is Stage.DRAINING:
            self._runs.withdraw()
        while self.stage is Stage.DRAINING and (self._runs.all() or self._is_busy()):
            self._tell_what_runs()
            await self._wait()
            if deadline is not None and time.monotonic() >= deadline and self.stage is Stage.DRAINING:
                self._say(f"what runs after {self._timeout_secs:g} s is ended: {_names(self._runs.all())}")
                self._go_to(Stage.ENDING)

    async def _end(self) -> None:
        while self.stage is Stage.ENDING and (runs := self._runs.all()):
            if all(run.ended for run in runs):
                self._all_ended_at = self._all_ended_at or time.monotonic()
                if time.monotonic() - self._all_ended_at > DELIVER_SECS:
                    return
            else:
                self._runs.stop_all()  # again and again: some may just be starting
            await self._wait()

    def _tell_what_runs(self) -> None:
        running = [run for run in self._runs.all() if not run.ended]
        if running:
            jobs, them = ("1 job still runs", "it") if len(running) == 1 else (f"{len(running)} jobs still run", "them")
            what = f"stop {them}" if self._is_fenced() else f"leave {them} to the next worker here"
            text = f"draining: {jobs} ({_names(running)}); press Ctrl-C again to {what}"
            self._all_ended_at = None
        elif self._runs.all():
            self._all_ended_at = self._all_ended_at or time.monotonic()
            if time.monotonic() - self._all_ended_at < _PATIENCE_SECS:
                return
            text = "draining: all jobs have ended; the queue is still to be told"
        else:
            return
        if text != self._said:
            self._said = text
            self._say(text)

    def _farewell(self, left: list[Run]) -> str:
        running = [run for run in left if not run.ended]
        if not running:
            return f"the queue could not be told how these ended: {_names(left)}; the next worker here tells it"
        if self._is_fenced():
            return f"left behind: {_names(running)}; they are ended before their leases are over"
        return f"left to the next worker here: {_names(running)}"

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECS if self.is_on else None):
                await self._moved.wait()
        self._moved.clear()


def _names(runs: list[Run]) -> str:
    named = [f"{run.job_id[:18]} {run.job.name}" if run.job is not None else run.job_id for run in runs[:_NAMED]]
    more = len(runs) - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
