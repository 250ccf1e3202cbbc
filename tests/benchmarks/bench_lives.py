"""Whole lives a second of no-op jobs: submit, lease, start and complete, all durable, beside huey and the raw store.

``python -m tests.benchmarks.bench_lives [--jobs N] [--rounds N] [--slots 16,4,1]`` prints one table. The host is a
process of its own on a fresh data directory, its two workers are processes with a `FifoScheduler` over a
`RemoteQueue`, whose `execute` says started and completed and does nothing else. One more process, this one, submits
over HTTP, in batches of `BATCH`, while the workers work: the clock runs from before the first submit until the last
ending is acknowledged. The jobs are such as are run again when they are lost, for only these are leased ahead; huey
loses a task whose consumer dies. Its two consumers work while its tasks are enqueued, one transaction each. "raw" is
DuckDB alone: the rows of the same lives, prepared beforehand, as many in a commit as there are slots. Of each the
best round counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from huey import SqliteHuey

from tests.benchmarks.bench_submit import make_changes
from tests.benchmarks.table import print_table
from tests.conftest import end_everything
from zbrain_nb import FifoScheduler, Job, RemoteQueue
from zbrain_nb.client.locating import locator
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.events import JobCompleted, JobStarted
from zbrain_nb.model.hosting import find_host
from zbrain_nb.store.database import Database

WORKERS = 2
BATCH = 500
_SPAWN = multiprocessing.get_context("spawn")


class Stub:
    """A worker whose jobs take no time."""

    is_over_at_ending = True

    def __init__(self, name: str, ended: Synchronized[int]) -> None:
        self.id = name
        self._ended = ended

    async def execute(self, job: Job, events: Any, cancel: Any) -> None:
        await events.send(JobStarted(job.id, worker_id=self.id))
        await events.send(JobCompleted(job.id))
        self._ended.value += 1

    async def health_check(self) -> bool:
        return True


def work(url: str, token: str, name: str, slots: int, ended: Synchronized[int]) -> None:
    """Run one worker until SIGTERM."""

    async def serve() -> None:
        queue = RemoteQueue.at(url, token, slots=slots)
        scheduler = FifoScheduler(queue, Stub(name, ended), concurrency=slots)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(scheduler.stop()))
        await scheduler.run()
        await queue.close()

    asyncio.run(serve())


@contextlib.contextmanager
def served(folder: Path, profile: str | None) -> Iterator[tuple[str, str]]:
    """Run a host on a fresh data directory; give its address and token."""
    data = DataDir(folder / "data")
    command = [sys.executable, "-m", "zbrain_nb.server", "--data", str(data.root)]
    if profile:
        command = [
            profile,
            "record",
            "-d",
            "600",
            "-r",
            "500",
            "-f",
            "raw",
            "-o",
            str(folder / "host.prof"),
            "--",
            *command,
        ]
    host = subprocess.Popen(command, env=os.environ | {"ZWORKER_MODE": "none"}, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while (owner := find_host(data)) is None:
            assert time.monotonic() < deadline, "the host does not start"
            time.sleep(0.02)
        yield owner.url, owner.token
    finally:
        end_everything(data.root)
        host.wait(30)


async def submit(url: str, token: str, jobs: int) -> None:
    """Submit jobs in batches, one after the other."""
    transport = Transport(locator(url, token))
    batch = [{"cmd": ["true"], "timeout_secs": None, "max_retries": 0, "rerun_if_lost": True} for _ in range(BATCH)]
    for start in range(0, jobs, BATCH):
        await transport.post("jobs", batch[: jobs - start], list[Any])
    await transport.close()


def lives(slots: int, jobs: int, *, profile: str | None = None) -> tuple[float, float]:
    """Return whole lives a second, and submits a second while they lasted."""
    with tempfile.TemporaryDirectory() as name, served(Path(name), profile) as (url, token):
        counts = [_SPAWN.Value("q", 0, lock=False) for _ in range(WORKERS)]
        workers = [
            _SPAWN.Process(target=work, args=(url, token, f"bench-{number}", slots, count))
            for number, count in enumerate(counts)
        ]
        for worker in workers:
            worker.start()
        asyncio.run(submit(url, token, BATCH))
        _wait(lambda: sum(count.value for count in counts) == BATCH)
        if profile:
            print("workers", [worker.pid for worker in workers], flush=True)
        begin = time.perf_counter()
        asyncio.run(submit(url, token, jobs))
        submitted = time.perf_counter()
        _wait(lambda: sum(count.value for count in counts) == jobs + BATCH)
        end = time.perf_counter()
        for worker in workers:
            worker.terminate()
            worker.join(30)
    return jobs / (end - begin), jobs / (submitted - begin)


def _wait(done: Any, secs: float = 120) -> None:
    deadline = time.monotonic() + secs
    while not done():
        assert time.monotonic() < deadline, "not all jobs ended"
        time.sleep(0.002)


def raw(slots: int, jobs: int) -> float:
    """Lives a second of the bare rows: one job and three transitions each, 2 x `slots` lives in a commit."""
    with tempfile.TemporaryDirectory() as name:
        database = Database(Path(name) / "raw.duckdb")
        changes = make_changes(jobs)
        for seq, change in enumerate(changes):
            job_id = change.jobs[0][0]
            change.transitions = [
                (jobs + seq * 3 + step, job_id, "default", 1, kind, 0, '{"state":"running"}', step)
                for step, kind in enumerate(("job_leased", "job_started", "job_completed"))
            ]
        each = WORKERS * slots
        begin = time.perf_counter()
        for start in range(0, jobs, each):
            database.append(changes[start : start + each])
        spent = time.perf_counter() - begin
        database.close()
    return jobs / spent


def _consume(path: str) -> None:
    huey, _ = _tasks(path)
    huey.create_consumer(workers=1, periodic=False, initial_delay=0.001, max_delay=0.005).run()


def _tasks(path: str) -> tuple[SqliteHuey, Any]:
    huey = SqliteHuey("bench", filename=path, fsync=True)

    def nothing() -> None:
        pass

    nothing.__module__ = "bench"  # the same name in every process
    return huey, huey.task()(nothing)


def huey_lives(jobs: int) -> float:
    """Tasks a second that huey takes and runs, with two consumer processes of one worker each."""
    logging.getLogger("huey").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        path = str(Path(name) / "huey.db")
        huey, nothing = _tasks(path)
        consumers = [_SPAWN.Process(target=_consume, args=(path,)) for _ in range(WORKERS)]
        for consumer in consumers:
            consumer.start()
        nothing()
        _wait(lambda: huey.pending_count() == 0)
        begin = time.perf_counter()
        for _ in range(jobs):
            nothing()
        _wait(lambda: huey.pending_count() == 0)
        spent = time.perf_counter() - begin
        for consumer in consumers:
            consumer.terminate()
            consumer.join(30)
    return jobs / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000, help="with 16 slots; fewer with fewer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", default="16,4,1", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--profile", help="path of py-spy: profile the host, print the workers' pids, and no table")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    best: dict[str, float] = {}

    def note(name: str, rate: float) -> None:
        best[name] = max(best.get(name, 0.0), rate)

    for _ in range(options.rounds):
        if not options.profile:
            note("huey", huey_lives(options.jobs // 4))
        for slots in options.slots:
            jobs = options.jobs if slots >= 16 else options.jobs // 2 if slots >= 4 else options.jobs // 4
            rate, submits = lives(slots, jobs, profile=options.profile)
            print(f"{slots} slots: {rate:,.0f} lives/s, submitted at {submits:,.0f}/s", file=sys.stderr, flush=True)
            note(f"{slots}", rate)
            if not options.profile:
                note(f"raw {slots}", raw(slots, jobs))
    if options.profile:
        return
    rows = [
        (
            f"zbrain, {WORKERS} workers with {slots} slots each",
            f"{best[str(slots)]:,.0f}",
            f"{best[str(slots)] / best['huey']:.2f}x",
            f"{best[str(slots)] / best[f'raw {slots}']:.2f}x",
        )
        for slots in options.slots
    ]
    rows.append((f"huey SqliteHuey(fsync=True), {WORKERS} processes", f"{best['huey']:,.0f}", "1.00x", ""))
    title = f"whole lives of no-op jobs (best of {options.rounds} rounds)"
    print_table(title, ("what", "lives/s", "of huey", "of raw rows"), rows)


if __name__ == "__main__":
    main()
