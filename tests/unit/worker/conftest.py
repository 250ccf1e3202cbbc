"""A worker at work: its queue in memory, its folder in a deep path with spaces, its processes ended afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.function_station import Calls
from tests.unit.worker.memory_link import MemoryLink, MemoryQueue, Tracked
from zbrain_nb.model.datadir import is_locked, lock_holder
from zbrain_nb.worker.agent import WorkerAgent
from zbrain_nb.worker.calls import SESSION_PREFIX
from zbrain_nb.worker.folder import WorkerFolder
from zbrain_nb.worker.spool import Begin, Kind, SpoolReader, read_json


def pids_with(marker: str) -> set[int]:
    """Processes (not zombies) that carry `marker` in their arguments or environment."""
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        for file in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if marker.encode() in Path(f"/proc/{entry}/{file}").read_bytes():
                    found.add(int(entry))
    return found


def wait_for(condition: Any, secs: float = 15.0) -> Any:
    """Poll for something that has no event to wait for."""
    deadline = time.monotonic() + secs
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return value


async def eventually(condition: Any, secs: float = 15.0) -> Any:
    """Poll for something that has no event to wait for, letting the loop run."""
    deadline = time.monotonic() + secs
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
    return value


class Station:
    """A queue and the workers on one folder."""

    def __init__(self, root: Path) -> None:
        blobs = root / "queue blobs"
        blobs.mkdir()
        deep = root / "a worker's folder" / ("deep " * 20).strip() / ("deeper " * 10).strip()
        self.queue = MemoryQueue(blobs)
        self.folder = WorkerFolder(deep)
        self.agent: WorkerAgent | None = None
        self.said: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(
        self, *, concurrency: int = 2, warm: bool = False, pooled: bool = True, drain_secs: float | None = None
    ) -> None:
        self.agent = WorkerAgent(
            MemoryLink(self.queue),
            WorkerFolder(self.folder.root),
            concurrency=concurrency,
            linger_secs=1,
            warm=warm,
            pooled=pooled,
            drain_secs=drain_secs,
            say=self.said.append,
        )
        self._task = asyncio.create_task(self.agent.run())

    async def stop(self) -> None:
        if self.agent is not None and self._task is not None:
            self.agent.stop()
            await self._task
        self.agent = self._task = None

    async def wait_stopped(self) -> None:
        assert self._task is not None
        await asyncio.wait_for(asyncio.shield(self._task), 20)

    def submit(self, *cmd: str, **spec: Any) -> Tracked:
        return self.queue.submit(cmd=list(cmd), **spec) if cmd else self.queue.submit(**spec)

    async def until(self, condition: Any, secs: float = 30.0) -> None:
        await self.queue.until(condition, secs)

    async def run(self, *cmd: str, **spec: Any) -> Tracked:
        """Submit a job and wait for its end."""
        tracked = self.submit(*cmd, **spec)
        await self.until(lambda: tracked.ended)
        return tracked

    def begin(self, tracked: Tracked) -> Begin | None:
        """Who runs a job, as its spool says."""
        with contextlib.suppress(FileNotFoundError):
            reader = SpoolReader(self.folder.spool_path(tracked.job.id, tracked.job.attempt))
            frames = reader.read()
            reader.close()
            if frames and frames[0].kind == Kind.BEGIN:
                return Begin(**read_json(frames[0].payload))  # type: ignore[arg-type]
        return None

    def files(self, tracked: Tracked) -> list[str]:
        return [name for name in os.listdir(self.folder.runs) if tracked.job.id in name]

    @property
    def spawner(self) -> int | None:
        return lock_holder(self.folder.root / "spawner.lock")

    def end_processes(self) -> None:
        """Kill what still runs here: supervisors, their jobs, the spawner."""
        for tracked in self.queue.jobs.values():
            begin = self.begin(tracked)
            if begin is not None and is_locked(self.folder.spool_path(tracked.job.id, tracked.job.attempt)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(begin.supervisor_pid, signal.SIGKILL)
        for tracked in self.queue.jobs.values():
            for pid in pids_with(f"ZBRAIN_JOB_ID={tracked.job.id}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if (pid := self.spawner) is not None:
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not is_locked(self.folder.root / "spawner.lock"))
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


class Brief:
    """A station whose worker believes that commands are brief."""

    def __init__(self, station: Station) -> None:
        self.station = station

    def submit(self, *cmd: str, **spec: Any) -> Tracked:
        assert self.station.agent is not None
        for _ in range(40):
            self.station.agent._runs.crew.learn(0.001)
        return self.station.submit(*cmd, **spec)

    async def run(self, *cmd: str, **spec: Any) -> Tracked:
        job = self.submit(*cmd, **spec)
        await self.station.until(lambda: job.ended)
        return job

    @property
    def sessions(self) -> set[str]:
        return {path.name for path in self.station.folder.runs.glob(f"{SESSION_PREFIX}*.spool")}


def zygotes(station: Station) -> set[int]:
    """Zygotes of the station: children of its spawner that are no supervisors."""
    spawner = station.spawner
    assert spawner is not None
    return {pid for pid in pids_with("zbrain_nb.worker.zygote") if _parent(pid) == spawner}


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@pytest.fixture
def idle_station(tmp_path: Path) -> Iterator[Station]:
    """A station whose worker is not started yet."""
    station = Station(tmp_path)
    yield station
    station.end_processes()


@pytest.fixture
async def station(idle_station: Station) -> AsyncIterator[Station]:
    """A station at work."""
    await idle_station.start()
    yield idle_station
    await idle_station.stop()


@pytest.fixture
async def brief(idle_station: Station, tmp_path: Path) -> AsyncIterator[Brief]:
    idle_station.queue.blobs = tmp_path / "store"
    await idle_station.start()
    yield Brief(idle_station)
    await idle_station.stop()


@pytest.fixture
async def calls(idle_station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Calls]:
    """One slot, so that all calls meet in one process as long as it is used again."""
    monkeypatch.setenv("ZBRAIN_PRELOAD", "")
    folder = tmp_path / "work"
    folder.mkdir()
    idle_station.queue.blobs = tmp_path / "store"
    await idle_station.start(concurrency=1, warm=True)
    yield Calls(idle_station, folder)
    await idle_station.stop()
    # the foremen see that the worker is gone, and end
    await eventually(lambda: not pids_with(f"zygote\x00{idle_station.folder.root}\x00") or _alone(idle_station))


def _alone(station: Station) -> bool:
    """Whether nothing but the zygote and the spawner is left."""
    return len(pids_with(f"zygote\x00{station.folder.root}\x00")) <= 1
