"""The foreman: owns the runner of one session of calls, as a supervisor owns the process of one attempt.

Forked by the zygote. It reads the order book, hands calls to its runner some ahead, writes all that they say and how
each ended to the session's spool, enforces cancels and deadlines, and takes a fresh runner, forked from itself, when
one has died or shall not be used again. No call begins that was not written down as handed; none is written down as
ended before all it said is. It ends when it is told to, or has had nothing to do for a while. SIGUSR1 says that the
book has grown, SIGTERM cancels everything, SIGUSR2 ends everything because the worker stops. Whatever goes
wrong in here, the runner's tree is killed first.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import NoReturn

import msgspec

from zbrain_nb.model.datadir import boot_id, is_locked, spool_path
from zbrain_nb.model.limits import GRACE_SECS
from zbrain_nb.worker.calls import (
    MORE,
    RETIRED,
    Call,
    Cancel,
    Close,
    HighMark,
    OrderReader,
    Withdraw,
    encode_order,
    pack_numbers,
    pack_of_call,
)
from zbrain_nb.worker.fence import now as _now
from zbrain_nb.worker.launch import open_fifo
from zbrain_nb.worker.processes import Killer, start_time
from zbrain_nb.worker.pump import NO_EVENTS
from zbrain_nb.worker.record import Record
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.runner import Begun, Body, Frames, Runner
from zbrain_nb.worker.sockets import Post
from zbrain_nb.worker.spool import Begin, End, Frame, Kind, SpoolWriter, pack
from zbrain_nb.worker.supervisor import TERM_PART, own_spool

#: So many calls are with the runner at once, those that it has not begun included.
WINDOW = 64
#: It ends when nothing was to be done for so long; at once when the worker is gone too.
IDLE_SECS = 5.0
_IDLE_CHECK_SECS = 0.5
#: A call that has run for so long gets a name in the folder by which the host sees that it lives.
NAMED_AFTER_SECS = 0.5
#: A runner that dies so often before it begins a call dies of the call.
_TRIES = 2
_TERM_AFTER_SECS, _KILL_AFTER_SECS = TERM_PART * GRACE_SECS, GRACE_SECS


def oversee(folder: Path, request: RunRequest, body: Body, window: int = WINDOW) -> NoReturn:
    """Serve one session in this process, which was forked for it, and exit.

    Does nothing if the session has a spool already. At most `window` calls are with the runner at once.
    """
    own_spool(folder, request, lambda spool: Foreman(folder, request, body, spool, window).run())


class _Current:
    """The call that runs."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.began_at = _now()
        self.deadline = None if call.timeout_secs is None else self.began_at + call.timeout_secs
        self.is_named = False


class Foreman:
    """Owns one session (see the module)."""

    def __init__(self, folder: Path, request: RunRequest, body: Body, spool: SpoolWriter, window: int) -> None:
        assert request.orders is not None
        self._folder = folder
        self._request = request
        self._body = body
        self._window = window
        self._spool = spool
        self._record = Record(spool, request.spool_cap_bytes)
        self._orders = OrderReader(request.orders)
        HighMark(request.outbox).close()  # it is there before the first call is handed over
        self._killer = Killer()
        self._post = Post(folder, "worker.sock")
        fifo = open_fifo(request.events_path)
        self._fifo = None if fifo is None else Frames(fifo)
        self._waiting: deque[Call] = deque()
        self._handed: dict[int, Call] = {}  # not begun, in order
        self._unsent: deque[Call] = deque()  # of these, what the runner's socket had no room for
        self._current: _Current | None = None
        self._canceled: set[int] = set()
        self._runner: Runner | None = None
        self._status: int | None = None  # of the runner, once it has ended
        self._is_last = False  # the runner ends after what it has said, and its last call with it
        self._said: End | None = None  # how the present call ended, if the runner says more than that it did
        self._failures = 0  # runners that have died in a row without beginning a call
        self._ending: str | None = None  # why the present call is being ended: canceled, timeout
        self._escalate_from = 0.0
        self._step = 0
        self._is_closing = self._cancels_all = False
        self._why_canceled = "canceled"  # or stopped
        self._begin = Begin(pid=0, supervisor_pid=os.getpid(), start_time=start_time(os.getpid()), boot_id=boot_id())
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._idle_since = _now()

    def run(self) -> None:
        """Serve to the end."""
        end: End | None = None
        try:
            self._spool.append_struct(Kind.BEGIN, self._begin)
            self._tell()
            self._serve()
            end = End(reason="exited", exit_code=0)
        finally:
            if end is None:
                self._killer.kill(self._reap)
                end = End(reason="supervisor", message=f"The foreman failed: {sys.exc_info()[1]!r}.")
            self._record.add_packed(pack(Kind.END, msgspec.json.encode(end)))
            self._record.insist()
            self._spool.close()
            self._tell()

    def _serve(self) -> None:
        while True:
            self._take_orders()
            self._drop_canceled()
            self._enforce()  # before the wait: nothing may come that would end it
            self._feed()
            if self._record.write():
                self._tell()
            self._send()
            if self._is_over():
                self._stop_runner()
                return
            self._wait()
            self._listen()

    # Orders

    def _take_orders(self) -> None:
        for order in self._orders.read():
            if isinstance(order, Call):
                self._waiting.append(order)
            elif isinstance(order, Cancel):
                self._canceled.add(order.number)
            elif isinstance(order, Withdraw):
                self._withdraw()
            elif isinstance(order, Close):
                self._is_closing = True

    def _withdraw(self) -> None:
        self._take_back()
        # an empty list too: the worker waits for an answer before it asks again
        self._record.add_packed(pack_numbers(Kind.WITHDRAWN, [call.number for call in self._waiting]))
        self._waiting.clear()

    def _take_back(self) -> None:
        """Let the runner begin no more of what it was handed; what it has begun is known afterwards."""
        back: list[Call] = list(self._unsent)
        self._unsent.clear()
        if self._runner is not None:
            numbers = [msgspec.json.decode(line, type=Call).number for line in self._runner.take_back()]
            # what it had taken from its socket it has begun by now, or will, and nothing after that
            self._listen()
            back = [*(self._handed[number] for number in numbers), *back]
        for call in reversed(back):
            del self._handed[call.number]
            self._waiting.appendleft(call)

    def _drop_canceled(self) -> None:
        """End the canceled calls that were not begun."""
        if self._cancels_all:
            self._canceled |= {call.number for call in self._waiting} | set(self._handed)
            if self._current is not None:
                self._canceled.add(self._current.call.number)
        if not self._canceled:
            return
        if not self._canceled.isdisjoint(self._handed):
            self._take_back()
        kept: deque[Call] = deque()
        for call in self._waiting:
            if call.number in self._canceled:
                self._canceled.discard(call.number)
                self._record.end(call.number, End(reason=self._why_canceled))
            else:
                kept.append(call)
        self._waiting = kept

    # Calls

    def _feed(self) -> None:
        """Write down the next calls as handed; they are sent when that stands."""
        if self._ending is not None or self._is_last or not self._waiting or len(self._handed) > self._window // 2:
            return
        if self._runner is None:
            self._start_runner()
        more = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._window - len(self._handed)))]
        self._record.add_packed(pack_numbers(Kind.HANDED, [call.number for call in more]))
        self._handed |= {call.number: call for call in more}
        self._unsent.extend(more)

    def _send(self) -> None:
        while self._unsent and self._runner is not None and self._record.is_written:
            if not self._runner.send(encode_order(self._unsent[0])):
                return
            self._unsent.popleft()

    def _start_runner(self) -> None:
        private = [self._wake_read, self._wake_write, self._spool.descriptor, self._orders.descriptor]
        private += self._post.descriptors
        if self._fifo is not None:
            private.append(self._fifo.descriptor)
        self._status = None
        self._is_last = False
        self._runner = Runner(self._request, self._body, private)

    def _listen(self) -> None:
        """Write down what the runner says."""
        if self._runner is None:
            return
        frames = self._runner.events.read()
        # after the frames: all that was written to these before a frame is spooled before it
        for raw in (self._runner.stdout, self._runner.stderr):
            raw.read()
        self._move_raw()
        for frame in frames:
            self._hear(frame)
        self._move_raw()
        self._read_fifo()

    def _read_fifo(self) -> None:
        """Write down what other processes of the present call say."""
        if self._fifo is None:
            return
        frames = self._fifo.read()
        if self._current is None:
            return
        number = self._current.call.number
        for frame in frames:
            if frame.kind == Kind.EVENT and len(frame.payload) <= 4096:
                self._record.add(number, frame)
        if self._fifo.is_broken:
            self._record.add_packed(pack_of_call(number, Kind.MARK, NO_EVENTS.encode()))
            self._fifo = Frames(self._fifo.descriptor)

    def _move_raw(self) -> None:
        """Write down what came past Python, if it is known whose it is."""
        if self._runner is None or self._current is None:
            return
        for raw in (self._runner.stdout, self._runner.stderr):
            for data in raw.take():
                self._record.add(self._current.call.number, Frame(raw.kind, time.time(), data))

    def _hear(self, frame: Frame) -> None:
        if frame.kind == Kind.BEGIN:
            number, outbox = Begun.unpack(frame.payload)
            call = self._handed.pop(number, None)
            if call is None or self._runner is None:
                return  # a call that speaks as its runner does
            self._failures = 0
            self._current = _Current(call)
            self._record.begin(number, msgspec.structs.replace(self._begin, pid=self._runner.pid, outbox=outbox))
            self._move_raw()
        elif self._current is None:
            return
        elif frame.kind == Kind.END:
            assert self._runner is not None
            for raw in (self._runner.stdout, self._runner.stderr):
                raw.to_marker()
            self._move_raw()
            for raw in (self._runner.stdout, self._runner.stderr):
                raw.next()
            self._read_fifo()
            self._is_last = not frame.payload.startswith(MORE)
            said = frame.payload[len(MORE) :]
            self._said = msgspec.json.decode(said, type=End) if said else None
            if not self._is_last:
                # a command that the interrupt did not reach any more has ended by itself; of a function none can tell
                is_unhurt = self._ending is None
                self._end_current(
                    self._said or End(reason=self._ending or "exited", exit_code=0 if is_unhurt else None)
                )
                if not is_unhurt:
                    self._runner.dismiss()  # it waits for another call
        elif frame.kind in (Kind.STDOUT, Kind.STDERR, Kind.EVENT):
            self._record.add(self._current.call.number, frame)

    def _end_current(self, end: End) -> None:
        assert self._current is not None
        number = self._current.call.number
        self._canceled.discard(number)
        self._record.end(number, end)
        self._current = self._said = None

    # Limits and ends

    def _wait(self) -> None:
        poller = select.poll()
        for descriptor in (self._wake_read, *(self._runner.sources if self._runner is not None else ())):
            poller.register(descriptor, select.POLLIN)
        if self._fifo is not None:
            poller.register(self._fifo.descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poller.poll(self._wait_ms())}
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            self._reap()

    def _wait_ms(self) -> float:
        wait = 5.0
        if not self._record.is_written:
            wait = 1.0  # the disk is full: it is tried again
        current = self._current
        if self._ending is not None and self._step < 3:
            wait = min(wait, self._escalate_from + (_TERM_AFTER_SECS, _KILL_AFTER_SECS)[self._step - 1] - _now())
        elif current is not None:
            if current.deadline is not None:
                wait = min(wait, current.deadline - _now())
            if not current.is_named:
                wait = min(wait, current.began_at + NAMED_AFTER_SECS - _now())
        elif not (self._handed or self._waiting):
            wait = min(wait, _IDLE_CHECK_SECS)
        return max(0.0, wait) * 1000 + 1

    def _enforce(self) -> None:
        """End the present call if it was canceled or is over its time; see to a runner that has ended."""
        now = _now()
        current = self._current
        if current is not None and self._ending is None and not self._is_last:
            number = current.call.number
            reason = self._why_canceled if number in self._canceled else None
            if reason is None and current.deadline is not None and now >= current.deadline:
                reason = "timeout"
            if reason is not None:
                self._take_back()  # from here on no other call can be the one that is hit
                if self._current is current:
                    self._ending, self._escalate_from, self._step = reason, now, 1
                    self._signal(signal.SIGINT)
            elif not current.is_named and now >= current.began_at + NAMED_AFTER_SECS:
                current.is_named = True
                self._name_all()
        if self._ending is not None and self._status is None:
            if self._step == 1 and now >= self._escalate_from + _TERM_AFTER_SECS:
                self._step = 2
                self._killer.terminate()
            if self._step == 2 and now >= self._escalate_from + _KILL_AFTER_SECS:
                self._step = 3
                self._killer.kill(self._reap)
        if self._runner is not None and self._runner.events.is_broken and self._status is None:
            self._killer.kill(self._reap)  # a call has written something else than frames where these go
        if self._status is not None:
            self._bury_runner()

    def _signal(self, number: signal.Signals) -> None:
        if self._runner is not None and self._status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._runner.pid, number)

    def _name_all(self) -> None:
        """Link the spool under the names of all calls that wait or run, for the host to see its lock."""
        calls = [*([self._current.call] if self._current else []), *self._handed.values(), *self._waiting]
        self._record.add_packed(pack_numbers(Kind.NAMED, [call.number for call in calls]))
        own = spool_path(self._folder, self._request.job_id, self._request.attempt)
        for call in calls:
            with contextlib.suppress(FileExistsError):
                os.link(own, spool_path(self._folder, call.job_id, call.attempt))

    def _bury_runner(self) -> None:
        """Write down the end of a runner that has ended, and of the call that it ended in."""
        runner, status = self._runner, self._status
        assert runner is not None
        assert status is not None
        self._killer.kill(self._reap)
        while self._hears_more(runner):
            pass
        failure = runner.failure()
        self._unsent.clear()
        code = os.waitstatus_to_exitcode(status)
        current = self._current
        if current is not None:
            self._end_current(self._how(code))
        for call in reversed(self._handed.values()):
            self._waiting.appendleft(call)
        self._handed.clear()
        if current is None and code != RETIRED:
            self._blame_next(code, failure)
        runner.close()
        self._remove_scratch(runner.pid)
        self._runner = self._ending = self._status = None
        self._step, self._is_last = 0, False

    def _remove_scratch(self, pid: int) -> None:
        """Remove the folders that a runner has made for its calls to run in."""
        if self._request.scratch is None:
            return
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._request.scratch):
                if name.startswith(f"{pid}-"):
                    shutil.rmtree(os.path.join(self._request.scratch, name), ignore_errors=True)

    def _hears_more(self, runner: Runner) -> bool:
        """Write down what is left in the pipes of an ended runner; return whether there may be more."""
        before = self._record.size
        self._listen()
        return self._record.size != before and not runner.events.is_broken

    def _how(self, code: int) -> End:
        """Return how the present call ended with its runner."""
        if self._said is not None:
            return msgspec.structs.replace(self._said, reason=self._ending or self._said.reason)
        name = None
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        if self._is_last and self._ending is None:
            return End(reason="exited", exit_code=0)  # it has said itself how
        return End(reason=self._ending or "exited", exit_code=code, signal=name)

    def _blame_next(self, code: int, failure: str) -> None:
        """End the next call if runners cannot begin it."""
        self._failures += 1
        if self._waiting and (failure or self._failures >= _TRIES):
            call = self._waiting.popleft()
            reason = "unstartable" if failure else "exited"
            self._record.end(call.number, End(reason=reason, exit_code=127 if failure else code, message=failure))

    def _is_over(self) -> bool:
        if self._current is not None or self._handed or self._waiting or not self._record.is_written:
            self._idle_since = _now()
            return False
        if self._is_closing or self._cancels_all:
            return True
        idle = _now() - self._idle_since
        return idle >= IDLE_SECS or (idle >= _IDLE_CHECK_SECS and not is_locked(self._folder / "worker.lock"))

    def _stop_runner(self) -> None:
        """Let an idle runner end by itself, if it does so soon."""
        if self._runner is not None:
            self._runner.dismiss()
            until = _now() + _TERM_AFTER_SECS
            while self._status is None and _now() < until:
                select.select([self._wake_read], [], [], until - _now())
                self._reap()
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
        self._killer.kill(self._reap)

    def _reap(self) -> bool:
        """Reap ended children; return whether there are more to wait for."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if self._runner is not None and pid == self._runner.pid:
                self._status = status

    def _tell(self) -> None:
        """Wake the worker, if there is one."""
        with contextlib.suppress(OSError):
            self._post.send(b"\n")

    def _on_signal(self, number: int, frame: object) -> None:
        if number in (signal.SIGTERM, signal.SIGUSR2):
            self._cancels_all = True
            self._why_canceled = "stopped" if number == signal.SIGUSR2 else "canceled"
