"""Starting a job's main process below its supervisor.

The child is forked, not spawned: only so can it ask to die with its supervisor and start in its own folder.
What it runs is a `Body`: for commands `run_command`, which execs; for cells a function that never execs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from zbrain_nb.worker.processes import die_with_parent
from zbrain_nb.worker.request import RunRequest

#: Runs in the child; gets the request and the descriptor for event frames, returns the exit code.
Body = Callable[[RunRequest, int], int]


class Child:
    """A job's main process and our ends of its pipes.

    Attributes
    ----------
    pid : int
        The process; leader of its own session and group.
    stdout, stderr, events : int
        Read ends, not blocking.
    failure : int
        Read end that gives one sentence if the job could not be started.
    """

    def __init__(self, request: RunRequest, body: Body, private: list[int]) -> None:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(4)]
        supervisor = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            reads, writes = zip(*pipes, strict=True)
            _run_child(request, body, supervisor, writes, [*private, *reads])
        for read, write in pipes:
            os.close(write)
            os.set_blocking(read, False)
        self.stdout, self.stderr, self.events, self.failure = (read for read, _ in pipes)


def _run_child(
    request: RunRequest, body: Body, supervisor: int, writes: tuple[int, ...], private: list[int]
) -> NoReturn:
    """Become the job; never returns into the supervisor's code, whatever happens."""
    code = 127
    stdout, stderr, events, failure = writes
    try:
        signal.set_wakeup_fd(-1)
        die_with_parent(supervisor)
        os.setsid()
        # a cell's process does not exec: without this it would keep the spool's lock alive
        for descriptor in private:
            os.close(descriptor)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for source, target in ((null, 0), (stdout, 1), (stderr, 2)):
            os.dup2(source, target)
            os.close(source)
        try:
            os.chdir(request.cwd)
        except OSError as error:
            os.write(failure, about_folder(request.cwd, error).encode())
            os._exit(127)
        if request.open_files is not None:
            hard = min(request.open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if request.cmd:
            try:
                body(request, events)
            except OSError as error:
                os.write(failure, about_program(request.cmd[0], error).encode(errors="replace"))
                os._exit(127)
        os.close(failure)
        code = body(request, events)
    finally:
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)


def run_command(request: RunRequest, events: int) -> int:
    """Replace the process by the request's command (a `Body`)."""
    assert request.cmd is not None
    del events  # closed by exec: a command sends its events through ZBRAIN_EVENTS
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(request.cmd[0], request.cmd, request.env)


def about_folder(cwd: str, error: OSError) -> str:
    """Say why a job's folder cannot be entered."""
    if error.errno == errno.ENOENT:
        return f"The folder {cwd} does not exist on the worker."
    return f"The folder {cwd} cannot be entered: {error.strerror}."


def about_program(program: str, error: OSError) -> str:
    """Say why a job's program cannot be started."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"The program {program!r} was not found on the worker."
    if error.errno == errno.ENOEXEC:
        return f"The file {program!r} is no program: it has neither a known format nor a #! line."
    if error.errno == errno.E2BIG:
        return "The command's arguments and environment are too long for the system."
    return f"The program {program!r} cannot be started: {error.strerror}."


def open_fifo(path: str) -> int | None:
    """Make the FIFO through which a job's processes send event frames, and open it for reading.

    It is opened for writing too, so that it never reports an end while no writer has it open.
    """
    try:
        with contextlib.suppress(FileExistsError):  # left by a launch that came to nothing
            os.mkfifo(path, 0o600)
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None  # a file system without FIFOs: the job runs, but cannot report progress
