"""A million waiting jobs: how soon a submit is leased, how much memory it takes, how soon the queue opens again.

``python -m tests.benchmarks.bench_ready [--pending N] [--orgs N] [--leases N]``. The same is measured with 1,000
waiting jobs. The process that submitted them ends like a killed one, so the queue opens with a log to replay. While
submits are timed, a second worker takes waiting jobs of all orgs, so that windows are filled from the store, and a
submit of 100 jobs of 2 kB comes 20 times a second, so that checkpoints fall into the time.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.table import print_table
from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.protocol import LeaseRequest, WorkerInfo

BATCH = 1_000
SLOTS = 16


def rss_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


async def fill(folder: Path, pending: int, orgs: int) -> dict[str, float]:
    """Submit the waiting jobs; return the rate, and the memory that it took."""
    queue = await JobQueue(Storage(folder), folder / "blobs").open()
    begun = time.perf_counter()
    for start in range(0, pending, BATCH):
        await queue.submit_many([JobSpec(cmd=["true"], org_id=f"org{(start + n) % orgs}") for n in range(BATCH)])
    spent = time.perf_counter() - begun
    assert queue.active_jobs() == pending
    return {"submits": pending / spent, "submit_mb": rss_mb()}


async def measure(folder: Path, leases: int) -> dict[str, float]:
    """Open, and time submits until a long poll that waits for them answers."""
    before = rss_mb()
    begun = time.perf_counter()
    queue = await JobQueue(Storage(folder), folder / "blobs").open()
    opened = time.perf_counter() - begun
    opened_mb = rss_mb()
    await queue.register_worker(WorkerInfo(id="fresh", kind="fresh"))
    await queue.register_worker(WorkerInfo(id="all"))
    stopping = asyncio.Event()

    async def take_all() -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            await queue.lease("all", LeaseRequest(request_id=str(number), limit=16, wait_secs=1))
            await asyncio.sleep(0.02)

    async def submit_batches() -> None:
        while not stopping.is_set():
            await queue.submit_many([JobSpec(cmd=["true"], org_id="org0", env={"X": "x" * 2000}) for _ in range(100)])
            await asyncio.sleep(0.05)

    others = [asyncio.ensure_future(take_all()), asyncio.ensure_future(submit_batches())]
    times = []
    for number in range(leases):
        waiting = asyncio.ensure_future(queue.lease("fresh", LeaseRequest(request_id=f"f{number}", wait_secs=30)))
        await asyncio.sleep(0.004)
        begun = time.perf_counter()
        await queue.submit(JobSpec(cmd=["true"], org_id="org1", worker="fresh"))
        answer = await waiting
        times.append(time.perf_counter() - begun)
        assert len(answer.leases) == 1
    stopping.set()
    await asyncio.gather(*others)
    most_mb = rss_mb()
    await queue.close()
    times.sort()
    return {
        "open": opened,
        "before_mb": before,
        "opened_mb": opened_mb,
        "most_mb": most_mb,
        "p50": times[len(times) // 2],
        "p99": times[int(len(times) * 0.99)],
        "max": times[-1],
    }


async def take_turns(folder: Path) -> dict[str, float]:
    """Return after how many turnovers of the slots ten jobs of a new org had all started."""
    async with JobQueue(Storage(folder), folder / "blobs") as queue:
        await queue.register_worker(WorkerInfo(id="all"))
        few = set(await queue.submit_many([JobSpec(cmd=["true"], org_id="few") for _ in range(10)]))
        turnovers = 0
        while few:
            turnovers += 1
            request = LeaseRequest(request_id=f"t{turnovers}", limit=SLOTS, wait_secs=5)
            few -= {lease.job.id for lease in (await queue.lease("all", request)).leases}
        return {"turnovers": turnovers}


def _apart(send: Any, work: Any, arguments: tuple[Any, ...]) -> None:
    send.send(asyncio.run(work(*arguments)))
    send.close()
    os._exit(0)  # like a kill: what was not closed is found as it lies


def apart(work: Any, *arguments: Any) -> dict[str, float]:
    """Run `work` in a fresh process, so that its memory is its own."""
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_apart, args=(send, work, arguments))
    process.start()
    send.close()
    found: dict[str, float] = receive.recv()
    process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--orgs", type=int, default=20)
    parser.add_argument("--leases", type=int, default=1_000)
    options = parser.parse_args()
    rows, found = [], []
    for pending in (BATCH, options.pending):
        with tempfile.TemporaryDirectory() as name:
            filled = apart(fill, Path(name), pending, options.orgs)
            result = filled | apart(measure, Path(name), options.leases)
            turns = apart(fill, Path(name) / "two", pending, 1) and apart(take_turns, Path(name) / "two")
        found.append(result)
        rows.append(
            (
                f"{pending:,}",
                *(f"{result[name] * 1e3:.2f}" for name in ("p50", "p99", "max")),
                f"{result['open']:.2f}",
                *(f"{result[name]:.0f}" for name in ("before_mb", "opened_mb", "most_mb", "submit_mb")),
                f"{result['submits']:,.0f}",
            )
        )
    columns = (
        "waiting", "p50 ms", "p99 ms", "max ms", "open s", "MB new", "opened", "at work", "submitted", "submits/s",
    )  # fmt: skip
    print_table("submit to lease by long poll", columns, rows)
    print(
        f"{options.pending:,} jobs of one org against 10 of another, {SLOTS} slots: "
        f"the ten had started within {turns['turnovers']:.0f} turnovers"
    )
    print(f"p50 with {options.pending:,} waiting: {found[1]['p50'] / found[0]['p50']:.2f}x that with {BATCH:,}")


if __name__ == "__main__":
    main()
