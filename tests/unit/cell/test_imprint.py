"""What a call may change of its process for the next one is seen, and seen to be undone."""

from __future__ import annotations

import logging
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from zbrain_nb.worker.cell.imprint import Imprint


@contextmanager
def stdin_replaced() -> Iterator[None]:
    before, sys.stdin = sys.stdin, StringIO()
    yield
    sys.stdin = before


@contextmanager
def traced() -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(lambda *_: None)
    yield
    sys.settrace(before)


@contextmanager
def profiled() -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(lambda *_: None)
    yield
    sys.setprofile(before)


@contextmanager
def threads_traced() -> Iterator[None]:
    before = threading.gettrace()
    threading.settrace(lambda *_: None)
    yield
    threading.settrace(before)  # type: ignore[arg-type]


@contextmanager
def log_handler_added() -> Iterator[None]:
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    yield
    logging.root.removeHandler(handler)


@contextmanager
def log_level_changed() -> Iterator[None]:
    before = logging.root.level
    logging.root.setLevel(before + 1)
    yield
    logging.root.setLevel(before)


@contextmanager
def logs_disabled() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(before + 1)
    yield
    logging.disable(before)


@contextmanager
def recursion_limit_changed() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 1)
    yield
    sys.setrecursionlimit(before)


@contextmanager
def open_files_limited() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def imprint() -> Imprint:
    """Return the imprint, but for the alarm by which the tests' own time limit works."""
    return Imprint.take()._replace(timer=(0.0, 0.0))


CHANGES = {
    "stdin": stdin_replaced(),
    "stdout": redirect_stdout(StringIO()),
    "stderr": redirect_stderr(StringIO()),
    "trace": traced(),
    "profile": profiled(),
    "trace of threads": threads_traced(),
    "log handler": log_handler_added(),
    "log level": log_level_changed(),
    "logs disabled": logs_disabled(),
    "recursion limit": recursion_limit_changed(),
    "open files": open_files_limited(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_change_of_the_process_shows_in_the_imprint_until_it_is_undone(what: str) -> None:
    change: AbstractContextManager[object] = CHANGES[what]
    before = imprint()
    with change:
        assert imprint() != before
    assert imprint() == before
