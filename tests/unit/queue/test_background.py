"""What runs in the background is one, ends when it is told to, and is heard when it breaks."""

from __future__ import annotations

import asyncio

import pytest

from zbrain_nb.queue.background import Background

pytestmark = pytest.mark.anyio


async def test_started_twice_runs_once_and_begins_again_after_its_end() -> None:
    runs: asyncio.Queue[None] = asyncio.Queue()
    gate = asyncio.Event()

    async def run() -> None:
        runs.put_nowait(None)
        await gate.wait()

    background = Background(run)
    assert not await background.stop()
    for _ in range(2):
        background.start()
    await runs.get()
    assert await background.stop()
    assert not await background.stop()
    background.start()
    await runs.get()
    assert await background.stop()
    assert runs.empty()


async def test_what_breaks_it_is_logged_once_and_stop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()

    async def run() -> None:
        asyncio.get_running_loop().call_soon(done.set)
        raise ValueError("broken")

    background = Background(run)
    background.start()
    await done.wait()
    assert await background.stop()
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert "broken" in str(record.exc_info[1])
