"""Process trees: finding all descendants and making sure that they are gone.

The caller is a subreaper: whatever a job's processes do (leave the session, double-fork, stop themselves),
they stay descendants, and end up as children when their parents die. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` (the thread that forked it) ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the request, which therefore never fires


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # the command's name stands in parentheses and may hold anything
    return text.rpartition(")")[2].split()


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def resident_kib(pid: int) -> int:
    """Return a process's resident size in KiB; 0 if there is none."""
    fields = _stat(pid)
    return int(fields[21]) * (os.sysconf("SC_PAGE_SIZE") // 1024) if fields else 0


def cpu_secs(pid: int) -> float:
    """Return the CPU seconds that a process and its reaped children have used; 0 if there is none."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def proportional_kib(pid: int) -> int:
    """Return a process's resident size in KiB, shared pages counted in shares; 0 if it cannot be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0


def oom_kills() -> int:
    """Return how many processes the kernel has killed since boot because memory ran out."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def children(pid: int) -> set[int]:
    """Return the children of all threads of a process."""
    found: set[int] = set()
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found.update(map(int, file.read().split()))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass  # it ended meanwhile; its children are then found at the subreaper
    return found


def descendants(spare: frozenset[int] = frozenset()) -> set[int]:
    """Return the living descendants of this process, without the trees of `spare`."""
    found: set[int] = set()
    todo = children(os.getpid()) - spare
    while todo:
        pid = todo.pop()
        if pid in found:
            continue
        found.add(pid)
        todo |= children(pid)
    return {pid for pid in found if (fields := _stat(pid)) and fields[0] not in "ZX"}


class Killer:
    """Signals descendants of this process; pid reuse never makes it hit a stranger.

    Parameters
    ----------
    spare : callable, optional
        Gives the children whose trees are left alone.
    """

    def __init__(self, spare: Callable[[], frozenset[int]] = frozenset) -> None:
        self._spare = spare
        self._ours = {os.getpid()}
        self._untouchable: set[int] = set()

    def find(self) -> set[int]:
        """Return the living descendants that may be signalled."""
        found = descendants(self._spare()) - self._untouchable
        self._ours |= found
        return found

    def send(self, pids: Iterable[int], number: signal.Signals) -> None:
        """Signal processes that `find` returned, if they still are who they were."""
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                fields = _stat(pid)
                if fields and int(fields[1]) in self._ours:
                    signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                self._untouchable.add(pid)  # a set-uid program: waiting for it would wait for ever
            finally:
                os.close(descriptor)

    def terminate(self) -> None:
        """Ask all descendants to end; stopped ones are woken, so that they hear it."""
        found = self.find()
        self.send(found, signal.SIGTERM)
        self.send(found, signal.SIGCONT)

    def kill(self, reap: Callable[[], bool]) -> None:
        """Kill all descendants and return when they are gone.

        Parameters
        ----------
        reap : callable
            Reaps what has ended; returns whether children are left to wait for.
        """
        pause = 0.0005
        while reap():
            stopped: set[int] = set()
            while fresh := self.find() - stopped:
                self.send(fresh, signal.SIGSTOP)  # what is stopped cannot fork behind our back
                stopped |= fresh
            if not stopped and self._untouchable:
                return
            self.send(stopped, signal.SIGKILL)
            if reap():
                time.sleep(pause)
                pause = min(pause * 2, 0.05)
