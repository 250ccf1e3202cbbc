"""A large artifact up and down: MB/s beside ``cp`` and a bare socket, and what the processes grow by.

``python -m tests.benchmarks.bench_artifacts [--mib N]`` prints one table. "up" is from the end of the job's own
process, which has left the file in ``ZBRAIN_ARTIFACTS``, until the job is known to have succeeded: the file is hashed,
sent over HTTP, hashed again, written and synced; the same code serves a worker on another machine. "down" is
``job.artifacts["x"].download(path)``, which writes and checks it; the host reads a blob through before it sends it the
first time, so that there is a second round. Raw are ``cp`` with a sync, SHA-256 alone, and a file sent through a bare
socket by ``sendfile``, written and synced.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zbrain_nb
from tests.benchmarks.bench_functions import served
from tests.benchmarks.memory import Peaks
from tests.benchmarks.table import print_table

MIB = 1 << 20
_WRITE = """
import os, sys, time
block = os.urandom(1 << 20)
with open(os.environ["ZBRAIN_ARTIFACTS"] + "/x", "wb") as file:
    for number in range(int(sys.argv[1])):
        file.write(number.to_bytes(8) + block[8:])
    os.fsync(file.fileno())
print(time.time())
"""


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def raw_copy(source: Path, target: Path) -> None:
    """Copy a file and sync it."""
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, MIB)
        writer.flush()
        os.fsync(writer.fileno())


def raw_hash(source: Path) -> None:
    with source.open("rb") as file:
        hashlib.file_digest(file, "sha256")


def raw_socket(source: Path, target: Path) -> None:
    """Send a file through a loopback connection, and write and sync it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def send() -> None:
        with socket.create_connection(listener.getsockname()) as sender, source.open("rb") as file:
            sender.sendfile(file)

    thread = threading.Thread(target=send)
    thread.start()
    receiver, _ = listener.accept()
    buffer = memoryview(bytearray(MIB))
    with listener, receiver, target.open("wb") as writer:
        while size := receiver.recv_into(buffer):
            writer.write(buffer[:size])
        writer.flush()
        os.fsync(writer.fileno())
    thread.join()


def write_and_keep(client: zbrain_nb.Client, mib: int) -> tuple[zbrain_nb.JobHandle, float]:
    """Run a job that leaves a file; return it, and how long it took from the file's end to the job's."""
    job = client.submit([sys.executable, "-c", _WRITE, str(mib)])
    job.result(timeout=600)
    secs = time.time()
    (entry,) = [entry for entry in job.logs() if entry.stream == "stdout"]
    return job, secs - float(entry.line)


def measure(folder: Path, mib: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return seconds by what was done, and MiB that each process grew by."""
    secs: dict[str, float] = {}
    with served(folder) as client:
        peaks = Peaks(folder)
        peaks.watch()
        job, secs["up"] = write_and_keep(client, mib)
        first, second = folder / "first", folder / "second"
        secs["down, first time"] = timed(lambda: job.artifacts["x"].download(first))
        secs["down again"] = timed(lambda: job.artifacts["x"].download(second))
        second.unlink()
        growth = peaks.growth_mib()
        secs["raw cp and sync"] = timed(lambda: raw_copy(first, second))
        secs["raw SHA-256"] = timed(lambda: raw_hash(first))
        secs["raw socket and sync"] = timed(lambda: raw_socket(first, second))
    return secs, growth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        secs, growth = measure(Path(name), options.mib)
    size = options.mib * MIB / 1e6
    rows = [
        (what, f"{size / spent:,.0f}", *(f"{secs[raw] / spent:.2f}x" for raw in secs if raw.startswith("raw")))
        for what, spent in secs.items()
    ]
    columns = ("what", "MB/s", *(f"of {raw}" for raw in secs if raw.startswith("raw")))
    print_table(f"an artifact of {options.mib} MiB", columns, rows)
    print_table("memory meanwhile", ("process", "MiB more"), [(who, f"{mib:.0f}") for who, mib in growth.items()])


if __name__ == "__main__":
    main()
