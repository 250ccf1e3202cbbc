"""The spawner: a small process that starts supervisors and outlives the worker.

``python -m zbrain_nb.worker.spawner FOLDER``. Single-threaded, in its own session, holding ``spawner.lock``. Each
datagram at ``spawner.sock`` names a request file in ``runs/``, or asks whether it is there. Supervisors of commands
it forks itself, those of cells it has forked by a zygote. It is the second subreaper: if a job kills its own
supervisor, the job's processes become children of the spawner, which kills them. It imports little, so that its
forks are cheap.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import msgspec

from zbrain_nb.model.datadir import FileLock, is_locked, spool_path
from zbrain_nb.worker.commanding import serve_commands
from zbrain_nb.worker.foreman import oversee
from zbrain_nb.worker.launch import run_command
from zbrain_nb.worker.processes import Killer, become_subreaper
from zbrain_nb.worker.request import RunRequest, read_request
from zbrain_nb.worker.sockets import ARE_YOU_THERE, HERE, Post, bind
from zbrain_nb.worker.spool import End, write_closed
from zbrain_nb.worker.stable import Stable
from zbrain_nb.worker.supervisor import supervise

_TICK_SECS = 1.0
#: So many commands are with a runner at once: the one that runs, and what it takes up without waiting.
_WINDOW = 8


class Spawner:
    """Serves one worker folder.

    Parameters
    ----------
    folder : Path
        The worker folder.
    linger_secs : float
        It ends when the worker has been away and nothing has run for so long.
    tied : bool
        It ends, and kills what runs, as soon as the worker is away.
    """

    def __init__(self, folder: Path, linger_secs: float, *, tied: bool = False) -> None:
        self._folder = folder
        self._linger = linger_secs
        self._tied = tied
        self._supervisors: set[int] = set()
        self._stable = Stable(folder)
        self._killer = Killer(self._spared)
        self._box = bind(folder, "spawner.sock")
        self._post = Post(folder, "worker.sock")
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._idle_since = time.monotonic()

    def warm(self, python: str) -> None:
        """Start the zygote of an interpreter before it is needed."""
        self._stable.warm(python)

    def run(self) -> None:
        """Serve until nobody needs it."""
        checked = time.monotonic()
        while True:
            poller = select.poll()
            for descriptor in (self._box.fileno(), self._wake_read, *self._stable.sources):
                poller.register(descriptor, select.POLLIN)
            poller.poll(_TICK_SECS * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            self._take_notes()
            ended = self._reap()
            self._take_requests()
            if ended or time.monotonic() - checked > _TICK_SECS:
                checked = time.monotonic()
                self._stable.tend()
                self._kill_orphans()
                if self._is_over():
                    return

    def _take_requests(self) -> None:
        while True:
            try:
                name = self._box.recv(65536).decode()
            except BlockingIOError:
                return
            if name.startswith(ARE_YOU_THERE.decode()):
                token = name.encode().removeprefix(ARE_YOU_THERE)
                if token:
                    self._kill_orphans()
                self._post.send(HERE + token)
                continue
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                # a withdrawn request is none
                self._start(name, read_request(self._folder / "runs" / name))

    def _start(self, name: str, request: RunRequest) -> None:
        if request.cmd is None:
            if not self._stable.send(request, name):
                self._give_up(name)
            return
        pid = os.fork()
        if pid == 0:
            self._become_supervisor(request)
        self._supervisors.add(pid)

    def _become_supervisor(self, request: RunRequest) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            os.setsid()
            # the lock above all: it has to be free when the spawner is dead, though its supervisors live
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            if request.orders is not None:
                oversee(self._folder, request, serve_commands, _WINDOW)
            supervise(self._folder, request, run_command)
        finally:
            os._exit(1)

    def _take_notes(self) -> None:
        for note in self._stable.take_notes():
            if note.taken is not None:
                self._supervisors.add(note.pid)
            else:
                self._supervisors.discard(note.pid)

    def _reap(self) -> bool:
        """Reap what has ended; return whether anything had."""
        any_ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return any_ended
            if pid == 0:
                return any_ended
            any_ended = True
            self._supervisors.discard(pid)
            for name in self._stable.ended(pid, os.waitstatus_to_exitcode(status)):
                self._give_up(name)

    def _give_up(self, name: str) -> None:
        """Write the end of a request whose interpreter cannot start."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            request = read_request(self._folder / "runs" / name)
            words = self._stable.last_words(request)
            why = words.splitlines()[-1][:300] if words else "it said nothing"
            end = End(reason="unstartable", message=f"Python at {request.python} cannot run cells ({why}).\n{words}")
            write_closed(spool_path(self._folder, request.job_id, request.attempt), end)
            self._post.send(b"\n")

    def _spared(self) -> frozenset[int]:
        return frozenset(self._supervisors | self._stable.pids)

    def _kill_orphans(self) -> None:
        """Kill the processes of jobs that have lost their supervisor."""
        self._take_notes()
        if self._killer.find():
            self._killer.kill(self._orphans_are_left)

    def _orphans_are_left(self) -> bool:
        self._take_notes()
        self._reap()
        return bool(self._killer.find())

    def _is_over(self) -> bool:
        if not self._folder.is_dir():
            return not self._supervisors
        has_worker = is_locked(self._folder / "worker.lock")
        if self._tied and not has_worker:
            Killer().kill(self._children_are_left)
            return True
        if has_worker or any(map(is_locked, (self._folder / "runs").glob("*.spool"))):
            self._idle_since = time.monotonic()
        return time.monotonic() - self._idle_since >= self._linger

    def _children_are_left(self) -> bool:
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    return True
            except ChildProcessError:
                return False


def main(arguments: list[str]) -> int:
    """Serve a folder, unless another spawner does."""
    parser = argparse.ArgumentParser(prog="zbrain_nb.worker.spawner")
    parser.add_argument("folder", type=Path, help="absolute path of the worker folder")
    parser.add_argument("--warm", action="append", default=[], help="interpreter whose zygote is started at once")
    parser.add_argument("--linger", type=float, default=30.0, help="seconds to stay when nobody needs it")
    parser.add_argument("--tied", action="store_true", help="kill what runs when the worker is away")
    options = parser.parse_args(arguments)
    lock = FileLock(options.folder / "spawner.lock")
    if not lock.acquire():
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")  # the folder that it was started in may go
    become_subreaper()
    spawner = Spawner(options.folder, options.linger, tied=options.tied)
    for python in options.warm:
        spawner.warm(python)
    spawner.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
