"""What calls can change of a process for the calls after them; taken before and after each, and compared.

What is restored before each call (environment, import path, namespace, seeds) is no part of it: see `calling`.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
from typing import Any, NamedTuple

#: The signals that programs set handlers for.
_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGPIPE,
    signal.SIGALRM,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGVTALRM,
    signal.SIGPROF,
)
_LIMITS = tuple(sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}))


class Imprint(NamedTuple):
    """What a call can change of the process for the next, and nobody takes back."""

    cwd: str
    umask: int
    handlers: tuple[Any, ...]
    timer: tuple[float, float]
    threads: int
    has_children: bool
    outputs: tuple[tuple[int, int], ...]
    streams: tuple[Any, ...]
    hooks: tuple[Any, ...]
    logging: tuple[Any, ...]
    recursion_limit: int
    limits: tuple[tuple[int, int], ...]

    @classmethod
    def take(cls) -> Imprint:
        """Return how the process is now."""
        umask = os.umask(0o077)
        os.umask(umask)
        try:
            cwd = os.getcwd()
        except FileNotFoundError:
            cwd = ""
        return cls(
            cwd,
            umask,
            tuple(map(signal.getsignal, _SIGNALS)),
            signal.getitimer(signal.ITIMER_REAL),
            threading.active_count(),
            _has_children(),
            tuple(_file_at(descriptor) for descriptor in (0, 1, 2)),
            (sys.stdin, sys.stdout, sys.stderr),
            (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()),
            (logging.root.level, logging.root.manager.disable, *logging.root.handlers),
            sys.getrecursionlimit(),
            tuple(map(resource.getrlimit, _LIMITS)),
        )


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _file_at(descriptor: int) -> tuple[int, int]:
    try:
        stat = os.fstat(descriptor)
    except OSError:
        return 0, 0
    return stat.st_dev, stat.st_ino
