"""A station that is given functions, and functions for it that travel by value."""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.unit.worker.memory_link import Tracked
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.model.payload import load_value, pack_call
from zbrain_nb.worker.calls import SESSION_PREFIX
from zbrain_nb.worker.crew import Crew
from zbrain_nb.worker.session import Session

if TYPE_CHECKING:
    from tests.unit.worker.conftest import Station


class Calls:
    """The station, its store, and where its functions run."""

    def __init__(self, station: Station, folder: Path) -> None:
        self.station = station
        self.folder = folder

    def submit(self, function: Callable[..., Any], *args: Any, **spec: Any) -> Tracked:
        data = pack_call(function, args)
        digest = hashlib.sha256(data).hexdigest()
        assert self.station.queue.blobs is not None
        path = self.station.queue.blobs / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        spec.setdefault("cwd", str(self.folder))
        return self.station.submit(function=digest, kernel=sys.executable, **spec)

    async def ended(self, *calls: Tracked) -> None:
        await self.station.until(lambda: all(call.ended for call in calls), secs=60)

    async def run(self, function: Callable[..., Any], *args: Any, **spec: Any) -> Tracked:
        call = self.submit(function, *args, **spec)
        await self.ended(call)
        return call

    async def run_each(self, function: Callable[..., Any], *args: Iterable[Any], **spec: Any) -> list[Tracked]:
        """Submit many calls at once, with arguments as for `map`, and return them when each has run.

        On a busy machine some come back, for nothing moved for a while: they are submitted again, as a queue does.
        """
        each = list(zip(*args, strict=True))
        ran: dict[int, Tracked] = {}
        while left := [number for number in range(len(each)) if number not in ran]:
            calls = {number: self.submit(function, *each[number], **spec) for number in left}
            await self.ended(*calls.values())
            for number, call in calls.items():
                if isinstance(call.ending, JobFailed) and call.ending.returned:
                    assert call.lines() == [], "what comes back has not begun"
                else:
                    ran[number] = call
        return [ran[number] for number in range(len(each))]

    async def warm_up(self) -> None:
        """Let the worker find out that calls are brief, so that it takes many at once."""
        await self.ended(*(self.submit(nothing()) for _ in range(60)))

    @property
    def crew(self) -> Crew:
        assert self.station.agent is not None
        return self.station.agent._runs.crew

    @property
    def sessions(self) -> list[Session]:
        return self.crew._sessions

    @property
    def spools(self) -> list[Path]:
        return sorted(self.station.folder.runs.glob(f"{SESSION_PREFIX}*.spool"))


def value(call: Tracked) -> Any:
    assert isinstance(call.ending, JobCompleted), call.ending
    if call.ending.result is None:
        return None
    assert call.ending.result.data is not None
    return load_value(call.ending.result.data)


def nothing() -> Callable[[], None]:
    def none() -> None:
        pass

    return none


def own_pid() -> Callable[[], int]:
    def pid() -> int:
        import os

        return os.getpid()

    return pid


def by_value(function: Any) -> Any:
    """Return a function of this module so that it travels itself, not the name of this module."""
    copy = types.FunctionType(function.__code__, sys.modules["__main__"].__dict__, function.__name__)
    copy.__module__ = "__main__"
    return copy
