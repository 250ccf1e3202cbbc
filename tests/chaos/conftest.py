"""A client of a data directory whose host, worker and jobs the tests kill; and a worker without a client."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import zbrain_nb
from tests.chaos.place import Place
from tests.conftest import end_everything
from zbrain_nb.client.client import Client
from zbrain_nb.model.datadir import DataDir, is_locked, lock_holder
from zbrain_nb.model.job import Job

T = TypeVar("T")


class Ground:
    """Where the killing happens."""

    def __init__(self, data: DataDir, client: Client) -> None:
        self.data = data
        self.client = client

    def pid(self, who: str) -> int:
        """Return the pid of the ``host``, the ``worker`` or the ``spawner``."""
        lock = {"host": self.data.host_lock}.get(who, self.data.worker / f"{who}.lock")
        return wait_for(lambda: lock_holder(lock), f"the {who}")

    def lines(self, job_id: str) -> list[str]:
        """Return the stdout of a job so far."""
        return [e.line for e in self.client.job(job_id).logs() if e.stream == "stdout"]

    def wait_for_lines(self, job_id: str, count: int) -> None:
        """Return once the job has written `count` lines."""
        wait_for(lambda: len(self.lines(job_id)) >= count, f"{count} lines")

    def ended(self, job_id: str, seconds: float = 60) -> Job:
        """Return the job once it has ended."""
        return self.client.job(job_id).wait(seconds).job


def wait_for(look: Callable[[], T | None], what: str, seconds: float = 30) -> T:
    """Return what `look` finds, looking again until it finds something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.02)  # what a killed process leaves has no event
    return found


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    root = tmp_path / "ground zero"
    monkeypatch.setenv("ZDB_DATA", str(root))
    monkeypatch.setenv("ZBRAIN_PRELOAD", "")
    client = zbrain_nb.connect()
    yield Ground(DataDir(root), client)
    client.close()
    end_everything(root)
    assert not is_locked(root / "host.lock")


@pytest.fixture
async def place(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setenv("ZBRAIN_PRELOAD", "")
    place = Place(data_dir)
    try:
        await place.start_host()
        place.start_worker()
        yield place
    finally:
        await place.end()
