"""What notebooks and views ask of a large database: ``python -m tests.benchmarks.bench_lookups``.

Asked is a real host, in a process of its own, over HTTP. "bare" is the least that a request to it costs, and "raw" is
DuckDB alone in this process, looking for the same text in the same lines.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import duckdb

import zbrain_nb
from tests.benchmarks.table import print_table
from tests.conftest import end_everything
from zbrain_nb import Client, Job, JobSpec, JobState, Storage
from zbrain_nb.client.group import GROUP_TAG
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.events import LogStream
from zbrain_nb.notebook.origin import NOTEBOOK_TAG
from zbrain_nb.notebook.runs import MOST
from zbrain_nb.store import waiting
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.rows import Change, folded_row, job_row

NOTEBOOKS = 200
GROUP_SIZE = 100
BATCH = 5_000
ROUNDS = 9
#: On the line nine tenths down the log.
RARE = "NeedLe"


def spec_of(n: int) -> JobSpec:
    return JobSpec(
        code="import numpy as np\nmodel = train(data, rate=rate)\nmodel.score(test)\n" * 5,
        name="train",
        env={f"VARIABLE_{k}": "a value of some length, as paths are" for k in range(20)},
        tags={NOTEBOOK_TAG: f"work/notebook-{n % NOTEBOOKS}.ipynb", GROUP_TAG: f"{n // GROUP_SIZE:032x}"},
    )


async def fill(data: Path, jobs: int, lines: int) -> str:
    """Write ended jobs of many notebooks, the last of them with a long log; return its id."""
    storage = Storage(data)
    for start in range(0, jobs, BATCH):
        change, done = Change(), []
        for n in range(start, min(jobs, start + BATCH)):
            job = Job(spec_of(n), owner="me", org_id="default", state=JobState.SUCCEEDED, attempt=1)
            job.event_seq = storage.next_seq()
            change.jobs.append(job_row(job, job.event_seq))
            done.append(job)
        await storage.commit([change])
        rows = [folded_row(job) for job in done]
        await storage.write(lambda database, rows=rows: database.fold(rows))
    for start in range(0, lines, BATCH):
        change = Change()
        numbers = range(start, min(lines, start + BATCH))
        texts = [f"epoch {n} loss={n * 7919 % 1000 / 1000} rate=0.001 and some words more" for n in numbers]
        if start <= lines * 9 // 10 < start + BATCH:
            texts[lines * 9 // 10 - start] += RARE
        size = sum(map(len, texts))
        streams = [LogStream.STDOUT] * len(texts)
        change.logs.append(Lines(job.id, start, 1, None, storage.next_seq(), streams, [0] * len(texts), texts, size))
        await storage.commit([change])
    folded = str(storage.last_seq)
    await storage.write(lambda database: database.save_meta(waiting.FOLDED_SEQ, folded))
    await storage.close()
    return job.id


def median(client: Client, ask: Callable[[], Awaitable[Any]]) -> float:
    """Return the median time of a request, in milliseconds, after one that warms up."""
    took = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        client.call(ask)
        took.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(took[1:])


def measure_jobs(client: Client) -> list[tuple[str, str, str]]:
    asynchronous = client.asynchronous
    tag = (NOTEBOOK_TAG, "work/notebook-7.ipynb")
    _, seq = client.call(asynchronous.submitted, tag, None, MOST)
    bare = median(client, lambda: asynchronous.transport.get("health", dict[str, Any]))
    rows = [("bare request", f"{bare:,.1f} ms", "")]
    for what, ask in (
        ("before each cell: jobs submitted since", lambda: asynchronous.submitted(tag, seq, MOST)),
        ("once a kernel: the notebook's jobs", lambda: asynchronous.submitted(tag, None, MOST)),
        (f"a group of {GROUP_SIZE} by its tag", lambda: asynchronous.jobs(limit=1000, tag=(GROUP_TAG, f"{7:032x}"))),
    ):
        took = median(client, ask)
        rows.append((what, f"{took:,.1f} ms", f"{took / bare:,.1f} x bare"))
    return rows


async def search(client: Client, job_id: str, text: str, lines: int) -> tuple[float | None, float, int, float]:
    """Return seconds to the first hit and to the end, the number of hits, and the longest request."""
    at, hits, longest, first = 0, 0, 0.0, None
    begun = time.perf_counter()
    while at < lines:
        asked = time.perf_counter()
        params = {"q": text, "from_seq": str(at), "limit": "1000" if hits else "100"}
        page = await client.asynchronous.transport.get(f"jobs/{job_id}/logs", dict[str, Any], params=params)
        longest = max(longest, time.perf_counter() - asked)
        hits, at = hits + len(page["entries"]), page["next_seq"]
        if hits and first is None:
            first = time.perf_counter() - begun
    return first, time.perf_counter() - begun, hits, longest


def measure_search(client: Client, job_id: str, lines: int) -> list[tuple[str, str, str]]:
    raw = duckdb.connect()
    raw.execute(
        "CREATE TABLE lines AS SELECT 'epoch ' || range || ' loss=' || (range * 7919 % 1000 / 1000) "
        "|| ' rate=0.001 and some words more' AS line FROM range(?)",
        [lines],
    )
    rows = []
    for text in (RARE.lower(), f"epoch {lines // 100}", "nowhere"):
        begun = time.perf_counter()
        raw.execute("SELECT count(*) FROM lines WHERE contains(lower(line), ?)", [text]).fetchall()
        alone = time.perf_counter() - begun
        first, whole, hits, longest = client.call(search, client, job_id, text, lines)
        to_first = "" if first is None else f"first {first * 1e3:,.0f} ms, "
        rows.append(
            (
                f"log of {lines:,} lines, {text!r}: {hits:,} hits",
                f"{to_first}all {whole * 1e3:,.0f} ms",
                f"{whole / alone:,.1f} x raw; a request {longest * 1e3:,.0f} ms at most",
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--lines", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        os.environ["ZDB_DATA"] = str(root)
        job_id = asyncio.run(fill(DataDir(root).root, args.jobs, args.lines))
        client = zbrain_nb.connect()
        try:
            rows = measure_jobs(client) + measure_search(client, job_id, args.lines)
        finally:
            client.close()
            end_everything(root)
    print_table(f"Looked up among {args.jobs:,} jobs", ("what", "took", "beside"), rows)


if __name__ == "__main__":
    main()
