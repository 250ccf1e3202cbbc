"""``python -m tests.benchmarks.kill_rounds --rounds 200``: kill -9 at random, what was lost, how fast it is back."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from tests.benchmarks.table import print_table
from tests.chaos.rounds import run_rounds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="zbrain-kills-") as folder:
        tally = run_rounds(Path(folder), options.rounds, options.seed)
    restarts = sorted(tally.restart_secs)
    print_table(
        f"{tally.rounds} rounds of kill -9, seed {options.seed}",
        ["what", "figure"],
        [
            ["killed", ", ".join(f"{count} {who}" for who, count in sorted(tally.killed.items()))],
            ["hosts that died in a commit / in a checkpoint", f"{tally.dying['a']} / {tally.dying['c']}"],
            ["jobs acknowledged, lost", f"{tally.jobs:,}, 0"],
            ["lines on record; lost, missing, twice", f"{tally.lines:,}; 0, 0, 0"],
            ["start of a host to its answer, p50 / max", f"{statistics.median(restarts):.2f} / {restarts[-1]:.2f} s"],
            ["in all", f"{time.monotonic() - began:.0f} s"],
        ],
    )


if __name__ == "__main__":
    main()
