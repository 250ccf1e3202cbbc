"""The runner's side of commands: spawns one after the other, and lets none begin before the last has left nothing.

Commands that take no longer than it takes to fork a supervisor run here, in the session of their foreman (see `calls`).
The process is small and computes nothing, so that spawning from it is cheap. Each command has a session and a process
group of its own; what it leaves running is killed, its files go to a folder that the next ones do not have.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import time
from typing import NamedTuple

import msgspec

from zbrain_nb.worker.calls import LAST, MORE, NUMBER, PACKET_BYTES, RETIRED, Call, HighMark
from zbrain_nb.worker.launch import about_folder, about_program
from zbrain_nb.worker.processes import Killer, become_subreaper, oom_kills
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.spool import End, Kind, pack
from zbrain_nb.worker.usage import held_kib, killed_by_kernel, own_peak_kib

#: Python ignores some of these, the runner others: commands find them as a shell leaves them.
_DEFAULT_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)
#: The kernel's count of what it killed is at most so old when a command begins.
_COUNT_AGE_SECS = 1.0


def serve_commands(request: RunRequest, events_fd: int, feed_fd: int, marker: bytes) -> int:
    """Run commands below this process until it is dismissed or interrupted (a `runner.Body`).

    Parameters
    ----------
    request : RunRequest
        Of the session.
    events_fd : int
        Takes frames: ``BEGIN`` before each command, ``END`` after it.
    feed_fd : int
        Gives the commands, one in each packet.
    marker : bytes
        Ends the part of each command in what is written to the file descriptors 1 and 2.

    Returns
    -------
    int
        The exit code.
    """
    become_subreaper()  # whatever leaves the session of its command, it stays in sight
    if path := request.env.get("PATH"):
        os.environ["PATH"] = path  # where programs are looked for
    feed = socket.socket(fileno=feed_fd)
    runner = _Runner(request)
    signal.signal(signal.SIGINT, runner.interrupt)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is meant for the command, which gets it too
    while not runner.is_interrupted:
        packet = feed.recv(PACKET_BYTES)
        if not packet:
            break
        call = msgspec.json.decode(packet, type=Call)
        box, end = runner.enter(call)
        os.write(events_fd, pack(Kind.BEGIN, NUMBER.pack(call.number) + os.fsencode(box.root if box else "")))
        begun = time.perf_counter()
        if box is not None:
            end = runner.run(call, box)
        has_files = runner.leave() and box is not None
        finished = {"kind": "finished", "files": has_files, "secs": time.perf_counter() - begun}
        for descriptor in (1, 2):
            os.set_blocking(descriptor, True)  # a command may have changed that, for all that have the pipe
            os.write(descriptor, marker)
        payload = (LAST if runner.is_interrupted else MORE) + msgspec.json.encode(end)
        os.write(events_fd, pack(Kind.EVENT, msgspec.json.encode(finished)) + pack(Kind.END, payload))
    return RETIRED


class _Box(NamedTuple):
    """The folder for the files of one command, and of the next ones if it leaves none."""

    root: str
    artifacts: str
    input: str
    output: str

    @classmethod
    def make(cls, root: str) -> _Box:
        box = cls(root, f"{root}/artifacts", f"{root}/input.json", f"{root}/output.json")
        os.makedirs(box.artifacts, 0o700)
        box.write_input(b"{}")
        os.utime(box.input, (0, 0))  # so that a change is seen, however soon it comes
        return box

    def write_input(self, data: bytes) -> None:
        with open(self.input, "wb") as file:
            file.write(data)

    def stamp(self) -> tuple[object, ...]:
        """Return what changes when somebody leaves a file here, or writes another input."""
        try:
            stat = os.stat(self.input)
            return stat.st_ino, stat.st_mtime_ns, len(os.listdir(self.root)), len(os.listdir(self.artifacts))
        except OSError:
            return ()


class _Runner:
    """Runs the commands of one session."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._mark = HighMark(request.outbox)
        self._killer = Killer()
        self._boxes = self._folders = 0
        self._box: _Box | None = None
        self._stamp: tuple[object, ...] = ()
        self._cwd = request.cwd if request.scratch is None else ""  # empty: the next command gets a new one
        self._checkpoints = ""
        self._main = 0
        self._largest_kib, self._cpu_secs = 0, 0.0  # of the present command, as far as reaped
        self._oom_kills, self._counted_at = oom_kills(), time.monotonic()
        self.is_interrupted = False

    def interrupt(self, number: int, frame: object) -> None:
        """Pass SIGINT on to the command; no other follows here."""
        self.is_interrupted = True
        if self._main:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._main, signal.SIGINT)

    def enter(self, call: Call) -> tuple[_Box | None, End]:
        """Return the folder for the files of a command; without one, how the command ends that cannot begin."""
        try:
            return self._enter(call), End(reason="exited")
        except OSError as error:
            return None, _unstartable(f"Its folders cannot be made on the worker: {error.strerror}.")

    def _enter(self, call: Call) -> _Box:
        if not self._cwd:
            self._new_folder()
        box = self._box
        if box is None:
            self._boxes += 1
            box = self._box = _Box.make(f"{self._request.outbox}/{os.getpid()}-{self._boxes}")
            self._stamp = box.stamp()
        if call.input:
            box.write_input(msgspec.json.encode(call.input))
        self._checkpoints = call.checkpoints
        if call.checkpoints:
            os.makedirs(call.checkpoints, 0o700, exist_ok=True)
        self._mark.raise_to(call.number)
        return box

    def leave(self) -> bool:
        """Return whether the command has left files, or was given one; then the next ones get another folder."""
        with contextlib.suppress(OSError):  # it holds something, which the next attempt finds
            os.rmdir(self._checkpoints)
        if self._request.scratch is not None and not _is_empty(self._cwd):
            shutil.rmtree(self._cwd, ignore_errors=True)
            self._cwd = ""
        if self._box is not None and self._box.stamp() == self._stamp:
            return False
        self._box = None
        return True

    def _new_folder(self) -> None:
        self._folders += 1
        folder = os.path.join(self._request.cwd, f"{os.getpid()}-{self._folders}")
        os.makedirs(folder, 0o700)
        self._cwd = folder

    def run(self, call: Call, box: _Box) -> End:
        """Run one command, and kill what it leaves running."""
        assert call.cmd is not None
        now = time.monotonic()
        if now - self._counted_at > _COUNT_AGE_SECS:
            self._oom_kills, self._counted_at = oom_kills(), now
        own = {
            "ZBRAIN_JOB_ID": call.job_id,
            "ZBRAIN_ATTEMPT": str(call.attempt),
            "ZBRAIN_INPUT": box.input,
            "ZBRAIN_OUTPUT": box.output,
            "ZBRAIN_ARTIFACTS": box.artifacts,
            "ZBRAIN_CHECKPOINTS": call.checkpoints,
        }
        if call.token:
            own["ZBRAIN_TOKEN"] = call.token
        try:
            os.chdir(self._cwd)
        except OSError as error:
            return _unstartable(about_folder(self._cwd, error))
        try:
            self._main = os.posix_spawnp(
                call.cmd[0],
                call.cmd,
                self._request.env | own,
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError as error:
            return _unstartable(about_program(call.cmd[0], error))
        if self.is_interrupted:
            self.interrupt(signal.SIGINT, None)  # it came before there was anybody to pass it on to
        self._largest_kib, self._cpu_secs = 0, 0.0
        pid = 0
        while pid != self._main:  # what else ends here are orphans of the command
            pid, status, usage = os.wait4(-1, 0)
            self._count(usage)
        self._main = 0
        if self._reap():
            self._killer.kill(self._reap)
        return self._end(os.waitstatus_to_exitcode(status))

    def _reap(self) -> bool:
        """Reap ended children; return whether there are more to wait for."""
        try:
            while True:
                pid, _, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return True
                self._count(usage)
        except ChildProcessError:
            return False

    def _count(self, usage: resource.struct_rusage) -> None:
        self._largest_kib = max(self._largest_kib, usage.ru_maxrss)
        self._cpu_secs += usage.ru_utime + usage.ru_stime

    def _end(self, code: int) -> End:
        peak_kib = own_peak_kib(self._largest_kib, held_kib(), is_forked=False)
        end = End(reason="exited", exit_code=code, peak_kib=peak_kib, cpu_secs=round(self._cpu_secs, 3))
        if code < 0:
            with contextlib.suppress(ValueError):
                end.signal = signal.Signals(-code).name
        if code == -signal.SIGKILL and (count := oom_kills()) > self._oom_kills:
            self._oom_kills = count
            end.reason, end.message = "memory", killed_by_kernel(peak_kib)
        return end


def _is_empty(folder: str) -> bool:
    """Whether a folder is there, and empty."""
    try:
        return not os.listdir(folder)
    except OSError:
        return False


def _unstartable(sentence: str) -> End:
    return End(reason="unstartable", exit_code=127, message=sentence)
