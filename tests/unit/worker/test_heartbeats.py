"""Heartbeats come from their own timer; a spawner that hangs is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from tests.unit.worker.conftest import Station, eventually
from tests.unit.worker.memory_link import MemoryLink
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.model.protocol import EventBatch, EventBatchAnswer, HeartbeatAnswer, HeartbeatRequest
from zbrain_nb.worker import starting

pytestmark = pytest.mark.anyio


async def test_heartbeats_keep_their_pace_while_events_and_a_beat_are_stuck(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert station.agent is not None
    ttl_secs = 1.0
    registered = station.agent._registered
    await eventually(registered.is_set)  # which sets the pace of the queue
    station.agent._heart.set_pace(ttl_secs)
    beats: list[float] = []
    original = MemoryLink.heartbeat

    async def heartbeat(self: MemoryLink, worker_id: str, request: HeartbeatRequest) -> HeartbeatAnswer:
        if not request.attempts:
            return await original(self, worker_id, request)
        beats.append(time.monotonic())
        if len(beats) == 2:
            await asyncio.sleep(3600)  # a beat that is never answered
        return await original(self, worker_id, request)

    async def send_events(self: MemoryLink, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        await asyncio.sleep(3600)
        raise AssertionError

    monkeypatch.setattr(MemoryLink, "heartbeat", heartbeat)
    monkeypatch.setattr(MemoryLink, "send_events", send_events)
    job = station.submit("yes")
    await eventually(lambda: len(beats) >= 12)
    monkeypatch.undo()
    station.queue.cancel(job)
    # at least four in any lease time, told by their number alone: the first eight may not take two lease times
    assert beats[7] - beats[0] < 2 * ttl_secs


async def test_stopped_spawner_is_replaced_and_running_jobs_go_on(
    station: Station, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(starting, "_SILENT_SECS", 0.6)
    monkeypatch.setattr(starting, "_ASK_SECS", 0.2)
    running = station.submit("sh", "-c", "echo up; sleep 2; echo still here")
    await station.until(lambda: running.lines() == ["up"])
    first = station.spawner
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    second = await station.run("echo", "next")
    assert isinstance(second.ending, JobCompleted)
    assert "spawner does not answer and is replaced" in caplog.text
    assert station.spawner not in (None, first)
    await station.until(lambda: running.ended)
    assert isinstance(running.ending, JobCompleted)
    assert running.lines() == ["up", "still here"]


async def test_spawner_that_is_busy_with_a_slow_start_is_not_replaced(
    station: Station, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A zygote takes its time to start; its spawner answers meanwhile."""
    await station.run("true")
    monkeypatch.setattr(starting, "_SILENT_SECS", 0.5)
    monkeypatch.setattr(starting, "_ASK_SECS", 0.05)
    spawner = station.spawner
    cell = await station.run(code="6 * 7")
    assert isinstance(cell.ending, JobCompleted)
    assert station.spawner == spawner
    assert "replaced" not in caplog.text
