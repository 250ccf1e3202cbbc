"""One zygote as the spawner sees it: a process, a socket to it, and what it was handed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import msgspec

from zbrain_nb.worker.notes import Importing, Note, Ready, last_installed
from zbrain_nb.worker.request import RunRequest


class Order:
    """A request on its way to a zygote.

    Attributes
    ----------
    name : str
        File name of the request.
    request : RunRequest
        What it says.
    ends, failures : int
        How often zygotes have ended before they took it, and how often by themselves.
    delays : int
        How often it was given to another zygote, for packages were installed while one started.
    """

    def __init__(self, name: str, request: RunRequest) -> None:
        self.name = name
        self.request = request
        self.ends = self.failures = self.delays = 0


class Zygote:
    """A process of ``zbrain_nb.worker.zygote``.

    Parameters
    ----------
    folder : Path
        The worker folder.
    python : str
        Interpreter.
    environ : dict of str to str
        Environment to start it with.
    modules : list of str
        What it shall import ahead.
    log : Path
        Takes what it prints.

    Attributes
    ----------
    pid : int
        The process.
    box : socket
        Our end of the socket.
    asked : list of str
        `modules`.
    ready : Ready or None
        What it said when it was ready.
    importing : str or None
        What it imports just now.
    orders : dict of str to Order
        What it was handed and has not taken, by name.
    forks : int
        How many it has taken.

    Raises
    ------
    OSError
        If it cannot be started.
    """

    def __init__(self, folder: Path, python: str, environ: dict[str, str], modules: list[str], log: Path) -> None:
        self.asked = modules
        self.ready: Ready | None = None
        self.importing: str | None = None
        self.orders: dict[str, Order] = {}
        self.forks = 0
        self.started_at = time.monotonic()
        self._unsent: list[str] = []
        self._is_dismissed = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, open(log, "wb") as output, open(os.devnull, "rb") as null:
            theirs.set_inheritable(True)
            self.pid = os.posix_spawn(
                python,
                [python, "-P", "-m", "zbrain_nb.worker.zygote", str(folder), str(theirs.fileno()), *modules],
                environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
                ],
                setsid=True,
                setsigdef=[2, 13],
            )
            self.box = ours.dup()
        self.box.setblocking(False)

    @property
    def secs_since_installed(self) -> float:
        """How long ago packages were installed or removed; negative with a clock that was set back."""
        times = last_installed(self.ready.installed).values() if self.ready is not None else ()
        return time.time() - max(times, default=0) / 1e9

    @property
    def is_stale(self) -> bool:
        """Whether packages were installed or removed since it began to import."""
        return self.ready is not None and last_installed(self.ready.installed) != self.ready.installed

    def take(self, order: Order) -> None:
        """Hand it a request, at once if it is ready."""
        self.orders[order.name] = order
        self._unsent.append(order.name)
        self.send()

    @property
    def waiting(self) -> list[Order]:
        """What was not sent to it yet."""
        return [self.orders[name] for name in self._unsent]

    def take_back(self) -> list[Order]:
        """Return what was not sent to it, for others."""
        back, self._unsent = self._unsent, []
        return [self.orders.pop(name) for name in back]

    def send(self) -> None:
        """Send what its socket takes; of a dead zygote all stays open, and goes to the next."""
        if self.ready is None:
            return
        with contextlib.suppress(OSError):
            while self._unsent:
                self.box.send(self._unsent[0].encode())
                del self._unsent[0]
            if self._is_dismissed:
                self.box.shutdown(socket.SHUT_WR)

    def dismiss(self) -> None:
        """Have it end when it has taken what it was handed."""
        self._is_dismissed = True
        self.send()

    def kill(self) -> None:
        """End it; the supervisors that were forked from it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def take_notes(self) -> list[Note]:
        """Take in what it has said since the last call; return what its supervisors have."""
        notes: list[Note] = []
        while True:
            try:
                data = self.box.recv(1 << 20)
            except (BlockingIOError, ConnectionResetError):
                return notes
            if not data:
                return notes
            said = msgspec.json.decode(data, type=Note | Importing | Ready)
            if isinstance(said, Ready):
                self.ready, self.importing = said, None
            elif isinstance(said, Importing):
                self.importing = said.module
            else:
                if said.taken is not None:
                    self.orders.pop(said.taken, None)
                    self.forks += 1
                notes.append(said)
