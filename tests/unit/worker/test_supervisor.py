"""A supervisor alone, without spawner and worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.worker.conftest import pids_with, wait_for
from zbrain_nb.worker.request import RunRequest, write_request
from zbrain_nb.worker.spool import End, Frame, Kind, SpoolReader

SUPERVISE = """
import sys
from pathlib import Path
from zbrain_nb.worker.launch import run_command
from zbrain_nb.worker.request import read_request
from zbrain_nb.worker.supervisor import supervise
supervise(Path(sys.argv[1]), read_request(sys.argv[2]), run_command)
"""


class Supervised:
    def __init__(self, folder: Path, marker: str, cmd: list[str], **fields: Any) -> None:
        (folder / "runs").mkdir()
        (folder / "out").mkdir()
        env = {"PATH": os.environ["PATH"], "MARKER": marker}
        request = RunRequest(
            job_id="job", attempt=1, cmd=cmd, cwd=str(folder), outbox=str(folder / "out"), env=env, **fields
        )
        write_request(folder / "request", request)
        self.marker = f"MARKER={marker}"
        self.spool = folder / "runs" / "job.1.spool"
        arguments = [sys.executable, "-c", SUPERVISE, str(folder), str(folder / "request")]
        self.process = subprocess.Popen(arguments)

    def frames(self) -> list[Frame]:
        if not self.spool.exists():
            return []
        reader = SpoolReader(self.spool)
        frames = []
        while more := reader.read():
            frames += more
        reader.close()
        return frames

    def output(self) -> bytes:
        return b"".join(frame.payload for frame in self.frames() if frame.kind == Kind.STDOUT)

    def end(self) -> End:
        """Wait until it has exited; check that what it supervised was gone by then."""
        self.process.wait(30)
        assert not pids_with(self.marker)
        last = self.frames()[-1]
        assert last.kind == Kind.END
        return msgspec.json.decode(last.payload, type=End)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Any]:
    started: list[Supervised] = []

    def start(*cmd: str, **fields: Any) -> Supervised:
        started.append(Supervised(tmp_path, f"m{os.getpid()}-{tmp_path.name}", list(cmd), **fields))
        return started[-1]

    yield start
    for one in started:
        for pid in pids_with(one.marker):
            os.kill(pid, signal.SIGKILL)
        one.process.kill()
        one.process.wait()


def test_leftovers_are_gone_before_the_end_is_written(supervise: Any) -> None:
    one = supervise("sh", "-c", "for i in 1 2 3; do setsid sh -c 'trap \"\" TERM; sleep 1000' & done; echo up")
    end = one.end()
    assert (end.reason, end.exit_code, end.message) == ("exited", 0, "")
    assert one.output() == b"up\n"


def test_cancel_lets_processes_that_ignore_an_interrupt_hear_sigterm(supervise: Any) -> None:
    script = (
        "import os, signal, sys, time\n"
        "def tidy(*_):\n    print('tidy', os.getpid() == main, flush=True); sys.exit(7)\n"
        "main = os.getpid()\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, tidy)\n"
        "if os.fork() == 0:\n    os.setsid(); os.kill(os.getpid(), signal.SIGSTOP)\n"
        "print('up', flush=True)\nwhile True: time.sleep(0.5)"
    )
    one = supervise(sys.executable, "-c", script)
    wait_for(lambda: b"up" in one.output())
    one.process.send_signal(signal.SIGTERM)
    assert (one.end().reason, one.end().exit_code) == ("canceled", 7)
    assert b"tidy True" in one.output()


def test_output_past_the_cap_is_dropped_with_one_mark_and_the_job_goes_on(supervise: Any) -> None:
    script = "i=0; while [ $i -lt 400 ]; do head -c 1000 /dev/zero; i=$((i+1)); done; echo last; exit 5"
    one = supervise("sh", "-c", script, spool_cap_bytes=100_000)
    assert one.end().exit_code == 5
    marks = [frame.payload for frame in one.frames() if frame.kind == Kind.MARK]
    assert marks == [b"Output past 100,000 bytes was dropped, but for its last lines."]
    assert one.spool.stat().st_size < 100_000 + 70_000
    assert one.output().endswith(b"last\n")


def test_closed_pipes_cost_nothing(supervise: Any) -> None:
    one = supervise("sh", "-c", "exec >&- 2>&-; sleep 3")
    _, _, usage = os.wait4(one.process.pid, 0)
    one.process.returncode = 0
    assert usage.ru_utime + usage.ru_stime < 1.0


def test_second_supervisor_of_an_attempt_does_nothing(supervise: Any, tmp_path: Path) -> None:
    one = supervise("sh", "-c", "echo ran; sleep 1")
    wait_for(one.output)
    again = subprocess.run(one.process.args, timeout=20, check=False)
    assert again.returncode == 0
    assert one.end().reason == "exited"
    assert one.output() == b"ran\n"


def test_job_dies_with_its_supervisor(supervise: Any) -> None:
    one = supervise("sh", "-c", "echo up; exec sleep 1000")
    wait_for(one.output)
    one.process.kill()
    wait_for(lambda: not pids_with(one.marker))
    assert one.frames()[-1].kind != Kind.END
