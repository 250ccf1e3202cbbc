"""Many people connected and idle, beside few: the host's memory, and how long a submit takes one of them.

``python -m tests.benchmarks.bench_users [--hub] [--few N] [--many N] [--submits N]``. Each has a token, an org and a
socket of their own; with ``--hub`` they are people of a JupyterHub, and the host is its service. The ways there and
back of ``GET health`` in between tell how much of a change is the machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from websockets.asyncio.client import connect

from tests.benchmarks.bench_http import Caller, start_host
from tests.benchmarks.memory import resident_kib
from tests.benchmarks.table import print_table
from tests.conftest import end_everything
from tests.hub.hub import Hub
from zbrain_nb.model.datadir import DataDir, Owner

JOB = json.dumps({"cmd": ["true"]}).encode()


class Figures(NamedTuple):
    """What was measured with so many people there."""

    people: int
    rss_kib: int
    submit_p50: float
    submit_p99: float
    health_p50: float


def make_tokens(owner: Owner, count: int) -> list[str]:
    """Return the secrets of so many people, each alone in an org."""
    call = Caller(owner)
    secrets = []
    for n in range(count):
        body = {"owner": f"user-{n}", "roles": {f"~user-{n}": "submitter"}, "label": "bench"}
        secrets.append(json.loads(call("POST", "tokens", json.dumps(body).encode()))["secret"])
    return secrets


@contextmanager
def host_of(folder: Path, people: int) -> Iterator[tuple[Owner, list[str]]]:
    """Start a host; yield where it is, and the secrets of so many people."""
    try:
        owner = start_host(folder)
        yield owner, make_tokens(owner, people)
    finally:
        end_everything(folder)


@contextmanager
def service_of(folder: Path, people: int) -> Iterator[tuple[Owner, list[str]]]:
    """Start a JupyterHub; yield where its service is, and Hub tokens of so many people."""
    folder.mkdir()
    hub = Hub(folder)
    try:
        hub.start(brisk=False)
        names = [f"user-{n}" for n in range(people)]
        for start in range(0, people, 100):
            hub.api.post("users", json={"usernames": names[start : start + 100]}).raise_for_status()
        owner = DataDir(hub.data).read_owner()
        assert owner is not None
        yield msgspec.structs.replace(owner, url=hub.service_url), [hub.token_of(name) for name in names]
    finally:
        hub.stop()


def percentiles(call: Callable[[], object], count: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of the seconds of `call`."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times), statistics.quantiles(times, n=100)[-1]


async def measure(owner: Owner, secrets: list[str], submits: int) -> Figures:
    """Let everybody follow the events of their org, and one of them submit."""
    address = f"ws{owner.url.removeprefix('http')}zbrain/api/events"
    call = Caller(msgspec.structs.replace(owner, token=secrets[0]))
    async with AsyncExitStack() as sockets:
        for n, secret in enumerate(secrets):
            headers = {"Authorization": f"token {secret}"}
            socket = connect(
                f"{address}?topics=orgs/~user-{n}", additional_headers=headers, compression=None, proxy=None
            )
            await sockets.enter_async_context(socket)
        await asyncio.to_thread(percentiles, lambda: call("POST", "jobs", JOB), submits // 4)
        health, _ = await asyncio.to_thread(percentiles, lambda: call("GET", "health"), submits)
        p50, p99 = await asyncio.to_thread(percentiles, lambda: call("POST", "jobs", JOB), submits)
        return Figures(len(secrets), resident_kib(owner.pid), p50, p99, health)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hub", action="store_true", help="the service of a JupyterHub (needs its proxy)")
    parser.add_argument("--few", type=int, default=5)
    parser.add_argument("--many", type=int, default=500)
    parser.add_argument("--submits", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        begin = service_of if options.hub else host_of
        with begin(Path(name) / "data", options.many) as (owner, secrets):
            asyncio.run(measure(owner, secrets[: options.few], options.submits))  # what the first submits leave behind
            found = [
                asyncio.run(measure(owner, secrets[:count], options.submits)) for count in (options.few, options.many)
            ]
    few, many = found
    per_socket = (many.rss_kib - few.rss_kib) / (many.people - few.people)
    print_table(
        f"people connected and idle; {per_socket:.1f} KiB a socket",
        ("connected", "host MiB", "submit p50 ms", "p99 ms", "health p50 ms", "memory", "p50", "p99"),
        [
            (
                f"{one.people:,}",
                f"{one.rss_kib / 1024:.0f}",
                f"{one.submit_p50 * 1e3:.2f}",
                f"{one.submit_p99 * 1e3:.2f}",
                f"{one.health_p50 * 1e3:.2f}",
                f"{one.rss_kib / few.rss_kib:.2f}x",
                f"{one.submit_p50 / few.submit_p50:.2f}x",
                f"{one.submit_p99 / few.submit_p99:.2f}x",
            )
            for one in found
        ],
    )


if __name__ == "__main__":
    main()
