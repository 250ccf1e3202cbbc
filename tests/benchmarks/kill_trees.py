"""``python -m tests.benchmarks.kill_trees --rounds 200``: hostile process trees, ended in every way; what survives.

A tree has about 20 processes: daemons that double-forked into sessions of their own, some below nested subreapers,
stopped ones, ones that ignore every signal they can, ones that fork again and again and reap nothing, a pair that
replaces each other, ones that exec'd with an empty environment. Each holds a file open, inherited from the first: by
that they are counted, which is nothing that the killers look at. They are counted when the client hears of the job's
end, and again until none is left. `TREES` run at a time.

"own supervisor" is a command that has one for itself, "reused slot" one that runs after brief ones in a slot that is
used again (there the grace time is the default one). "supervisor killed" is SIGKILL to the parent of the command's
process, "foreman killed" to the parent of that. "worker gone" is SIGKILL to a process with a `LocalWorker`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import zbrain_nb
from tests.benchmarks.bench_functions import served
from tests.benchmarks.table import print_table

TREES = 4
GONE_SECS = 20.0
_TREE = """
import ctypes, os, signal, sys, time
marker, ready = sys.argv[1:3]
os.set_inheritable(os.open(marker, os.O_RDWR), True)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
prctl = ctypes.CDLL(None).prctl

def fork_for_ever():
    while True:
        if os.fork() == 0:
            time.sleep(0.05)
            os._exit(0)
        time.sleep(0.1)

def replace_each_other():
    while True:
        other = os.fork()
        if other == 0:
            first = os.getppid()
            while os.getppid() == first:
                time.sleep(0.05)
            continue
        os.waitpid(other, 0)

def daemon(depth):
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if depth % 2:
        prctl(36, 1, 0, 0, 0)
    if depth:
        daemon(depth - 1)
    if depth == 3:
        replace_each_other()
    elif depth == 2:
        fork_for_ever()
    elif depth == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    os.execve("/bin/sleep", ["sleep", "1000"], {})

for _ in range(4):
    daemon(3)
time.sleep(0.2)
open(ready, "w").close()
time.sleep(1000)
"""
_LOCAL_WORKER = """
import asyncio, sys
from zbrain_nb import FifoScheduler, Job, JobQueue, JobSpec, LocalWorker, Storage
async def main():
    async with JobQueue(Storage.in_memory(), sys.argv[1]) as queue:
        for at in range(2, len(sys.argv), 2):
            await queue.submit(JobSpec(cmd=[sys.executable, "-c", TREE, *sys.argv[at : at + 2]]))
        await FifoScheduler(queue, LocalWorker("doomed"), None, concurrency=len(sys.argv)).run()
asyncio.run(main())
""".replace("TREE", repr(_TREE))


class Kill(NamedTuple):
    """One kill: processes there were, there were still when it was reported, and in the end; seconds till all gone."""

    way: str
    size: int
    late: int
    survivors: int
    secs: float


class Tree:
    """One tree: how it is started, and who of it lives."""

    def __init__(self, folder: Path, number: int) -> None:
        self.marker = folder / f"marker-{number}"
        self.marker.touch()
        self.ready = folder / f"ready-{number}"
        self.command = [sys.executable, "-c", _TREE, str(self.marker), str(self.ready)]

    def alive(self) -> set[int]:
        """Return the processes that hold the marker open; zombies hold nothing."""
        found = set()
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                for descriptor in os.listdir(f"/proc/{entry}/fd"):
                    with contextlib.suppress(OSError):
                        if os.readlink(f"/proc/{entry}/fd/{descriptor}") == str(self.marker):
                            found.add(int(entry))
        return found

    def wait_ready(self) -> int:
        """Wait until it has grown; return how many processes it has."""
        _until(self.ready.exists, 60)
        return len(self.alive())

    def first(self) -> int:
        """Return its first process: the one whose command line names the marker and whose parent does not."""
        alive = self.alive()
        (pid,) = (pid for pid in alive if _parent(pid) not in alive and self._is_first(pid))
        return pid

    def _is_first(self, pid: int) -> bool:
        # daemons whose parents ended are children of a subreaper too, but lead no group that the job began with
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        begun = [int(Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[19]) for one in self.alive()]
        return int(words[19]) == min(begun)

    def wait_gone(self) -> int:
        """Wait until none is left; return how many are after all that time."""
        with contextlib.suppress(AssertionError):
            _until(lambda: not self.alive(), GONE_SECS)
        return len(self.alive())


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _until(condition: Callable[[], object], secs: float) -> None:
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def _nothing(jobs: list[zbrain_nb.JobHandle], trees: list[Tree]) -> None:
    """Leave it to the jobs' timeouts."""


def _cancel(jobs: list[zbrain_nb.JobHandle], trees: list[Tree]) -> None:
    for job in jobs:
        job.cancel()


def _kill_parents(jobs: list[zbrain_nb.JobHandle], trees: list[Tree]) -> None:
    for pid in {_parent(tree.first()) for tree in trees}:
        os.kill(pid, signal.SIGKILL)


def _kill_foremen(jobs: list[zbrain_nb.JobHandle], trees: list[Tree]) -> None:
    for pid in {_parent(_parent(tree.first())) for tree in trees}:
        os.kill(pid, signal.SIGKILL)


class Way(NamedTuple):
    """A way of ending trees, the part of all kills that go this way, and what the jobs ask for."""

    name: str
    part: float
    act: Callable[[list[zbrain_nb.JobHandle], list[Tree]], None]
    is_brief: bool = False
    timeout_secs: float | None = None


WAYS = (
    Way("own supervisor, cancel", 0.2, _cancel),
    Way("own supervisor, timeout", 0.2, _nothing, timeout_secs=4),
    Way("own supervisor, supervisor killed", 0.2, _kill_parents),
    Way("reused slot, cancel", 0.1, _cancel, is_brief=True),
    Way("reused slot, timeout", 0.08, _nothing, is_brief=True, timeout_secs=4),
    Way("reused slot, supervisor killed", 0.06, _kill_parents, is_brief=True),
    Way("reused slot, foreman killed", 0.06, _kill_foremen, is_brief=True),
)


def end_trees(client: zbrain_nb.Client, folder: Path, way: Way, first: int) -> list[Kill]:
    """Run some trees, end them, and count."""
    trees = [Tree(folder, first + number) for number in range(TREES)]
    if way.is_brief:
        for job in client.submit_many([{"cmd": ["true"]}] * 40):
            job.result(timeout=60)
    # a grace time of its own is nothing that a reused slot heeds, so that such a command has its own supervisor
    limits = {} if way.is_brief else {"grace_secs": 0.3}
    jobs = [client.submit(tree.command, timeout_secs=way.timeout_secs, limits=limits) for tree in trees]
    sizes = [tree.wait_ready() for tree in trees]
    begun = time.perf_counter()
    way.act(jobs, trees)
    late = []
    for job, tree in zip(jobs, trees, strict=True):
        job.wait(timeout=60)
        late.append(len(tree.alive()))
    kills = []
    for tree, size, left in zip(trees, sizes, late, strict=True):
        survivors = tree.wait_gone()
        kills.append(Kill(way.name, size, left, survivors, time.perf_counter() - begun))
    return kills


def leave_trees(folder: Path, first: int) -> list[Kill]:
    """Run trees in a process with a `LocalWorker`, kill that, and count."""
    trees = [Tree(folder, first + number) for number in range(TREES)]
    paths = [str(path) for tree in trees for path in (tree.marker, tree.ready)]
    process = subprocess.Popen([sys.executable, "-c", _LOCAL_WORKER, str(folder / f"blobs-{first}"), *paths])
    sizes = [tree.wait_ready() for tree in trees]
    begun = time.perf_counter()
    process.kill()
    process.wait()
    kills = []
    for tree, size in zip(trees, sizes, strict=True):
        survivors = tree.wait_gone()
        kills.append(Kill("worker gone", size, 0, survivors, time.perf_counter() - begun))
    return kills


def run_kills(rounds: int) -> list[Kill]:
    """Return about so many kills, in all ways."""
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory(prefix="zbrain-trees-") as name:
        folder = Path(name)
        with served(folder, TREES) as client:
            for way in WAYS:
                for _ in range(max(1, round(rounds * way.part / TREES))):
                    kills += end_trees(client, folder, way, len(kills))
                print(f"{way.name}: {len(kills)} kills so far", file=sys.stderr, flush=True)
        while len(kills) < rounds:
            kills += leave_trees(folder, len(kills))
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    kills = run_kills(options.rounds)
    rows = []
    for name in dict.fromkeys(kill.way for kill in kills):
        some = [kill for kill in kills if kill.way == name]
        secs = [kill.secs for kill in some]
        rows.append(
            (
                name,
                f"{len(some)}",
                f"{statistics.mean(kill.size for kill in some):.0f}",
                f"{sum(kill.late for kill in some)}",
                f"{sum(kill.survivors for kill in some)}",
                f"{statistics.median(secs):.2f}",
                f"{max(secs):.2f}",
            )
        )
    columns = ("way", "kills", "processes", "there when reported", "survivors", "s to gone, p50", "max")
    print_table(f"{len(kills)} kills of hostile trees", columns, rows)


if __name__ == "__main__":
    main()
