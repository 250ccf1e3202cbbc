"""Chatty jobs, unknown kernels, a worker that fails at a run, and one whose host is gone."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.worker.conftest import Station, eventually
from tests.unit.worker.memory_link import MemoryLink
from zbrain_nb.model.datadir import is_locked
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, LogStream
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.model.logs import configure_logging
from zbrain_nb.model.protocol import EventBatch, EventBatchAnswer, Lease
from zbrain_nb.worker.agent import WorkerAgent
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.folder import WorkerFolder
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.preparing import Preparer
from zbrain_nb.worker.runs import Run, Runs
from zbrain_nb.worker.sender import BATCH_BYTES, Sender
from zbrain_nb.worker.spool import Frame, Kind

pytestmark = pytest.mark.anyio


async def test_end_of_a_canceled_chatty_job_does_not_wait_for_its_log(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes_batches = asyncio.Event()
    original = MemoryLink.send_events

    async def send_events(self: MemoryLink, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        await takes_batches.wait()
        return await original(self, worker_id, batch)

    monkeypatch.setattr(MemoryLink, "send_events", send_events)
    job = station.submit("yes")
    spool = station.folder.spool_path(job.job.id, 1)
    await eventually(lambda: spool.exists() and spool.stat().st_size > 50_000_000)
    station.queue.cancel(job)
    await eventually(lambda: not is_locked(spool))
    takes_batches.set()
    await station.until(lambda: job.ended)
    assert isinstance(job.ending, JobCanceled)
    marks = job.lines(LogStream.SYSTEM)
    assert marks[0].startswith("The job was canceled: from here on")
    assert marks[-1].endswith("left out here.")
    assert set(job.lines()[:-1]) == {"y"}


async def test_chatty_runs_leave_room_for_the_others_in_every_batch(idle_station: Station) -> None:
    sender = Sender(MemoryLink(idle_station.queue), cast("Runs", None), asyncio.Event(), "w")
    runs = [Run(name, 1, None, Delivery(name, 1, "w")) for name in ("chatty", "chatty too", "quiet")]
    for run in runs:
        for _ in range(1 if run.job_id == "quiet" else 40):
            run.delivery.feed(Frame(Kind.STDOUT, 1.0, b"hi\n" if run.job_id == "quiet" else b"y\n" * 32768))
    for _ in runs:
        assert "quiet" in {event.job_id for event in sender._gather(runs, BATCH_BYTES)}
    assert len(sender._gather(runs, 1)) == 1  # one that spoils a batch is found so


async def test_long_log_of_a_job_that_ends_by_itself_is_whole(station: Station) -> None:
    job = await station.run("seq", "-f", "%0200.0f", "100000")
    assert isinstance(job.ending, JobCompleted)
    assert job.lines() == [f"{i:0200}" for i in range(1, 100001)]


async def test_unknown_kernel_fails_the_attempt_for_good(station: Station) -> None:
    job = await station.run(code="1", kernel="nosuchkernel")
    assert isinstance(job.ending, JobFailed)
    assert job.ending.final
    assert job.ending.reason.startswith("On the worker: There is no kernel 'nosuchkernel'. Those that exist: ")


async def test_kernel_that_jupyter_reads_as_its_own_python_is_the_workers(
    station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    folder = tmp_path / "kernels" / "bare"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text('{"argv": ["python", "-f"], "display_name": "x", "language": "python"}')
    preparer = Preparer(WorkerFolder(tmp_path / "worker"), None)
    for kernel, python in (("bare", sys.executable), ("/some/python", "/some/python")):
        request = await preparer.prepare(Lease(Job(JobSpec(code="1", kernel=kernel))))
        assert (request.python, request.kernel) == (python, None)


async def test_worker_that_fails_at_a_run_again_and_again_ends_it(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbrain_nb.worker.runs._FIRST_PAUSE_SECS", 0.001)
    tries = []

    async def fail(self: Runs, run: Run) -> None:
        tries.append(run.key)
        raise RuntimeError("no luck")

    monkeypatch.setattr(Runs, "_follow", fail)
    job = station.submit("sleep", "0.3")
    await station.until(lambda: job.ended, 40)
    assert isinstance(job.ending, JobFailed)
    assert job.ending.reason == "Its worker failed at it 7 times, the last time with RuntimeError: no luck"
    assert len(tries) == 7
    await eventually(lambda: not station.files(job))


async def test_worker_without_runs_ends_when_its_host_is_gone_for_long(
    idle_station: Station, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zbrain_nb.worker.agent._HOST_CHECK_SECS", 0.02)
    caplog.set_level(logging.INFO, logger="zbrain_nb.worker.agent")
    agent = WorkerAgent(
        MemoryLink(idle_station.queue),
        idle_station.folder,
        concurrency=1,
        linger_secs=1,
        warm=False,
        host_gone_secs=0.5,
    )
    task = asyncio.create_task(agent.run())
    job = await idle_station.run("true")
    await eventually(lambda: not idle_station.files(job))
    await asyncio.sleep(0.8)
    assert not task.done()  # idle, but its host is there
    running = idle_station.submit("sleep", "1000")
    await idle_station.until(lambda: running.high > 0)
    idle_station.queue.away = True
    idle_station.queue.poke()
    await asyncio.sleep(0.8)
    assert not task.done()  # its host is gone, but a job runs
    idle_station.queue.away = False
    idle_station.queue.cancel(running)
    await idle_station.until(lambda: running.ended)
    await eventually(lambda: not idle_station.files(running))
    idle_station.queue.away = True
    idle_station.queue.poke()
    await asyncio.wait_for(task, 15)
    assert "worker ends, for its host is gone" in caplog.messages


def test_log_lines_carry_their_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, Any] = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **fields: taken.update(fields))
    configure_logging("worker", logging.WARNING)
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "said", "job": "j1"})
    assert taken["level"] == logging.WARNING
    assert taken["handlers"][0].format(record).endswith(" worker INFO n: said job=j1")


async def test_input_that_many_jobs_read_at_once_comes_once(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path / "worker")
    folder.blobs.mkdir(parents=True, exist_ok=True)
    fetched: list[str] = []

    class SlowLink:
        async def fetch_input(self, job_id: str, attempt: int, name: str, sha256: str, target: Path) -> None:
            fetched.append(sha256)
            await asyncio.sleep(0)
            target.write_bytes(b"call")

        def way_back(self) -> dict[str, str]:
            return {}

    preparer = Preparer(folder, cast("Link", SlowLink()))
    leases = [Lease(Job(JobSpec(function=digit * 64, kernel=sys.executable))) for digit in "aaab"]
    requests = await asyncio.gather(*map(preparer.prepare, leases))
    assert sorted(fetched) == ["a" * 64, "b" * 64]
    assert {request.function for request in requests} == {str(folder.blobs / (digit * 64)) for digit in "ab"}
