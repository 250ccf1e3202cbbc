"""Retries that were made elsewhere, by a page's button or the command line: the notebook's names follow them.

The server says nothing to a kernel of jobs that have ended. So it is asked before each cell, in one request that costs
about a millisecond however many the jobs: whatever the cell reads is then what the reader of the page expects. A socket
held open for that would keep the host from ending when idle, and would not be heard while a cell runs anyway.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable

from zbrain_nb.client.group import JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.locating import may_be_there
from zbrain_nb.client.printing import printable
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import JobState
from zbrain_nb.model.settings import read_settings
from zbrain_nb.notebook.line import Desk
from zbrain_nb.notebook.origin import VARIABLE_TAG

#: So long a cell is held up at most by a server that does not answer, and so long it is not asked again then.
PATIENCE_SECS = 2.0
PAUSE_SECS = 30.0


class Follower:
    """Lets the names of one notebook follow its retried jobs.

    Parameters
    ----------
    desk : Desk
        The notebook's jobs, variables and bindings.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._next_look = 0.0

    def look(self) -> None:
        """Ask for retries, and move to each the ``--job`` variable, ``_zb`` and the ``--out`` names of what it repeats.

        What hinders it is said, not raised: the cell that is about to run may have nothing to do with jobs.
        """
        self._desk.bindings.forget_reassigned()
        if not self._desk.runs.known() or time.monotonic() < self._next_look or not self._is_there():
            return
        try:
            repeats = self._desk.runs.look(PATIENCE_SECS)
        except (ZBrainError, TimeoutError) as error:
            self._next_look = time.monotonic() + PAUSE_SECS
            why = str(error) or "the server does not answer."
            sys.stderr.write(f"zbrain: whether jobs of this notebook were retried elsewhere is not known: {why}\n")
            return
        jobs: dict[str, None] = {}
        held: dict[str, None] = {}
        bound: dict[str, None] = {}
        for old, again in repeats:
            moved, awaited = self._move(old, again), self._desk.bindings.names_of(again)
            held |= dict.fromkeys(moved)
            bound |= dict.fromkeys(awaited)
            if moved or awaited:
                jobs[printable(old.name)] = None
        if jobs:
            now = [f"{_listed(held)} hold{'s' if len(held) == 1 else ''} what runs instead"] if held else []
            now += [f"{_listed(bound)} {'is' if len(bound) == 1 else 'are'} bound when it succeeds"] if bound else []
            sys.stdout.write(f"zbrain: retried elsewhere: {', '.join(jobs)}; {', '.join(now)}.\n")
        for _, again in repeats:
            if again.job.state.ended and isinstance(again.job.spec.keep, list):
                with contextlib.suppress(ZBrainError):  # the binding itself tells of it, as at every job's end
                    self._desk.bindings.finish(again)

    def _is_there(self) -> bool:
        """Whether there is a server; none is started for this, for without one nobody can have retried.

        Seen without asking one: every cell waits for this, in the kernel's own thread.
        """
        return self._desk.client.asynchronous.transport.is_connected or may_be_there(read_settings())

    def _move(self, old: JobHandle, again: JobHandle) -> list[str]:
        """Let the names of `old` stand for `again`; return those that do."""
        namespace = self._desk.namespace
        moved = []
        for name in filter(None, ("_zb", old.job.spec.tags.get(VARIABLE_TAG))):
            held = namespace.get(name)
            if isinstance(held, JobHandle) and (held.id == old.id or _came_to_nothing(held, old)):
                namespace[name] = again
            elif not (isinstance(held, JobGroup) and held.put(again)):
                continue
            moved.append(name)
        return moved


def _came_to_nothing(held: JobHandle, old: JobHandle) -> bool:
    """Whether it repeats `old` too, and has ended without success: it gives way as in a group (see `JobGroup.put`)."""
    if held.id not in old.repeats:
        return False
    with contextlib.suppress(ZBrainError):  # then it stays what it was last seen to be
        held.refresh()
    return held.job.state in (JobState.FAILED, JobState.CANCELED)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
