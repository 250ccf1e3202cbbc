"""A warm process, started once, in which the tests run cells; see `zygote_stand_in`."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HEADER = struct.Struct("<BdI")


def read_frames(data: bytes) -> list[tuple[int, Any]]:
    """Decode frames; fails on anything that is not whole."""
    frames, position = [], 0
    while position < len(data):
        kind, stamp, length = HEADER.unpack_from(data, position)
        position += HEADER.size
        payload = data[position : position + length]
        assert kind in (1, 2, 3) and stamp > 1e9 and len(payload) == length
        position += length
        frames.append((kind, json.loads(payload) if kind == 3 else payload.decode()))
    return frames


def drain_into(pipe: Path, file: Path) -> None:
    """Copy what comes through a pipe to a file, as it comes."""
    with pipe.open("rb", buffering=0) as source, file.open("wb", buffering=0) as target:
        while data := source.read(4096):
            target.write(data)


@dataclass
class Ran:
    exit_code: int
    frames: list[tuple[int, Any]]
    raw_stdout: str
    raw_stderr: str
    outbox: Path
    finished: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        kind, self.finished = self.frames[-1]
        assert kind == 3 and self.finished["kind"] == "finished"
        assert sum(k == 3 and e["kind"] == "finished" for k, e in self.frames) == 1
        assert self.finished["exit_code"] == self.exit_code

    @property
    def stdout(self) -> str:
        return "".join(p for k, p in self.frames if k == 1)

    @property
    def stderr(self) -> str:
        return "".join(p for k, p in self.frames if k == 2)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return [o for k, e in self.frames if k == 3 and e["kind"] == "displayed" for o in e["outputs"]]

    @property
    def progress(self) -> list[dict[str, Any]]:
        return [e for k, e in self.frames if k == 3 and e["kind"] == "progress"]

    @property
    def variables(self) -> dict[str, dict[str, Any]]:
        return {v["name"]: v for v in self.finished["variables"]}

    def order(self) -> list[str]:
        """What came, in order: text, or the plain form of outputs."""
        found: list[str] = []
        for kind, payload in self.frames[:-1]:
            if kind != 3:
                found += [line for line in payload.splitlines() if line]
            elif payload["kind"] == "displayed":
                found += [o.get("data", {}).get("text/plain", o["output_type"]) for o in payload["outputs"]]
        return found


class Zygote:
    def __init__(self) -> None:
        environ = {n: v for n, v in os.environ.items() if n not in ("PYTHONUNBUFFERED", "ZBRAIN_PRELOAD")}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote_stand_in.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )
        self.ready = self._answer()

    def _answer(self) -> dict[str, Any]:
        return json.loads(self._process.stdout.readline())

    def run(self, folder: Path, while_running: Callable[[int], None] | None = None, **request: Any) -> Ran:
        outbox, cwd = folder / "outbox", folder / "work"
        outbox.mkdir()
        cwd.mkdir(exist_ok=True)
        whole = {
            "job_id": "j",
            "attempt": 1,
            "code": None,
            "function": None,
            "arguments": None,
            "inputs": {},
            "env": {"PATH": os.environ["PATH"], "HOME": str(folder)},
            "cwd": str(cwd),
            "keep": None,
            "result_cap_bytes": 100 << 20,
            "outbox": str(outbox),
            **request,
        }
        os.mkfifo(folder / "events.fifo")
        drain = threading.Thread(target=drain_into, args=(folder / "events.fifo", folder / "events"))
        drain.start()
        self._process.stdin.write(json.dumps({"folder": str(folder), "request": whole}) + "\n")
        self._process.stdin.flush()
        pid = self._answer()["pid"]
        if while_running is not None:
            while_running(pid)
        exit_code = self._answer()["exit_code"]
        drain.join(20)
        raw = (folder / "events").read_bytes()
        assert raw, (folder / "err").read_text()
        return Ran(exit_code, read_frames(raw), (folder / "out").read_text(), (folder / "err").read_text(), outbox)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


@pytest.fixture
def run(zygote: Zygote, tmp_path: Path) -> Callable[..., Ran]:
    """Run the text of a cell (further arguments are the request's) and return what came."""
    count = iter(range(1000))

    def run_cell(code: str | None = None, **request: Any) -> Ran:
        folder = tmp_path / f"run{next(count)}"
        folder.mkdir()
        return zygote.run(folder, code=code, **request)

    return run_cell


@pytest.fixture
def main_module() -> Iterator[dict[str, Any]]:
    """A fresh ``__main__``, as a notebook has."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = made = type(before)("__main__")
    yield made.__dict__
    sys.modules["__main__"] = before
