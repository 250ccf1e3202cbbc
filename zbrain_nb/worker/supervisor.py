"""The supervisor: a process of its own for each attempt, which owns the job's process tree.

It starts the job, writes what the job says to the spool, enforces cancel, deadline and limits, kills what the
job leaves behind, writes the end and exits. Spawner and zygote fork it; it depends on neither, nor on the
worker: all three may die. SIGTERM means cancel, SIGUSR2 that the worker stops. Whatever goes wrong in here,
the tree is killed first.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from zbrain_nb.model.datadir import boot_id, spool_path
from zbrain_nb.worker.fence import Fence, fence_path
from zbrain_nb.worker.fence import now as _now
from zbrain_nb.worker.launch import Body, Child, open_fifo
from zbrain_nb.worker.processes import Killer, become_subreaper, oom_kills, start_time
from zbrain_nb.worker.pump import Pump
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.sockets import Post
from zbrain_nb.worker.spool import Begin, End, Kind, SpoolWriter
from zbrain_nb.worker.usage import Usage, killed_by_kernel

#: A fence is looked at so often: poll's own clock stops while the machine is suspended.
_FENCE_POLL_SECS = 0.2
_STOPPED = "Its worker was told to stop, and ended the job."
_FENCED = "Its worker could not reach the queue before the lease ended, and ended the job in time."
#: After a cancel: SIGINT at once, SIGTERM after this part of the grace time, SIGKILL after all of it.
TERM_PART = 0.4
_LONGEST_WAIT_SECS = 5.0


def supervise(folder: Path, request: RunRequest, body: Body) -> NoReturn:
    """Run one attempt in this process, which was forked for it, and exit.

    Does nothing if the attempt has a spool already.
    """
    own_spool(folder, request, lambda spool: Supervisor(folder, request, body, spool).run())


def own_spool(folder: Path, request: RunRequest, run: Callable[[SpoolWriter], None]) -> NoReturn:
    """Make the request's spool, write it in this process, which was forked for it, and exit; another's is left alone.

    Whatever is orphaned below is this process's from then on.
    """
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        become_subreaper()
        spool = SpoolWriter.create(spool_path(folder, request.job_id, request.attempt))
        run(spool)
        code = 0
    except FileExistsError:
        code = 0
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        os._exit(code)


class Supervisor:
    """Owns one attempt (see the module)."""

    def __init__(self, folder: Path, request: RunRequest, body: Body, spool: SpoolWriter) -> None:
        self._request = request
        self._body = body
        self._spool = spool
        self._killer = Killer()
        self._post = Post(folder, "worker.sock")
        self._cancel = self._stop = False
        self._fence = Fence(fence_path(folder, request.job_id, request.attempt))
        self._usage = Usage(self._killer, request.memory_mb, request.cpu_secs, is_forked=request.cmd is None)
        self._ending: str | None = None  # why the job is being ended: canceled, stopped, timeout, memory, cpu, fenced
        self._escalate_from = 0.0
        self._step = 0
        self._main = 0
        self._status: int | None = None
        self._oom_kills = oom_kills()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def run(self) -> None:
        """Run the job to its end."""
        end: End | None = None
        try:
            end = self._run()
        finally:
            if end is None:
                self._killer.kill(self._reap)
                end = End(reason="supervisor", message=f"The job's supervisor failed: {sys.exc_info()[1]!r}.")
            self._write_end(end)

    def _run(self) -> End:
        request = self._request
        if self._is_fenced_off():
            self._spool.append_struct(Kind.BEGIN, Begin(pid=0, supervisor_pid=0))
            return End(reason="fenced", message=_FENCED)
        fifo = open_fifo(request.events_path)
        private = [self._wake_read, self._wake_write, self._spool.descriptor, *self._post.descriptors]
        child = Child(request, self._body, private if fifo is None else [*private, fifo])
        self._main = child.pid
        begin = Begin(pid=child.pid, supervisor_pid=os.getpid(), start_time=start_time(os.getpid()), boot_id=boot_id())
        self._spool.append_struct(Kind.BEGIN, begin)
        self._tell()
        pump = Pump(self._spool, child, fifo, request.spool_cap_bytes)
        poller = select.poll()
        for descriptor in (self._wake_read, *pump.sources):
            poller.register(descriptor, select.POLLIN)
        timeout = request.timeout_secs
        deadline = None if timeout is None else _now() + timeout
        while self._status is None:
            ready = {descriptor for descriptor, _ in poller.poll(self._wait_ms(deadline))}
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                self._reap()
            if pump.move(ready):
                self._tell()
            for descriptor in pump.take_closed():
                poller.unregister(descriptor)
            self._enforce(deadline)
        self._killer.kill(self._reap)
        pump.drain()
        return self._end(pump.failure)

    def _wait_ms(self, deadline: float | None) -> float:
        """How long to wait for the pipes; short when a clock runs, for poll's own clock stops in suspend."""
        wait = _LONGEST_WAIT_SECS
        left = self._fence.secs_left()
        if left is not None:
            wait = min(max(left, 0.01), _FENCE_POLL_SECS)
        if self._ending is None:
            wait = min(wait, self._usage.secs_left())
        if self._ending is not None and self._step < 3:
            wait = min(wait, self._escalate_from + self._after_secs(self._step) - _now())
        elif deadline is not None:
            wait = min(wait, deadline - _now())
        return max(0.0, wait) * 1000 + 1

    def _after_secs(self, step: int) -> float:
        """How long after the first signal a step of the escalation ends."""
        return self._request.grace_secs * (TERM_PART if step == 1 else 1.0)

    def _enforce(self, deadline: float | None) -> None:
        """End the job if it was canceled, or is over a limit; ever harder as time passes."""
        now = _now()
        if self._step < 3 and self._is_fenced_off():
            # no more patience: another attempt may begin as soon as the lease has ended
            self._ending, self._step = self._ending or "fenced", 3
            self._killer.kill(self._reap)
            return
        if self._ending is None:
            if self._cancel:
                self._ending = "canceled"
            elif self._stop:
                self._ending = "stopped"
            elif deadline is not None and now >= deadline:
                self._ending = "timeout"
            else:
                self._ending = self._usage.over()
            if self._ending is None:
                return
            if self._ending == "memory":  # it would take all the machine has
                self._escalate_from, self._step = now - self._request.grace_secs, 2
            if self._step == 0 and self._status is None:
                self._escalate_from, self._step = now, 1
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._main, signal.SIGINT)
        if self._step == 1 and now >= self._escalate_from + self._after_secs(1):
            self._step = 2
            self._killer.terminate()
        if self._step == 2 and now >= self._escalate_from + self._after_secs(2):
            self._step = 3
            self._killer.kill(self._reap)

    def _is_fenced_off(self) -> bool:
        left = self._fence.secs_left()
        return left is not None and left <= 0

    def _reap(self) -> bool:
        """Reap ended children; return whether there are more to wait for."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._main:
                self._status = status

    def _end(self, failure: str) -> End:
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        if failure:
            return End(reason="unstartable", exit_code=127, message=failure)
        name = None
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        used = self._usage.total()
        end = End(exit_code=code, signal=name, peak_kib=used.peak_kib, cpu_secs=used.cpu_secs, reason="exited")
        if self._ending is None and code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            end.reason, end.message = "memory", killed_by_kernel(end.peak_kib)
        elif self._ending is not None:
            end.reason = self._ending
            end.message = {"fenced": _FENCED, "stopped": _STOPPED}.get(self._ending, "")
            if self._ending in ("memory", "cpu"):
                end.message = self._usage.sentence(self._ending)
        return end

    def _write_end(self, end: End) -> None:
        """Write the last frame; on a full disk wait for room, for without it the result is lost."""
        while True:
            try:
                self._spool.append_struct(Kind.END, end)
                break
            except OSError:
                time.sleep(1)
        self._spool.close()
        self._tell()

    def _tell(self) -> None:
        """Wake the worker, if there is one."""
        with contextlib.suppress(OSError):
            self._post.send(b"\n")

    def _on_signal(self, number: int, frame: object) -> None:
        if number == signal.SIGTERM:
            self._cancel = True
        elif number == signal.SIGUSR2:
            self._stop = True
