"""Log lines from a worker's request to a follower's socket, and what Jupyter feels of it.

``python -m tests.benchmarks.bench_events [--secs N] [--only lines,delay,jupyter]`` prints one table. Host, workers,
follower, Jupyter and the probe are processes of their own; "raw" is DuckDB alone, the same lines in batches of the
same size. The foreign load beside which Jupyter is measured burns as much of each core as the queue's processes did.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.loads import LINE, Api, Load, lease_jobs
from tests.benchmarks.table import print_table
from tests.jupyter import Lab
from zbrain_nb.model.datadir import DataDir, Owner
from zbrain_nb.model.events import LogStream
from zbrain_nb.store.database import Database
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.rows import Change

RATE = 200_000
LIVES = 3_000
JOBS = 4
ROUNDS = 3
Row = tuple[str, str, str, str]


@contextmanager
def a_host() -> Iterator[tuple[Owner, psutil.Process]]:
    with tempfile.TemporaryDirectory(prefix="zbrain-bench-") as folder:
        data = DataDir(Path(folder) / "data")
        environ = os.environ | {"ZWORKER_MODE": "none"}
        process = subprocess.Popen([sys.executable, "-m", "zbrain_nb.server", "--data", str(data.root)], env=environ)
        try:
            deadline = time.monotonic() + 20
            while (owner := data.read_owner()) is None:
                assert time.monotonic() < deadline, "the host did not start"
                time.sleep(0.05)
            yield owner, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(30)


def raw_lines(batch: int, secs: float) -> float:
    """Lines a second that DuckDB alone takes, prepared beforehand."""
    with tempfile.TemporaryDirectory(prefix="zbrain-bench-") as folder:
        database = Database(Path(folder) / "raw.duckdb")
        texts = (LINE,) * batch
        change = Change()
        job = "01936b1e-0000-7000-8000-000000000000"
        change.logs = [Lines(job, 0, 1, 1, 1, (LogStream.STDOUT,) * batch, [1] * batch, texts, len(LINE) * batch)]
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < secs:
            assert database.append([change]) == [None]
            count += batch
        spent = time.perf_counter() - begun
        database.close()
        return count / spent


def ready(load: Load) -> None:
    """Wait until a follower is connected."""
    assert load.process.stdout is not None
    assert load.process.stdout.readline().strip() == "ready"


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def workers_with_jobs(owner: Owner) -> dict[str, list[str]]:
    api = Api(owner.url, owner.token)
    return {worker: lease_jobs(api, worker, JOBS) for worker in ("one", "two")}


def lines_rows(secs: float) -> list[Row]:
    """200,000 lines a second, and as many as there can be, to one follower."""
    rows = []
    raw = raw_lines(5_000, min(secs, 3))
    for name, rate in ((f"{RATE:,} lines/s asked for", RATE), ("as many as it takes", 10**9)):
        with a_host() as (owner, host):
            jobs = workers_with_jobs(owner)
            topics = [f"jobs/{job}" for ids in jobs.values() for job in ids]
            follower = Load("follow", url=owner.url, token=owner.token, topics=topics, upto=10**12, timed=False, idle=2)
            ready(follower)
            used, begun = cpu(host), time.time()
            sent = Load("lines", url=owner.url, token=owner.token, jobs=jobs, rate=rate, secs=secs).result()
            took = sent["lines"] / sent["secs"]
            got = follower.result()
            share = (cpu(host) - used) / (got["last"] - begun)
            memory = host.memory_info().rss >> 20
            assert got["lines"] == sent["lines"], (got, sent)
            given = got["lines"] / (got["last"] - begun)
            rows += [
                (f"{name}: taken in and committed", f"{took:,.0f} lines/s", f"{took / raw:.2f}x raw", "200,000/s"),
                (
                    f"{name}: delivered",
                    f"{given:,.0f} lines/s",
                    f"{given / raw:.2f}x raw, host {share:.2f} cores, {memory} MB, lagged {got['lagged']}",
                    "200,000/s",
                ),
            ]
    return [("raw DuckDB, batches of 5,000 lines", f"{raw:,.0f} lines/s", "", ""), *rows]


def delay_rows(secs: float) -> list[Row]:
    """From when a line was due to when the follower has it, at 1,000 lines a second."""
    rows = []
    for gather in (0.002, 0.005):
        with a_host() as (owner, host):
            (job,) = lease_jobs(Api(owner.url, owner.token), "one", 1)
            topics, count = [f"jobs/{job}"], int(1000 * secs)
            follower = Load("follow", url=owner.url, token=owner.token, topics=topics, upto=count, timed=True)
            ready(follower)
            used = cpu(host)
            options = {"url": owner.url, "token": owner.token, "worker": "one", "job": job}
            sent = Load("drip", **options, rate=1000, secs=secs, gather=gather).result()
            got = follower.result()
            assert got["lines"] >= count
            figures = " / ".join(f"{got[name] * 1e3:.1f}" for name in ("p50", "p99", "max"))
            per_batch = sent["secs"] / sent["batches"] * 1e3
            share = (cpu(host) - used) / sent["secs"]
            rows.append(
                (
                    f"delay at 1,000 lines/s, worker gathers {gather * 1e3:g} ms: p50 / p99 / max",
                    f"{figures} ms",
                    f"a request each {per_batch:.1f} ms, host {share:.2f} cores",
                    "5 / 10 ms",
                )
            )
    return rows


def jupyter_rows(secs: float) -> list[Row]:
    """What an unrelated request to Jupyter feels, beside an equal foreign load."""
    with tempfile.TemporaryDirectory(prefix="zbrain-bench-") as folder:
        data = DataDir(Path(folder) / "data")
        with Lab(Path(folder) / "root", data.root, app="server", ZWORKER_MODE="none") as lab:
            return _jupyter_rows(lab, data, secs)


def _jupyter_rows(lab: Lab, data: DataDir, secs: float) -> list[Row]:
    relay = Api(lab.url, lab.token)
    relay.post("jobs", {"cmd": ["true"], "worker": "nobody"})  # the extension starts the host
    owner = data.read_owner()
    assert owner is not None
    host = psutil.Process(owner.pid)
    asks = {"url": lab.url, "token": lab.token, "path": "api/status", "every": 0.005}

    def probed() -> dict[str, float]:
        return Load("probe", **asks, secs=secs).result()

    probed()
    idle = probed()
    rows = [("Jupyter, nothing else runs: p50 / p99 / max", _times(idle), "", "")]
    jobs = workers_with_jobs(owner)
    topics = [f"jobs/{job}" for ids in jobs.values() for job in ids]
    about = {"url": owner.url, "token": owner.token}

    def lines_load() -> list[Load]:
        follower = Load("follow", **about, topics=topics, upto=10**12, timed=False, idle=2)
        ready(follower)
        seqs = {worker: sent.get(worker, 0) for worker in jobs}
        return [Load("lines", **about, jobs=jobs, seqs=seqs, rate=RATE, secs=secs + 1), follower]

    def lives_load() -> list[Load]:
        return [Load("lives", **about, rate=LIVES / 4, secs=secs + 1, worker=f"lives-{n}") for n in range(4)]

    sent: dict[str, int] = {}
    for name, begin in ((f"{RATE:,} lines/s", lines_load), (f"{LIVES:,} lives/s", lives_load)):
        felt, foreign, reached, cores = [], [], [], []
        for _ in range(ROUNDS):
            loads = begin()
            time.sleep(0.5)
            watched = [host, *(psutil.Process(load.process.pid) for load in loads)]
            used, begun = [cpu(process) for process in watched], time.perf_counter()
            felt.append(probed())
            spent = time.perf_counter() - begun
            shares = [(cpu(process) - before) / spent for process, before in zip(watched, used, strict=True)]
            done = [load.result() for load in loads]
            sent = done[0].get("seqs", sent)
            reached.append(sum(one.get("lives", 0) for one in done) or done[0].get("lines", 0))
            reached[-1] /= done[0]["secs"]
            cores.append(sum(shares))
            burners = [Load("burn", share=share, secs=secs + 1) for share in shares]
            time.sleep(0.5)
            foreign.append(probed())
            for burner in burners:
                burner.result()
        above = _median(felt)["p99"] - _median(foreign)["p99"]
        rows += [
            (
                f"Jupyter beside {name} (reached {statistics.median(reached):,.0f})",
                _times(_median(felt)),
                f"{statistics.median(cores):.2f} cores",
                "",
            ),
            (
                "Jupyter beside an equal foreign load",
                _times(_median(foreign)),
                f"the queue's p99 is {above * 1e3:+.1f} ms",
                "at most +5 ms",
            ),
        ]
    return rows + _submit_rows(lab, host, asks)


def _submit_rows(lab: Lab, host: psutil.Process, asks: dict[str, Any]) -> list[Row]:
    felt, foreign, took = [], [], []
    for _ in range(ROUNDS):
        submit = Load("submit", url=lab.url, token=lab.token, count=100_000)
        probe = Load("probe", **{**asks, "every": 0.002}, secs=8)
        watched = [host, psutil.Process(submit.process.pid)]
        used, begun = [cpu(process) for process in watched], time.perf_counter()
        felt.append(probe.result())
        spent = time.perf_counter() - begun
        running = [process for process in watched if process.status() != psutil.STATUS_ZOMBIE]
        shares = [(cpu(process) - used[watched.index(process)]) / spent for process in running]
        took.append(submit.result()["secs"])
        burners = [Load("burn", share=share, secs=9) for share in shares]
        time.sleep(0.5)
        foreign.append(Load("probe", **{**asks, "every": 0.002}, secs=8).result())
        for burner in burners:
            burner.result()
    name = "Jupyter while one request submits 100,000 jobs"
    return [
        (name, _times(_median(felt)), f"the request took {statistics.median(took):.1f} s", "max at most 50 ms"),
        ("Jupyter beside an equal foreign load", _times(_median(foreign)), "", ""),
    ]


def _median(felt: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of rounds that took turns, so that what else the machine does hits both sides."""
    return {name: statistics.median(one[name] for one in felt) for name in felt[0]}


def _times(felt: dict[str, float]) -> str:
    return " / ".join(f"{felt[name] * 1e3:.1f}" for name in ("p50", "p99", "max")) + " ms"


PARTS = {"lines": lines_rows, "delay": delay_rows, "jupyter": jupyter_rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secs", type=float, default=8.0, help="how long each load lasts")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    options = parser.parse_args()
    rows = [row for part in options.only.split(",") for row in PARTS[part](options.secs)]
    print_table("events", ("what", "measured", "beside it", "bound"), rows)


if __name__ == "__main__":
    main()
