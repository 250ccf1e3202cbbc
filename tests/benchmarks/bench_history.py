"""What SQL over the history costs: ``python -m tests.benchmarks.bench_history [--jobs N]``.

Asked is a real host, in a process of its own, over HTTP. "raw" is DuckDB alone in this process, the same query over
the same rows. Memory is the host's peak while it streams, over what it held before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

import zbrain_nb
from tests.benchmarks.table import print_table
from tests.conftest import end_everything
from zbrain_nb import Client, Job, JobSpec, JobState, Storage
from zbrain_nb.model.datadir import DataDir, lock_holder
from zbrain_nb.model.history import TABLES, HistoryQuery
from zbrain_nb.store import waiting
from zbrain_nb.store.history import HistoryPages
from zbrain_nb.store.rows import Change, encode, folded_row, job_row

SPEC = JobSpec(
    cmd=["python", "train.py", "--epochs", "10"],
    name="train",
    env={f"VARIABLE_{n}": "a value of some length, as paths are" for n in range(20)},
    tags={"lr": "0.1", "zbrain.notebook": "work/train.ipynb"},
)
QUERY = "select state, count(*) from jobs group by 1"
BATCH = 5_000


async def fill(storage: Storage, count: int) -> None:
    """Write jobs that have run, with all that tells of it."""
    spec = encode(SPEC)
    for start in range(0, count, BATCH):
        change, jobs = Change(), []
        for n in range(start, min(count, start + BATCH)):
            job = Job(SPEC, owner="me", org_id="default")
            job.event_seq = storage.next_seq()
            change.jobs.append(job_row(job, job.event_seq, spec=spec))
            now = round(job.created_at.timestamp() * 1e6)
            ended = {"state": "failed", "failures": 1} if n % 7 == 0 else {"state": "succeeded"}
            for kind, patch in (
                ("job_leased", {"state": "running", "worker_id": f"w{n % 4}"}),
                ("job_started", {}),
                ("job_failed" if n % 7 == 0 else "job_completed", ended | {"exit_code": int(n % 7 == 0)}),
            ):
                job.event_seq = storage.next_seq()
                change.transitions.append(
                    (job.event_seq, job.id, "default", 1, kind, now, encode(patch).decode(), None)
                )
            job.state, job.attempt = JobState(ended["state"]), 1
            jobs.append(job)
        await storage.commit([change])
        rows = [folded_row(job) for job in jobs]
        await storage.write(lambda database, rows=rows: database.fold(rows))
    folded = str(storage.last_seq)
    await storage.write(lambda database: database.save_meta(waiting.FOLDED_SEQ, folded))


async def slowest_step(storage: Storage) -> float:
    """Return how long a reader's thread was busy at once, at most, over all tables: no transaction lasts longer."""
    worst = 0.0
    for table in TABLES:
        pages = HistoryPages(HistoryQuery(table=table), storage.last_seq, "token", None)
        step: Callable[..., bytes | None] = pages.begin
        while True:
            begun = time.perf_counter()
            page = await storage.read(step)
            worst = max(worst, time.perf_counter() - begun)
            if page is None:
                break
            step = pages.next
    return worst


def memory(pid: int, name: str) -> float:
    """Return a field of the process's status, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    found = call()
    return time.perf_counter() - begun, found


def measure(client: Client, pid: int, count: int) -> list[tuple[str, str, str]]:
    rows = []
    before = memory(pid, "VmRSS")
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    raw = duckdb.connect()
    first, _ = timed(lambda: client.sql(QUERY))
    second, found = timed(lambda: client.sql(QUERY))
    assert found["count_star()"].sum() == count
    states = client.sql("select state from jobs")  # noqa: F841 - DuckDB finds it by its name
    raw.execute("CREATE TABLE jobs AS SELECT state FROM states")
    alone, _ = timed(lambda: raw.sql(QUERY).df())
    rows.append((f"{QUERY}: first", f"{first * 1e3:,.0f} ms", f"{first / alone:,.0f} x raw"))
    rows.append(("the same again, nothing new", f"{second * 1e3:,.1f} ms", f"{second / alone:,.1f} x raw"))
    rows.append(("raw DuckDB", f"{alone * 1e3:,.1f} ms", ""))
    client.submit_many([SPEC])
    third, _ = timed(lambda: client.sql(QUERY))
    rows.append(("the same again, one job more", f"{third * 1e3:,.1f} ms", ""))
    for table in TABLES:
        spent, _ = timed(
            lambda table=table: client.call(client.asynchronous.history, HistoryQuery(table=table)).close()
        )
        rows.append((f"stream all of {table}, all columns", f"{spent:,.2f} s", ""))
    grown = memory(pid, "VmHWM") - before
    rows.append(("host's memory, peak over before", f"{grown:,.0f} MiB", f"of {before:,.0f} MiB"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=100_000)
    count = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        os.environ["ZDB_DATA"] = str(root)
        data = DataDir(root)

        async def prepare() -> float:
            storage = Storage(data.root)
            await fill(storage, count)
            slowest = await slowest_step(storage)
            await storage.close()
            return slowest

        slowest = asyncio.run(prepare())
        client = zbrain_nb.connect()
        try:
            pid = lock_holder(data.host_lock)
            assert pid is not None
            rows = measure(client, pid, count)
        finally:
            client.close()
            end_everything(root)
    rows.append(("longest step of a reader", f"{slowest * 1e3:,.0f} ms", "bound: 2,000 ms"))
    print_table(f"History of {count:,} jobs", ("what", "took", "beside"), rows)


if __name__ == "__main__":
    main()
