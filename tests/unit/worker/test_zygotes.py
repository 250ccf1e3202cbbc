"""Zygotes that end, or never get ready: what they took is known, and what they did not goes to others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from zbrain_nb.worker import stable as module
from zbrain_nb.worker.notes import Note
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.stable import Stable

SERVE = """
import os, sys
from zbrain_nb.worker import zygote
zygote._preload = lambda modules, box: None
zygote._become_supervisor = lambda *_: os._exit(0)
sys.exit(zygote.main(sys.argv[1:]))
"""


@pytest.fixture
def stable(tmp_path: Path) -> Iterator[Stable]:
    stable = Stable(tmp_path)
    yield stable
    for zygote in stable._all():
        zygote.kill()
        os.waitpid(zygote.pid, 0)
        zygote.box.close()


def ask(stable: Stable, tmp_path: Path, script: str) -> None:
    """Hand a request to a zygote whose interpreter is a shell script."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o700)
    request = RunRequest(job_id="job", attempt=1, code="1", cwd=str(tmp_path), outbox=str(tmp_path), python=str(python))
    assert stable.send(request, "job.1.json")


def test_zygote_that_ends_has_told_of_all_that_it_took(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            arguments = [sys.executable, "-c", SERVE, tmp_path, str(theirs.fileno())]
            process = subprocess.Popen(arguments, pass_fds=[theirs.fileno()])
        ours.send(b"job.1.json")
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(30) == 0
        assert msgspec.json.decode(ours.recv(4096), type=Note).taken == "job.1.json"


@pytest.mark.parametrize(("script", "tries"), [("exit 1", 2), ("exit 0", 5), ("kill -9 $$", 5)])
def test_request_is_tried_again_after_zygotes_that_had_no_fault(
    stable: Stable, tmp_path: Path, script: str, tries: int
) -> None:
    ask(stable, tmp_path, script)
    hopeless: list[list[str]] = []
    while stable.pids:
        pid, status = os.waitpid(stable.pids.pop(), 0)
        hopeless.append(stable.ended(pid, os.waitstatus_to_exitcode(status)))
    assert hopeless == [[]] * (tries - 1) + [["job.1.json"]]


def test_zygote_that_never_gets_ready_is_given_up(
    stable: Stable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(stable, tmp_path, "exec sleep 1000")
    (pid,) = stable.pids
    stable.tend()
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    monkeypatch.setattr(module, "_READY_SECS", 0.0)
    stable.tend()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert stable.ended(pid, -signal.SIGKILL) == []  # another tries
