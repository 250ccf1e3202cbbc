"""``python -m tests.benchmarks.bench_execution [--part NAME]``: how jobs run, in one table, each figure beside its aim.

A row says what was measured, the figure, a peer's or the raw limit's of the same run, their ratio (of rates: ours by
theirs; of times: theirs by ours, so that more is better in both), the aim, and whether it is met. The parts are those
of `bench_cell`, `bench_functions`, `bench_commands`, `bench_artifacts`, `bench_flood` and `kill_trees`, which say how
each figure is taken.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import bench_artifacts, bench_cell, bench_commands, bench_flood, bench_functions, kill_trees
from tests.benchmarks.bench_lives import huey_lives
from tests.benchmarks.table import print_table

GIB = 1024
MIB = 1 << 20


class Row(NamedTuple):
    """One line of the table; without an aim, `is_met` is None."""

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    aim: str = ""
    is_met: bool | None = None

    @classmethod
    def of_rates(cls, what: str, ours: float, peer: str, theirs: float, aim: float | None = None) -> Row:
        """Make a row of rates a second."""
        ratio = ours / theirs
        wanted = "" if aim is None else f"{aim:.2g}x"
        is_met = None if aim is None else ratio >= aim
        return cls(what, f"{ours:,.0f}/s", f"{peer}: {theirs:,.0f}/s", f"{ratio:.2f}x", wanted, is_met)

    @classmethod
    def of_secs(cls, what: str, ours: float, peer: str, theirs: float) -> Row:
        """Make a row of times."""
        return cls(what, f"{ours * 1e3:,.0f} ms", f"{peer}: {theirs * 1e3:,.0f} ms", f"{theirs / ours:.1f}x")

    @classmethod
    def at_most(cls, what: str, ours: float, unit: str, most: float) -> Row:
        """Make a row of something that shall not be more."""
        return cls(what, f"{ours:,.0f} {unit}", aim=f"at most {most:,.0f} {unit}", is_met=ours <= most)


def cells() -> Iterator[Row]:
    """Time from the submit of a cell to its first output, beside papermill."""
    secs = {what: statistics.median(some) for what, some in bench_cell.measure().items()}
    yield Row.of_secs("cell, warm, to first output", secs[bench_cell.WARM], "papermill", secs[bench_cell.IN_PROCESS])
    cold, command = secs[bench_cell.COLD], secs[bench_cell.BY_COMMAND]
    yield Row.of_secs("cell, cold, to first output", cold, "papermill command", command)


def functions() -> Iterator[Row]:
    """No-op functions a second on two processes, beside huey and dask."""
    no_op, _ = bench_functions.zbrain_calls(10_000, 100)
    yield Row.of_rates("functions", no_op, "huey", huey_lives(5_000), 1.0)
    yield Row.of_rates("functions", no_op, "dask", bench_functions.dask_calls(2_500))


def commands() -> Iterator[Row]:
    """No-op commands a second on two slots, beside RQ and bare spawning."""
    ours = bench_commands.zbrain_commands(3_000)
    raw = bench_commands.raw_spawns(3_000)
    yield Row.of_rates("no-op commands", ours, "raw posix_spawn", raw, 1 / 3)
    if not bench_commands.HAS_REDIS:
        return
    same = bench_commands.rq_jobs("subprocess.check_call", (bench_commands.COMMAND,), 150)
    nothing = bench_commands.rq_jobs("os.getpid", (), 150)
    yield Row.of_rates("no-op commands", ours, "RQ, the same command", same, 5.0)
    yield Row.of_rates("no-op commands", ours, "RQ, an empty function", nothing, 5.0)


def artifacts() -> Iterator[Row]:
    """A file of 2 GiB up and down."""
    with tempfile.TemporaryDirectory() as name:
        secs, growth = bench_artifacts.measure(Path(name), 2 * GIB)
    for what in ("up", "down, first time", "down again"):
        for raw in ("raw cp and sync", "raw socket and sync"):
            mb = 2 * GIB * MIB / 1e6
            ratio = f"{secs[raw] / secs[what]:.2f}x"
            yield Row(f"2 GiB artifact {what}", f"{mb / secs[what]:,.0f} MB/s", f"{raw}: {mb / secs[raw]:,.0f}", ratio)
    for who, mib in growth.items():
        yield Row.at_most(f"2 GiB artifact, memory of {who}", mib, "MiB", 50)


def floods() -> Iterator[Row]:
    """A job that prints 1 GiB."""
    for what, unit in bench_flood.UNITS.items():
        with tempfile.TemporaryDirectory() as name:
            raw = bench_flood.raw_secs(Path(name), unit, GIB)
            secs, growth, _, _ = bench_flood.flood(Path(name), unit, GIB, None)
        yield Row.of_secs(f"1 GiB of {what}, to the end", secs, "> file", raw)
        for who in ("host", "worker"):
            yield Row.at_most(f"1 GiB of {what}, memory of {who}", growth[who], "MiB", 50)


def kills() -> Iterator[Row]:
    """200 kills of hostile trees."""
    some = kill_trees.run_kills(200)
    yield Row.at_most(f"processes left by {len(some)} kills", sum(kill.survivors for kill in some), "", 0)
    yield Row.at_most("  still there when the end was told", sum(kill.late for kill in some), "", 0)


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    part.__name__: part for part in (cells, functions, commands, artifacts, floods, kills)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="only this one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = [row for name, part in PARTS.items() if options.part in (None, name) for row in part()]
    words = {None: "", True: "yes", False: "NO"}
    columns = ("what", "zbrain", "peer or raw limit", "ratio", "aim", "met")
    print_table("how jobs run", columns, [(*row[:5], words[row.is_met]) for row in rows])


if __name__ == "__main__":
    main()
