"""The zygote: a warm Python that cells and functions are forked from.

``python -m zbrain_nb.worker.zygote FOLDER SOCKET [MODULE ...]``, started by the spawner. It imports what cells
need, and computes nothing: a fork of a process that has computed on threads may hang. When it is ready it says so;
each datagram on the inherited socket names a request then, and for each a supervisor is forked, which forks the
job. The zygote ends when the spawner does, or wants no more of it; its supervisors go on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import msgspec

from zbrain_nb.worker.foreman import oversee
from zbrain_nb.worker.notes import Importing, Note, Ready, last_installed
from zbrain_nb.worker.request import RunRequest, read_request
from zbrain_nb.worker.supervisor import supervise


def run_cell(request: RunRequest, events: int) -> int:
    """Run a cell or function in this process, or a cell in a kernel below it (a `launch.Body`)."""
    if request.kernel is not None:
        from zbrain_nb.worker.cell import foreign

        return foreign.run(request, events)
    from zbrain_nb.worker.cell import runtime

    return runtime.run(request, events)


def run_calls(request: RunRequest, events: int, feed: int, marker: bytes) -> int:
    """Run calls in this process, one after the other (a `runner.Body`)."""
    from zbrain_nb.worker.cell import calling

    return calling.serve(request, events, feed, marker)


def _preload(modules: list[str], box: socket.socket) -> None:
    from zbrain_nb.worker.cell import calling, preloading, runtime  # noqa: F401

    def tell(module: str) -> None:
        box.send(msgspec.json.encode(Importing(module)))

    installed = last_installed(preloading.package_folders())
    runtime.preload(modules, tell)
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the shared pages in every child
    box.send(msgspec.json.encode(Ready(installed, preloading.loaded())))


def main(arguments: list[str]) -> int:
    """Serve requests until the spawner is gone."""
    folder = Path(arguments[0])
    box = socket.socket(fileno=int(arguments[1]))
    box.set_inheritable(False)
    _preload(arguments[2:], box)
    # the only threads are those of preloaded libraries, which take care of forks themselves
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    poller = select.poll()
    poller.register(box, select.POLLIN)
    poller.register(wake_read, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
            _report_ended(box)
        if box.fileno() in ready:
            message = box.recv(65536)
            if not message:
                return 0
            _fork_supervisor(folder, message.decode(), box, [wake_read, wake_write])


def _fork_supervisor(folder: Path, name: str, box: socket.socket, wake: list[int]) -> None:
    """Fork a supervisor; it goes on when the spawner was told of it, which kills what it has not heard of."""
    told_read, told_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become_supervisor(folder, name, told_read, [box.detach(), told_write, *wake])
    os.close(told_read)
    # told here, not there: this process may end next, and all that it took has to be known by then
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        box.send(msgspec.json.encode(Note(pid=pid, taken=name)))
        os.write(told_write, b"!")
    os.close(told_write)


def _become_supervisor(folder: Path, name: str, told: int, private: list[int]) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for descriptor in private:
            os.close(descriptor)
        if not os.read(told, 1):
            os._exit(0)
        os.close(told)
        request = read_request(folder / "runs" / name)
        if request.orders is not None:
            oversee(folder, request, run_calls)
        supervise(folder, request, run_cell)
    finally:
        os._exit(1)


def _report_ended(box: socket.socket) -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            box.send(msgspec.json.encode(Note(pid=pid)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
