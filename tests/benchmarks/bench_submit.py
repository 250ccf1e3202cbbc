"""How many durable submits a second the queue takes, beside what the disk and a peer do.

``python tests/benchmarks/bench_submit.py [--jobs N] [--rounds N] [--dir FOLDER]`` prints one table. All is
measured in the same run, on the same disk, in rounds that take turns; of each the best round counts, the one that
other processes disturbed least. "raw" is DuckDB alone: the same rows, prepared beforehand, in one thread.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import tempfile
import time
from pathlib import Path

from huey import SqliteHuey

from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.job import Job
from zbrain_nb.store.database import Database
from zbrain_nb.store.rows import Change, job_row

CALLERS = 1_000


def make_changes(count: int) -> list[Change]:
    changes = []
    for seq in range(count):
        change = Change()
        change.jobs = [job_row(Job(JobSpec(cmd=["true"]), owner="me", org_id="default"), seq + 1)]
        changes.append(change)
    return changes


def raw_single(folder: Path, count: int) -> float:
    """Median seconds of one autocommitted row."""
    database = Database(folder / "raw1.duckdb")
    times = []
    for change in make_changes(count):
        begin = time.perf_counter()
        database._insert(database._segments.layouts["jobs"], change.jobs)
        times.append(time.perf_counter() - begin)
    database.close()
    return statistics.median(times)


def raw_batches(folder: Path, count: int) -> float:
    """Rows a second in batches of CALLERS, prepared beforehand."""
    database = Database(folder / "rawn.duckdb")
    changes = make_changes(count)
    spent = 0.0
    for start in range(0, count, CALLERS):
        batch = changes[start : start + CALLERS]
        begin = time.perf_counter()
        database.append(batch)
        spent += time.perf_counter() - begin
    database.close()
    return count / spent


async def one_caller(folder: Path, count: int) -> float:
    """Median seconds of a submit when nobody else submits."""
    async with JobQueue(Storage(folder / "one.duckdb"), folder / "blobs") as queue:
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            await queue.submit(JobSpec(cmd=["true"]))
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


async def many_callers(folder: Path, count: int) -> tuple[float, float]:
    """Submits a second of CALLERS callers, and their median latency in seconds."""
    async with JobQueue(Storage(folder / "many.duckdb"), folder / "blobs") as queue:
        left = count
        times: list[float] = []

        async def caller() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                begin = time.perf_counter()
                await queue.submit(JobSpec(cmd=["true"]))
                times.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        spent = time.perf_counter() - begin
        assert queue.active_jobs() == len(times)
    return len(times) / spent, statistics.median(times)


async def batches(folder: Path, count: int) -> float:
    """Jobs a second through submit_many, CALLERS in each."""
    async with JobQueue(Storage(folder / "batch.duckdb"), folder / "blobs") as queue:
        begin = time.perf_counter()
        for _ in range(0, count, CALLERS):
            await queue.submit_many([JobSpec(cmd=["true"]) for _ in range(CALLERS)])
        return count / (time.perf_counter() - begin)


def huey_enqueue(folder: Path, count: int) -> tuple[float, float]:
    """Tasks a second and median seconds, each its own durable transaction."""
    huey = SqliteHuey("bench", filename=str(folder / "huey.db"), fsync=True)

    @huey.task()
    def run() -> None:
        pass

    times = []
    for _ in range(count):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return count / sum(times), statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", default=None, help="where the databases lie (the disk is part of the result)")
    options = parser.parse_args()
    few = 300
    results: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        results.setdefault(name, []).append(value)

    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.dir) as name:
            folder = Path(name)
            gc.collect()
            note("raw1", raw_single(folder, few))
            note("one", asyncio.run(one_caller(folder, few)))
            note("rawn", raw_batches(folder, 20_000))
            gc.collect()
            rate, p50 = asyncio.run(many_callers(folder, options.jobs))
            note("many", rate)
            note("many_p50", p50)
            gc.collect()
            note("batch", asyncio.run(batches(folder, options.jobs)))
            rate, p50 = huey_enqueue(folder, 3_000)
            note("huey", rate)
            note("huey_p50", p50)
    slow = {"raw1", "one", "many_p50", "huey_p50"}
    best = {name: (min if name in slow else max)(values) for name, values in results.items()}
    rows = [
        ("raw DuckDB, one row autocommitted", 1 / best["raw1"], best["raw1"], 1 / best["raw1"]),
        ("queue.submit, 1 caller", 1 / best["one"], best["one"], 1 / best["raw1"]),
        (f"raw DuckDB, batches of {CALLERS:,}", best["rawn"], None, best["rawn"]),
        (f"queue.submit, {CALLERS:,} callers", best["many"], best["many_p50"], best["rawn"]),
        (f"queue.submit_many, {CALLERS:,} a batch", best["batch"], None, best["rawn"]),
        ("huey SqliteHuey(fsync=True), 1 caller", best["huey"], best["huey_p50"], best["rawn"]),
    ]
    title = f"durable submits (best of {options.rounds} rounds)"
    print(f"| {title:<42} | {'per second':>10} | {'p50 ms':>8} | of raw |")
    print(f"| {'-' * 42} | {'-' * 10} | {'-' * 8} | ------ |")
    for name, rate, p50, raw in rows:
        latency = f"{p50 * 1e3:8.3f}" if p50 is not None else " " * 8
        print(f"| {name:<42} | {rate:>10,.0f} | {latency} | {rate / raw:5.2f}x |")
    print(
        f"\nsingle submit {best['one'] / best['raw1']:.2f}x the time of a raw row; "
        f"{CALLERS:,} callers {best['many'] / best['huey']:.1f}x huey"
    )


if __name__ == "__main__":
    main()
