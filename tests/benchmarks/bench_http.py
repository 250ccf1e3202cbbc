"""Submits over HTTP to a host in a process of its own, beside a request that does nothing.

``python -m tests.benchmarks.bench_http [--requests N] [--batches N]``. The caller is `http.client`, in one thread.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import zbrain_nb
from tests.benchmarks.table import print_table
from tests.conftest import end_everything
from zbrain_nb.model.datadir import DataDir, Owner

BATCH = 1_000


class Caller:
    """One keep-alive connection to the host."""

    def __init__(self, owner: Owner) -> None:
        parts = urlsplit(owner.url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
        self._base = parts.path
        self._headers = {"Authorization": f"token {owner.token}", "Content-Type": "application/json"}

    def __call__(self, method: str, path: str, body: bytes | None = None, key: str | None = None) -> bytes:
        headers = self._headers | ({"Idempotency-Key": key} if key else {})
        self._connection.request(method, f"{self._base}zbrain/api/{path}", body, headers)
        answer = self._connection.getresponse()
        data = answer.read()
        assert answer.status in (200, 201), data
        return data


def start_host(folder: Path) -> Owner:
    """Start a host without a worker; return where it is."""
    environ = os.environ | {"ZDB_DATA": str(folder), "ZWORKER_MODE": "none"}
    subprocess.Popen([sys.executable, "-m", "zbrain_nb.server"], env=environ, stderr=subprocess.DEVNULL)
    data = DataDir(folder)
    while (owner := data.read_owner()) is None:
        time.sleep(0.02)
    return owner


def median(call: Callable[[], object], count: int) -> float:
    """Return the median seconds of `call`."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000)
    parser.add_argument("--batches", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        try:
            owner = start_host(folder)
            call = Caller(owner)
            one = json.dumps({"cmd": ["true"]}).encode()
            many = json.dumps([{"cmd": ["true"]}] * BATCH).encode()
            call("POST", "jobs", one)
            idle = median(lambda: call("GET", "health"), options.requests)
            plain = median(lambda: call("POST", "jobs", one), options.requests)
            keyed = median(lambda: call("POST", "jobs", one, uuid.uuid4().hex), options.requests)
            batch = median(lambda: call("POST", "jobs", many), options.batches)
            client = zbrain_nb.connect(url=owner.url, token=owner.token)
            single = median(lambda: client.submit(["true"]), options.requests // 2)
            specs = [zbrain_nb.JobSpec(cmd=["true"]) for _ in range(BATCH)]
            group = median(lambda: client.submit_many(specs), options.batches)
        finally:
            end_everything(folder)
    rows = [
        ("GET health: the way there and back", idle, 1),
        ("POST jobs, one", plain, 1),
        ("POST jobs, one with a new key", keyed, 1),
        (f"POST jobs, {BATCH:,} in a list", batch, BATCH),
        ("Client.submit", single, 1),
        (f"Client.submit_many, {BATCH:,}", group, BATCH),
    ]
    print_table(
        "submits over HTTP, one caller",
        ("what", "p50 ms", "jobs/s", "of the way"),
        [(what, f"{secs * 1e3:.2f}", f"{jobs / secs:,.0f}", f"{secs / idle:.1f}x") for what, secs, jobs in rows],
    )


if __name__ == "__main__":
    main()
