"""What ``--cache`` costs: ``python -m tests.benchmarks.bench_cached [--jobs N]``.

The queue looks a key up among so many ended jobs, each with a key of its own; "by tag" is the same question asked of
the specs, "raw" DuckDB's least answer (one row of the table by its id). "The key" is what the notebook computes of a
cell first: its variables are packed for the job in any case.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from tests.benchmarks.table import print_table
from zbrain_nb import Job, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.environment import travelling_environ
from zbrain_nb.notebook.caching import cache_key, imports_of
from zbrain_nb.notebook.shipping import ship_cell
from zbrain_nb.store import queries, waiting
from zbrain_nb.store.rows import Change, folded_row, job_row

BATCH = 5_000
ROUNDS = 30
CODE = (
    "import numpy, pandas, matplotlib.pyplot as plt\nframe = pandas.DataFrame({'x': numpy.arange(n)})\nplt.plot(frame)"
)


def key_of(number: int) -> str:
    """Return the key of one of the jobs."""
    return hashlib.sha256(str(number).encode()).hexdigest()


async def fill(storage: Storage, count: int) -> list[str]:
    """Write jobs that have succeeded; return their ids."""
    env = {f"VARIABLE_{n}": "a value of some length, as paths are" for n in range(20)}
    ids = []
    for start in range(0, count, BATCH):
        change, jobs = Change(), []
        for number in range(start, min(count, start + BATCH)):
            spec = JobSpec(code=CODE, env=env, tags={"zbrain.print": key_of(number)}, cache_key=key_of(number))
            job = Job(spec, owner="me", org_id="default", state=JobState.SUCCEEDED, attempt=1)
            job.event_seq = storage.next_seq()
            change.jobs.append(job_row(job, job.event_seq))
            jobs.append(job)
            ids.append(job.id)
        await storage.commit([change])
        rows = [folded_row(job) for job in jobs]
        await storage.write(lambda database, rows=rows: database.fold(rows))
    folded = str(storage.last_seq)
    await storage.write(lambda database: database.save_meta(waiting.FOLDED_SEQ, folded))
    return ids


async def timed(ask: Callable[[int], Awaitable[Any]], count: int, rounds: int = ROUNDS) -> float:
    """Return the median of how long an answer takes, in milliseconds."""
    spent = []
    for turn in range(rounds):
        start = time.perf_counter()
        await ask((turn * 7919) % count)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e3


async def look_up(root: Path, count: int) -> list[tuple[str, str]]:
    """Measure the queue."""
    storage = Storage(root)
    ids = await fill(storage, count)
    async with JobQueue(storage, root / "blobs", owner="me") as queue:

        async def hit(number: int) -> None:
            found = await queue.cached_job(key_of(number), owner="me")
            assert found is not None and found.id == ids[number]

        async def miss(number: int) -> None:
            assert await queue.cached_job(key_of(-1 - number), owner="me") is None

        async def by_tag(number: int) -> None:
            assert await queue.list(tag=("zbrain.print", key_of(number)), limit=1)

        async def raw(number: int) -> None:
            assert await storage.read(queries.jobs_by_id, [ids[number]])

        return [
            ("a key that is there", f"{await timed(hit, count):.1f} ms"),
            ("a key that is not", f"{await timed(miss, count):.1f} ms"),
            ("by tag", f"{await timed(by_tag, count, 5):.1f} ms"),
            ("raw: one row by its id", f"{await timed(raw, count):.1f} ms"),
        ]


def compute() -> list[tuple[str, str]]:
    """Measure the notebook."""
    shell = InteractiveShell.instance()
    shell.user_ns["n"] = 10
    spec = JobSpec(code=CODE, env=travelling_environ(), cwd=str(Path.cwd()))
    spent = []
    for _ in range(ROUNDS):
        shipment = ship_cell(shell, CODE)
        start = time.perf_counter()
        cache_key(spec, shipment, imports_of(ast.parse(CODE)))
        spent.append(time.perf_counter() - start)
    return [("the key of a cell with three packages", f"{statistics.median(spent) * 1e3:.1f} ms")]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as root:
        rows = asyncio.run(look_up(Path(root), count))
    print_table(f"--cache among {count:,} jobs", ("what", "median"), [*rows, *compute()])


if __name__ == "__main__":
    main()
