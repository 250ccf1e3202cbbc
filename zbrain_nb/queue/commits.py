"""Group commit: commands are decided in order, written together, and answered in the order of their commits.

One commit is under way at a time. Commands that arrive meanwhile wait undecided, so a commit that fails takes
back its own overlay and nothing else. When a commit is through, its jobs are taken over, the next one is
decided and handed to the writer, and only then the last one is published and answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from zbrain_nb.model.errors import Unavailable, ZBrainError
from zbrain_nb.model.job import Job
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.index import Index
from zbrain_nb.queue.turn import Command, Fact, Stage, Turn
from zbrain_nb.store.storage import Storage

#: Texts of one commit, in characters, beyond which what else arrived waits for the next: the database holds all that a
#: commit writes in its memory, and without enough of it refuses everybody's.
COMMIT_CHARS = 16 * 1024 * 1024
#: What each job that a commit adds, and each change of one, counts as beside its text: the loop waits for the deciding.
ROW_CHARS = 4_000


class Commits:
    """The decider.

    Parameters
    ----------
    storage : Storage
        Open while commands run.
    index : Index
        Read by commands; changed here, after a commit.
    clock : Clock
        Time of events.
    publish : callable
        Gets the facts of a commit, in order.
    applied : callable
        Called when the index has taken over a commit: waiting requests may be served now.
    """

    def __init__(
        self,
        storage: Storage,
        index: Index,
        clock: Clock,
        publish: Callable[[list[Fact | Job]], None],
        applied: Callable[[], None],
    ) -> None:
        self._storage = storage
        self._index = index
        self._clock = clock
        self._publish = publish
        self._applied = applied
        self._waiting: list[Turn] = []
        self._under_way = False
        self._is_scheduled = False
        self._idle: asyncio.Future[None] | None = None
        self._begun = 0.0
        #: Called after a commit: how many commands wrote, how many seconds that took, and whether it failed.
        self.measure: Callable[..., None] | None = None

    def post(self, command: Command, subject: Any = None) -> asyncio.Future[Any]:
        """Queue a command; the future gets its answer when all it decided is durable.

        Parameters
        ----------
        command : callable
            Called with its `Turn`; returns the answer, or raises `ZBrainError` before it changed anything.
        subject : object
            What it finds as ``turn.subject``.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(Turn(command, subject, future))
        if not self._under_way and not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._begin)
        return future

    async def run(self, command: Command) -> Any:
        """Run a command and return its answer.

        Raises
        ------
        ZBrainError
            What the command raised, or `Unavailable` when the commit failed.
        """
        return await self.post(command)

    async def drain(self) -> None:
        """Wait until nothing is under way or waiting."""
        while self._under_way or self._waiting:
            self._idle = self._idle or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._idle)

    def _begin(self) -> None:
        self._is_scheduled = False
        if self._under_way or not self._waiting:
            return
        turns, self._waiting = self._waiting, []
        decided = self._decide(turns)
        turns, self._waiting = turns[:decided], turns[decided:] + self._waiting
        writing = [turn for turn in turns if turn.jobs or turn.transitions or turn.logs]
        loop = asyncio.get_running_loop()
        self._under_way = True
        self._begun = loop.time()
        if not writing:
            loop.call_soon(self._committed, turns, writing, [], None)
            return

        def done(outcomes: list[ZBrainError | None] | None, error: BaseException | None) -> None:
            if outcomes is not None:
                written = [turn for turn, refused in zip(writing, outcomes, strict=True) if refused is None]
                self._index.stored.rows.take(written)
            # A loop that was closed over us raises: what is durable will be found at the next start.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._committed, turns, writing, outcomes, error)

        self._storage.append(writing, done)

    def _decide(self, turns: list[Turn]) -> int:
        """Decide the first of the turns, as many as one commit takes; return how many."""
        decided, room = 0, COMMIT_CHARS
        stage = Stage(self._index, self._storage.next_seq, self._clock.time())
        whole = False
        try:
            for number, turn in enumerate(turns):
                try:
                    turn.take(stage)
                except ZBrainError as error:
                    turn.error = error
                    turn.undo(turns[:number])
                decided = number + 1
                room -= turn.chars + ROW_CHARS * (len(turn.jobs) + len(turn.transitions))
                if room < 0:
                    break
            whole = True
        finally:
            if not whole:  # a defect in a command: nobody may wait for ever for what was not decided
                for turn in reversed(turns):
                    if not turn.future.done():
                        turn.future.set_exception(Unavailable("The queue met a defect of its own.", "See its log."))
        return decided

    def _committed(
        self,
        turns: list[Turn],
        writing: list[Turn],
        outcomes: list[ZBrainError | None] | None,
        error: BaseException | None,
    ) -> None:
        if writing and self.measure is not None:
            spent = asyncio.get_running_loop().time() - self._begun
            self.measure(len(writing), spent, failed=outcomes is None or all(outcomes))
        if outcomes is None:
            failure = Unavailable("The store could not write.", "Try again.")
            failure.__cause__ = error
            outcomes = [failure] * len(writing)
        if any(outcomes):
            self._discard(turns, writing, outcomes)
        apply = self._index.apply
        for turn in writing:
            if turn.error is None:
                apply(turn.entries.values())
                if turn.claims:
                    self._index.keys.remember(turn.claims)
        self._index.ready.sweep()
        self._index.spare_collector()
        self._under_way = False
        self._applied()
        try:
            self._begin()
        finally:
            self._answer(turns, writing)

    def _answer(self, turns: list[Turn], writing: list[Turn]) -> None:
        try:
            self._publish([fact for turn in writing if turn.error is None for fact in turn.facts])
        finally:
            self._settle(turns)

    def _settle(self, turns: list[Turn]) -> None:
        for turn in turns:
            future = turn.future
            if future.done():
                continue
            if turn.error is None:
                future.set_result(turn.answer)
            else:
                future.set_exception(turn.error)
        if self._idle is not None and not self._under_way and not self._waiting:
            self._idle.set_result(None)
            self._idle = None

    def _discard(self, turns: list[Turn], writing: list[Turn], outcomes: list[ZBrainError | None]) -> None:
        for turn, outcome in zip(writing, outcomes, strict=True):
            if outcome is not None:
                turn.error = outcome
        lost: set[str] = set()
        written = set(map(id, writing))
        for turn in turns:
            if id(turn) not in written and turn.error is None and not lost.isdisjoint(turn.keys):
                turn.error = Unavailable("What this builds on could not be written.", "Try again.")
            if turn.error is not None and id(turn) in written:
                lost.update(turn.keys)
        for turn in reversed(writing):
            if turn.error is not None:
                for job_id in turn.entries:
                    entry = self._index.live.get(job_id)
                    if entry is not None:
                        self._index.line_up(entry)
        self._index.ready.release_all()
