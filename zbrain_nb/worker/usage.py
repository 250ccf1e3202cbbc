"""What the processes of a job use together, memory and CPU time: told when it ends, and compared with its limits.

CPU time is what the kernel has added up of all processes that were reaped, exact but for what ends below a process
that ignores SIGCHLD. Memory has no such sum. The kernel keeps how large the largest process became, also what lived
too briefly to be looked at; now and then all are looked at together, those that share pages by their shares. The
greater of both is told: at least so much was taken. (A program that a cell starts, too briefly to be looked at, may
have taken more than is told, by what the cell began with.) Asked by the supervisor, and of brief commands by their
runner.
"""

from __future__ import annotations

import resource
import time
from typing import NamedTuple

from zbrain_nb.model.sizes import format_kib
from zbrain_nb.worker.processes import Killer, cpu_secs, proportional_kib, resident_kib

#: So often the tree is looked at if there is a limit; without one ever less often, from the first to the last.
_MEMORY_POLL_SECS, _CPU_POLL_SECS = 0.1, 0.25
_FIRST_LOOK_SECS, _LAST_LOOK_SECS = 0.25, 2.0
#: Shares of memory are read at most this part of the time, for of a large process that takes long: when the limit may
#: be crossed, and otherwise.
_SUSPECT_PART, _SHARE_PART = 0.1, 0.02
#: A process that has grown less than this over what it began with tells nothing of itself.
_GROWTH_KIB = 2048


class Used(NamedTuple):
    """What a job has used: its peak of memory (0 is not known), and its CPU time."""

    peak_kib: int
    cpu_secs: float


def held_kib() -> int:
    """Return what the kernel takes a process to have reached that this one forks, before it has done anything."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def own_peak_kib(largest_kib: int, held_kib: int, *, is_forked: bool) -> int:
    """Return what the largest of reaped processes took itself; 0 if that cannot be told.

    What has run another program gave back what it began with, so that a size beyond that is its own. What has not
    shares it with who forked it, and has added the rest.

    Parameters
    ----------
    largest_kib : int
        Their ``ru_maxrss``.
    held_kib : int
        See `held_kib`.
    is_forked : bool
        Whether they go on in the memory that they began with, and run no other program.
    """
    if largest_kib < held_kib + _GROWTH_KIB:
        return 0
    return largest_kib - held_kib if is_forked else largest_kib


def killed_by_kernel(peak_kib: int) -> str:
    """Say that the machine ran out of memory."""
    at = f" at {format_kib(peak_kib)}" if peak_kib else ""
    return f"Killed by the kernel{at}, because the machine ran out of memory."


class Usage:
    """The use of one tree of processes.

    Parameters
    ----------
    killer : Killer
        Finds the processes; its own process, which has had no other children, reaps what ends of them.
    memory_mb, cpu_secs : float or None
        The limits.
    is_forked : bool
        See `own_peak_kib`.
    """

    def __init__(self, killer: Killer, memory_mb: int | None, cpu_secs: float | None, *, is_forked: bool) -> None:
        self._killer = killer
        self._memory_kib = None if memory_mb is None else memory_mb * 1024
        self._cpu_secs = cpu_secs
        self._is_forked = is_forked
        self._held_kib = held_kib()
        self._cpu_used = 0.0
        self._cpu_at = 0.0
        self._shares_done = self._shares_secs = 0.0
        self._peak_kib = 0
        self._begun_at = time.monotonic()
        self._look_at = self._begun_at + self._pause(self._begun_at)

    def _pause(self, now: float) -> float:
        if self._memory_kib is not None:
            return _MEMORY_POLL_SECS
        if self._cpu_secs is not None:
            return _CPU_POLL_SECS
        return min(max(now - self._begun_at, _FIRST_LOOK_SECS), _LAST_LOOK_SECS)

    def secs_left(self) -> float:
        """Return how long it is till `over` looks again."""
        return max(0.0, self._look_at - time.monotonic())

    def over(self) -> str | None:
        """Look, if it is time, and return which limit is crossed: ``memory``, ``cpu`` or None."""
        now = time.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + self._pause(now)
        found = self._killer.find()
        if self._is_over_memory(found, now):
            return "memory"
        if self._cpu_secs is not None and now >= self._cpu_at:
            self._cpu_at = now + _CPU_POLL_SECS
            # what was reaped has passed its times on to who reaped it, at last to this process; between the end
            # of a process and its reaping its times are nowhere, so that the sum may fall for a moment
            self._cpu_used = max(self._cpu_used, _reaped_secs() + sum(map(cpu_secs, found)))
            if self._cpu_used >= self._cpu_secs:
                return "cpu"
        return None

    def _is_over_memory(self, found: set[int], now: float) -> bool:
        """Note what the processes take; resident sizes are cheap to read, but count what forks share for each."""
        resident = sum(map(resident_kib, found)) - (self._held_kib if self._is_forked else 0)
        is_suspect = self._memory_kib is not None and resident > self._memory_kib
        if len(found) == 1 and not is_suspect:
            self._peak_kib = max(self._peak_kib, resident)
            return False
        if now < self._shares_done + self._shares_secs / (_SUSPECT_PART if is_suspect else _SHARE_PART):
            return False
        shares = sum(map(proportional_kib, found))
        self._shares_done = time.monotonic()
        self._shares_secs = self._shares_done - now
        self._peak_kib = max(self._peak_kib, shares)
        return self._memory_kib is not None and shares > self._memory_kib

    def total(self) -> Used:
        """Return what was used in all, once all processes were reaped."""
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        own = own_peak_kib(largest, self._held_kib, is_forked=self._is_forked)
        return Used(max(own, self._peak_kib), round(_reaped_secs(), 3))

    def sentence(self, crossed: str) -> str:
        """Say which limit was crossed, and by how much."""
        if crossed == "memory":
            return f"Killed at {format_kib(self._peak_kib)}: over its limit of {format_kib(self._memory_kib or 0)}."
        return f"Ended after {self._cpu_used:.3g} s of CPU time: over its limit of {self._cpu_secs:.12g} s."


def _reaped_secs() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime
