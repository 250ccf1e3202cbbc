"""Functions end to end a second on two processes, from the submit to the durable end; beside huey and dask.

``python -m tests.benchmarks.bench_functions [--calls N] [--rounds N]`` prints one table. The host is a process of its
own on a fresh data directory, with a worker (``zbrain worker``) of two slots. This process submits through the client,
`BATCH` specs a request, while the worker works; the clock runs from before the first submit until the host counts the
last as ended. huey's two consumer processes work while its tasks are enqueued, one transaction each, as it does it;
nothing of it is a process of its own for each call either. dask.distributed has two worker processes of one thread, and
writes nothing to disk. "square" calls return a number, which is kept; each of its calls is a blob of its own, shipped
before the clock runs. Of each the best round counts. dask is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zbrain_nb
from tests.benchmarks.bench_lives import huey_lives
from tests.benchmarks.table import print_table
from tests.conftest import end_everything
from zbrain_nb import JobSpec
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.hosting import find_host
from zbrain_nb.model.payload import pack_call

SLOTS = 2
BATCH = 500
_ENDED = re.compile(r'^zbrain_jobs_ended_total\{state="(\w+)"\} (\S+)$', re.MULTILINE)


def nothing() -> None:
    """Do nothing."""


def square(number: int) -> int:
    """Return something to keep."""
    return number * number


@contextlib.contextmanager
def served(folder: Path, slots: int = SLOTS) -> Iterator[zbrain_nb.Client]:
    """Run a host and a worker of `slots` on a fresh data directory; give a client."""
    data = DataDir(folder / "data")
    quiet = os.environ | {"ZWORKER_MODE": "none"}
    host = subprocess.Popen([sys.executable, "-m", "zbrain_nb.server", "--data", str(data.root)], env=quiet)
    words = [sys.executable, "-m", "zbrain_nb.worker", "--data", str(data.root), "--concurrency", str(slots)]
    worker = None
    try:
        deadline = time.monotonic() + 30
        while (owner := find_host(data)) is None:
            assert time.monotonic() < deadline, "the host does not start"
            time.sleep(0.02)
        worker = subprocess.Popen(words)
        with zbrain_nb.connect(owner.url, owner.token) as client:
            yield client
    finally:
        if worker is not None:
            worker.send_signal(signal.SIGTERM)
            worker.wait(30)
        end_everything(data.root)
        host.wait(30)


def ended(client: zbrain_nb.Client) -> dict[str, int]:
    """Return how many jobs have ended, by state."""
    text = client.call(client.asynchronous.read, "metrics").decode()
    return {state: int(float(number)) for state, number in _ENDED.findall(text)}


def submit(client: zbrain_nb.Client, specs: list[JobSpec]) -> None:
    """Submit specs, a batch a request."""
    for start in range(0, len(specs), BATCH):
        client.submit_many(specs[start : start + BATCH])


def wait(client: zbrain_nb.Client, jobs: int, secs: float = 300) -> None:
    """Return when so many jobs have succeeded."""
    deadline = time.monotonic() + secs
    while (states := ended(client)).get("succeeded", 0) < jobs:
        assert states.keys() <= {"succeeded", "failed", "canceled"}
        assert not states.get("failed"), states
        assert time.monotonic() < deadline, states
        time.sleep(0.1)


def zbrain_calls(calls: int, small: int, *, hold: bool = False) -> tuple[float, float]:
    """Return no-op functions a second, and functions a second that return something."""
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as client:
        put = client.asynchronous.put_blob
        common = {"cwd": name, "kernel": sys.executable}
        no_op = JobSpec(function=client.call(put, pack_call(nothing)), name="nothing", **common)
        digests = [client.call(put, pack_call(square, (number,))) for number in range(small)]
        squares = [JobSpec(function=digest, name="square", **common) for digest in digests]
        submit(client, [no_op] * BATCH)
        wait(client, BATCH)
        if hold:
            input("ready ")
        begin = time.perf_counter()
        submit(client, [no_op] * calls)
        wait(client, BATCH + calls)
        middle = time.perf_counter()
        submit(client, squares)
        wait(client, BATCH + calls + small)
        end = time.perf_counter()
        return calls / (middle - begin), small / (end - middle)


def dask_calls(calls: int) -> float:
    """Return no-op functions a second of dask.distributed: two worker processes, nothing durable."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=SLOTS, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.gather([client.submit(nothing, pure=False) for _ in range(BATCH)])
        begin = time.perf_counter()
        client.gather([client.submit(nothing, pure=False) for _ in range(calls)])
        return calls / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--small", type=int, default=1_000, help="how many calls return something")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    best: dict[str, float] = {}

    def note(name: str, rate: float) -> None:
        print(f"{name}: {rate:,.0f}/s", file=sys.stderr, flush=True)
        best[name] = max(best.get(name, 0.0), rate)

    peers: dict[str, Callable[[], float]] = {}
    if not options.alone:
        peers["huey SqliteHuey(fsync=True)"] = lambda: huey_lives(options.calls // 2)
        with contextlib.suppress(ImportError):
            import distributed  # noqa: F401

            peers["dask.distributed (nothing durable)"] = lambda: dask_calls(options.calls // 4)
    for _ in range(options.rounds):
        for name, measure in peers.items():
            note(name, measure())
        no_op, small = zbrain_calls(options.calls, options.small)
        note("zbrain, no-op", no_op)
        note("zbrain, square", small)
    rows = [
        (name, f"{rate:,.0f}", *(f"{rate / best[peer]:.2f}x" if peer in best else "" for peer in peers))
        for name, rate in best.items()
    ]
    columns = ("what", "functions/s", *(f"of {peer.split()[0]}" for peer in peers))
    print_table(f"functions end to end on {SLOTS} processes (best of {options.rounds} rounds)", columns, rows)


if __name__ == "__main__":
    main()
