"""Many waiting views, each asking for its job's place in line every 5 s, beside 100,000 waiting jobs.

``python -m tests.benchmarks.bench_views [--views N] [--waiting N] [--submits N] [--orgs N]``. The views are of as many
people, in one org and each in an org of their own. Told are submits without views and beside them, the longest block of
the host's loop, and how much of one core the views cost. All slots are busy, so that every place is looked for.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.benchmarks.bench_http import Caller
from tests.benchmarks.bench_users import percentiles
from tests.benchmarks.table import print_table
from zbrain_nb import JobSpec
from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.datadir import DataDir, Owner
from zbrain_nb.model.protocol import LeaseRequest, WorkerInfo
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.host import Host

PERIOD_SECS = 5.0
TICK_SECS = 0.001
BATCH = 1_000
JOB = b'{"cmd": ["true"]}'
SPAWN = multiprocessing.get_context("spawn")


class Figures(NamedTuple):
    """Of one round."""

    p50: float
    p99: float
    block_secs: float
    cores: float


async def serve(data: DataDir, people: int, orgs: int, waiting: int, pipe: Connection) -> None:
    """Be the host: tell the ids of the jobs, then, as often as asked, the longest block since and the CPU time."""
    host = Host(data, Settings(data=str(data.root), worker_mode="none"))
    await host.start()
    assert host.context is not None
    queue = host.context.queue
    scopes = {}
    for n in range(people):
        home = f"org-{n % orgs}"
        scopes[f"secret-{n}"] = Principal(owner=f"user-{n}", roles={home: Role.SUBMITTER}, home=home)

    async def find(secret: str) -> Principal | None:
        return scopes.get(secret)

    host.context.identity.finders.append(find)
    await queue.register_worker(WorkerInfo(id="busy", slots=1))
    await queue.submit(JobSpec(cmd=["true"]))
    await queue.lease("busy", LeaseRequest(request_id="r", wait_secs=5))
    ids = []
    for scope in scopes.values():
        each = await queue.submit_many([JobSpec(cmd=["true"])] * (waiting // people), scope=scope)
        ids.append(each[len(each) // 2])
    pipe.send((data.read_owner(), ids))
    blocks = [0.0]

    async def tick() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(TICK_SECS)
            blocks[0] = max(blocks[0], time.perf_counter() - begun - TICK_SECS)

    ticking = asyncio.ensure_future(tick())
    while await asyncio.to_thread(pipe.recv):
        pipe.send((blocks[0], time.process_time()))
        blocks[0] = 0.0
    ticking.cancel()
    await host.stop()


async def look(owner: Owner, ids: list[str], pipe: Connection) -> None:
    """Be the views: each asks for its job, at a time of its own in every period."""
    parts = urlsplit(owner.url)
    reasons: set[str] = set()

    async def view(n: int) -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        request = (
            f"GET /zbrain/api/jobs/{ids[n]} HTTP/1.1\r\nHost: localhost\r\nAuthorization: token secret-{n}\r\n\r\n"
        )
        await asyncio.sleep(PERIOD_SECS * n / len(ids))
        while True:
            asked = time.perf_counter()
            writer.write(request.encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert " 200 " in head, head
            length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length"))
            reasons.add((await reader.readexactly(length)).partition(b'"reason":"')[2].partition(b'"')[0].decode())
            await asyncio.sleep(max(0.0, asked + PERIOD_SECS - time.perf_counter()))

    views = [asyncio.ensure_future(view(n)) for n in range(len(ids))]
    await asyncio.sleep(PERIOD_SECS)
    pipe.send(sorted(reasons)[:1])
    await asyncio.to_thread(pipe.recv)
    for each in views:
        each.cancel()


def _run(work: Any, *arguments: Any) -> None:
    asyncio.run(work(*arguments))


def start(work: Any, *arguments: Any) -> tuple[Any, Connection]:
    """Run `work` in a process of its own; return that, and the way to it."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_run, args=(work, *arguments, theirs), daemon=True)
    process.start()
    return process, ours


def measure(owner: Owner, pipe: Connection, submits: int) -> Figures:
    """Return how submits went, and the host's loop; first, for a period, that without submits."""
    call = Caller(owner)

    def ask() -> tuple[float, float]:
        pipe.send(True)
        told: tuple[float, float] = pipe.recv()
        return told

    ask()
    _, before = ask()
    time.sleep(PERIOD_SECS)
    block, after = ask()
    p50, p99 = percentiles(lambda: call("POST", "jobs", JOB), submits)
    return Figures(p50, p99, max(block, ask()[0]), (after - before) / PERIOD_SECS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, default=300)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--submits", type=int, default=1_000)
    parser.add_argument("--orgs", type=int, help="only with so many")
    options = parser.parse_args()
    rows = []
    for orgs in (1, options.views) if options.orgs is None else (options.orgs,):
        with tempfile.TemporaryDirectory() as name:
            host, pipe = start(serve, DataDir(Path(name) / "data"), options.views, orgs, options.waiting)
            owner, ids = pipe.recv()
            measure(owner, pipe, options.submits)  # what the first submits leave behind
            without = measure(owner, pipe, options.submits)
            views, stop = start(look, owner, ids)
            said = stop.recv()
            beside = measure(owner, pipe, options.submits)
            for process, end in ((views, stop), (host, pipe)):
                end.send(False)
                process.join()
        for what, one in (("no views", without), (f"{options.views:,} views", beside)):
            rows.append(
                (
                    f"{orgs:,}",
                    what,
                    f"{one.p50 * 1e3:.2f}",
                    f"{one.p99 * 1e3:.2f}",
                    f"{one.p50 / without.p50:.2f}x",
                    f"{one.p99 / without.p99:.2f}x",
                    f"{one.block_secs * 1e3:.1f}",
                    f"{one.cores - without.cores:.1%}",
                )
            )
        print(*said)
    columns = ("orgs", "beside", "submit p50 ms", "p99 ms", "p50", "p99", "longest block ms", "of a core")
    print_table(f"views that wait for a place in line, {options.waiting:,} jobs waiting", columns, rows)


if __name__ == "__main__":
    main()
