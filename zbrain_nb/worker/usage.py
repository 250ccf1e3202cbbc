"""What a job's processes use together: memory and CPU time, compared with its limits. Asked by the supervisor."""

from __future__ import annotations

import resource
import time

from zbrain_nb.model.sizes import format_kib
from zbrain_nb.worker.processes import Killer, cpu_secs, proportional_kib, resident_kib

#: So often the tree is looked at.
_MEMORY_POLL_SECS, _CPU_POLL_SECS = 0.1, 0.25
#: Shares of memory are read at most this part of the time: of a large process that takes long.
_SHARE_PART = 0.1


class Usage:
    """The use of one tree of processes.

    Parameters
    ----------
    killer : Killer
        Finds the processes; its own process reaps what ends of them.
    memory_mb, cpu_secs : float or None
        The limits.

    Attributes
    ----------
    peak_kib : int
        The most memory that was seen.
    """

    def __init__(self, killer: Killer, memory_mb: int | None, cpu_secs: float | None) -> None:
        self._killer = killer
        self._memory_kib = None if memory_mb is None else memory_mb * 1024
        self._cpu_secs = cpu_secs
        self._cpu_used = 0.0
        self._cpu_at = 0.0
        self._shares_at = 0.0
        self.peak_kib = 0

    @property
    def poll_secs(self) -> float | None:
        """How often `over` wants to be asked; None is never."""
        if self._memory_kib is not None:
            return _MEMORY_POLL_SECS
        return None if self._cpu_secs is None else _CPU_POLL_SECS

    def over(self) -> str | None:
        """Look, and return which limit is crossed: ``memory``, ``cpu`` or None."""
        if self._memory_kib is None and self._cpu_secs is None:
            return None
        now = time.monotonic()
        found = self._killer.find()
        if self._memory_kib is not None and self._is_over_memory(found, now):
            return "memory"
        if self._cpu_secs is not None and now >= self._cpu_at:
            self._cpu_at = now + _CPU_POLL_SECS
            # what was reaped has passed its times on to who reaped it, at last to this process; between the end
            # of a process and its reaping its times are nowhere, so that the sum may fall for a moment
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = ended.ru_utime + ended.ru_stime + sum(map(cpu_secs, found))
            self._cpu_used = max(self._cpu_used, used)
            if self._cpu_used >= self._cpu_secs:
                return "cpu"
        return None

    def _is_over_memory(self, found: set[int], now: float) -> bool:
        assert self._memory_kib is not None
        # resident sizes are cheap to read, but count what forks share once for each
        resident = sum(map(resident_kib, found))
        if resident <= self._memory_kib:
            self.peak_kib = max(self.peak_kib, resident)
            return False
        if now < self._shares_at:
            return False
        shares = sum(map(proportional_kib, found))
        done = time.monotonic()
        self._shares_at = done + (done - now) / _SHARE_PART
        self.peak_kib = max(self.peak_kib, shares)
        return shares > self._memory_kib

    def sentence(self, crossed: str) -> str:
        """Say which limit was crossed, and by how much."""
        if crossed == "memory":
            return f"Killed at {format_kib(self.peak_kib)}: over its limit of {format_kib(self._memory_kib or 0)}."
        return f"Ended after {self._cpu_used:.3g} s of CPU time: over its limit of {self._cpu_secs:.12g} s."
