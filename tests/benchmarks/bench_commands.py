"""No-op commands a second from the submit to the durable end, beside RQ on Redis and beside bare ``posix_spawn``.

``python -m tests.benchmarks.bench_commands [--jobs N] [--rounds N]`` prints one table. The host is a process of its own
on a fresh data directory, with a worker (``zbrain worker``) of two slots; this process submits ``["true"]``, `BATCH`
specs a request, while the worker works, and the clock runs from before the first submit until the host counts the last
as ended. RQ has two workers, which fork for each job, on a Redis that syncs every write (``appendfsync always``): its
jobs run the same command, and, in a second row, do nothing at all; it is left out where there is no ``redis-server``.
The raw limit is two processes that spawn the same program and wait for it, one after the other, and write nothing down.
Of each the best round counts.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.bench_functions import SLOTS, served, submit, wait
from tests.benchmarks.table import print_table
from zbrain_nb import JobSpec

if TYPE_CHECKING:
    from redis import Redis

COMMAND = ["true"]
HAS_REDIS = shutil.which("redis-server") is not None
#: Run before the clock does.
WARM_UP = 100
_SPAWN = multiprocessing.get_context("spawn")


def zbrain_commands(jobs: int, *, hold: bool = False) -> float:
    """Return commands a second."""
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as client:
        spec = JobSpec(cmd=COMMAND, cwd=name)
        submit(client, [spec] * WARM_UP)
        wait(client, WARM_UP)
        if hold:
            input("ready ")
        begin = time.perf_counter()
        submit(client, [spec] * jobs)
        wait(client, WARM_UP + jobs)
        return jobs / (time.perf_counter() - begin)


@contextlib.contextmanager
def redis_served(folder: Path) -> Iterator[Redis]:
    """Run a Redis that syncs every write, reached by a socket in `folder` only."""
    from redis import ConnectionError as RedisAway
    from redis import Redis

    path = folder / "redis.sock"
    words = ["redis-server", "--port", "0", "--unixsocket", str(path), "--dir", str(folder)]
    words += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        with Redis(unix_socket_path=str(path)) as redis:
            deadline = time.monotonic() + 10
            while True:
                with contextlib.suppress(RedisAway):
                    redis.ping()
                    break
                assert time.monotonic() < deadline, "redis-server does not start"
                time.sleep(0.02)
            yield redis
    finally:
        server.terminate()
        server.wait(30)


def rq_jobs(function: str, arguments: tuple[Any, ...], jobs: int) -> float:
    """Return jobs a second of RQ with two workers, which fork for each job."""
    from rq import Queue

    def run_through(jobs: int) -> None:
        ended = queue.finished_job_registry.count + jobs
        queue.enqueue_many([Queue.prepare_data(function, arguments) for _ in range(jobs)])
        deadline = time.monotonic() + 120
        while queue.finished_job_registry.count < ended:
            assert time.monotonic() < deadline, "RQ does not come to an end"
            assert not queue.failed_job_registry.count
            time.sleep(0.02)

    with tempfile.TemporaryDirectory() as name, redis_served(Path(name)) as redis:
        queue = Queue(connection=redis)
        words = [sys.executable, "-m", "rq.cli", "worker", "--quiet", "--url", f"unix://{name}/redis.sock"]
        workers = [subprocess.Popen(words, stderr=subprocess.DEVNULL) for _ in range(SLOTS)]
        try:
            run_through(SLOTS * 4)
            begin = time.perf_counter()
            run_through(jobs)
            return jobs / (time.perf_counter() - begin)
        finally:
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
                worker.wait(30)


def _spawn_often(times: int, gate: Any) -> None:
    program = shutil.which(COMMAND[0]) or COMMAND[0]
    gate.wait()
    for _ in range(times):
        _, status = os.waitpid(os.posix_spawn(program, COMMAND, os.environ), 0)
        assert status == 0


def raw_spawns(jobs: int) -> float:
    """Return programs a second that two bare processes spawn and wait for."""
    gate = _SPAWN.Barrier(SLOTS + 1)
    spawners = [_SPAWN.Process(target=_spawn_often, args=(jobs // SLOTS, gate)) for _ in range(SLOTS)]
    for spawner in spawners:
        spawner.start()
    gate.wait()
    begin = time.perf_counter()
    for spawner in spawners:
        spawner.join()
    return jobs / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--hold", action="store_true", help="wait for Enter before the clock runs")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    best: dict[str, float] = {}

    def note(name: str, rate: float) -> None:
        print(f"{name}: {rate:,.0f}/s", file=sys.stderr, flush=True)
        best[name] = max(best.get(name, 0.0), rate)

    for _ in range(options.rounds):
        if HAS_REDIS and not options.alone:
            note("RQ, the same command", rq_jobs("subprocess.check_call", (COMMAND,), options.jobs // 8))
            note("RQ, a function that does nothing", rq_jobs("os.getpid", (), options.jobs // 8))
        note("raw posix_spawn", raw_spawns(options.jobs))
        note("zbrain", zbrain_commands(options.jobs, hold=options.hold))
    peers = [name for name in best if name != "zbrain"]
    rows = [(name, f"{rate:,.0f}", *(f"{rate / best[peer]:.2f}x" for peer in peers)) for name, rate in best.items()]
    columns = ("what", "commands/s", *(f"of {peer}" for peer in peers))
    print_table(f"no-op commands end to end on {SLOTS} processes (best of {options.rounds} rounds)", columns, rows)


if __name__ == "__main__":
    main()
