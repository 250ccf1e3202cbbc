"""A job that prints a gigabyte: what host, worker and supervisor grow by, and how long it takes beside ``> file``.

``python -m tests.benchmarks.bench_flood [--mib N]`` prints one table. One job prints lines of 100 bytes, one a single
line that never ends, each with a subscriber to its events connected, and each ends with an exit code of its own. The
log is capped (128 MiB by default, 8 MiB in a third round); the mark that says so has to be there, and the last line
too. "of > file" compares with the same program writing to a file.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zbrain_nb
from tests.benchmarks.bench_functions import served
from tests.benchmarks.loads import Load
from tests.benchmarks.memory import Peaks
from tests.benchmarks.table import print_table
from zbrain_nb import JobFailedError
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.hosting import find_host

EXIT_CODE = 3
_FLOOD = """
import os, sys
unit = {unit}
block = unit * ((1 << 20) // len(unit))
left = {mib} << 20
while left > 0:
    left -= os.write(1, block)
os.write(1, b"\\nthe last line\\n")
sys.exit({code})
"""
UNITS = {"lines of 100 bytes": b"x" * 99 + b"\n", "one endless line": b"x"}


def program(unit: bytes, mib: int) -> list[str]:
    return [sys.executable, "-c", _FLOOD.format(unit=unit, mib=mib, code=EXIT_CODE)]


def raw_secs(folder: Path, unit: bytes, mib: int) -> float:
    """Return how long the program takes when it writes to a file."""
    begun = time.perf_counter()
    with (folder / "raw").open("wb") as file:
        assert subprocess.run(program(unit, mib), stdout=file, check=False).returncode == EXIT_CODE
    secs = time.perf_counter() - begun
    (folder / "raw").unlink()
    return secs


def flood(folder: Path, unit: bytes, mib: int, log_mb: float | None) -> tuple[float, dict[str, float], int, int]:
    """Return seconds, growth of memory by process, kept MiB of log, and lines that the subscriber got."""
    with served(folder) as client:
        client.submit(["echo", "warm"]).result(timeout=60)
        owner = find_host(DataDir(folder / "data"))
        assert owner is not None
        gate = folder / "gate"
        words = ["sh", "-c", f'until [ -e "{gate}" ]; do sleep 0.01; done; exec "$@"', "sh", *program(unit, mib)]
        job = client.submit(words, limits={} if log_mb is None else {"log_mb": log_mb})
        follower = Load(
            "follow", url=owner.url, token=owner.token, topics=[f"jobs/{job.id}"], upto=1 << 40, timed=False
        )
        assert follower.process.stdout is not None
        assert follower.process.stdout.readline() == "ready\n"
        peaks = Peaks(folder)
        peaks.watch()
        begun = time.perf_counter()
        gate.touch()
        with contextlib.suppress(JobFailedError):
            job.result(timeout=300)
        secs = time.perf_counter() - begun
        growth = peaks.growth_mib()
        assert job.refresh().job.exit_code == EXIT_CODE
        kept = check_log(job)
        seen = follower.result()["lines"]
    return secs, growth, kept >> 20, seen


def check_log(job: zbrain_nb.JobHandle) -> int:
    """Return the size of the kept log; it has a mark, and its last line is the program's."""
    size, marks, last = 0, [], ""
    for entry in job.logs():
        size += len(entry.line) + 1
        if entry.stream == "system":
            marks.append(entry.line)
        else:
            last = entry.line
    assert any("only its last lines are kept" in mark or "was dropped" in mark for mark in marks), marks
    assert any("left out" in mark or "dropped" in mark for mark in marks), marks
    assert last == "the last line", last[:100]
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--round", type=int, choices=(0, 1, 2), help="only this one")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    rounds: list[tuple[str, bytes, float | None]] = [(what, unit, None) for what, unit in UNITS.items()]
    rounds.append(("lines of 100 bytes, log_mb=8", UNITS["lines of 100 bytes"], 8.0))
    for what, unit, log_mb in rounds if options.round is None else [rounds[options.round]]:
        with tempfile.TemporaryDirectory() as name:
            raw = raw_secs(Path(name), unit, options.mib)
            secs, growth, kept, seen = flood(Path(name), unit, options.mib, log_mb)
        print(f"{what}: {secs:.1f} s, {growth}, {kept} MiB, {seen:,} lines", file=sys.stderr, flush=True)
        figures = [f"{growth[who]:.0f}" for who in ("host", "worker", "supervisor")]
        rows.append((what, f"{secs:.1f}", f"{secs / raw:.1f}x", *figures, f"{kept}", f"{seen:,}"))
    columns = ("1 GiB of" if options.mib == 1024 else f"{options.mib} MiB of", "s", "of > file")
    memory = ("host MiB more", "worker MiB more", "supervisor MiB", "log kept MiB", "lines to subscriber")
    print_table("a flood of output", (*columns, *memory), rows)


if __name__ == "__main__":
    main()
