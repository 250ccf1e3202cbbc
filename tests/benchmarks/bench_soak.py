"""How the store keeps up for long: commits, log, file size and memory while old rows are dropped and SQL is run.

``python -m tests.benchmarks.bench_soak [--secs N] [--old N] [--submits N] [--lines N] [--dir FOLDER]`` prints one
table. Life times are scaled so that the first retention cycle is over after a third of the time. "raw" is DuckDB
alone in the same run: the same batches into one plain table a kind, without segments, folding, retention or reader.
A commit's time is from handing a batch to the writer until it is durable, waiting behind checkpoints, folds and
drops included.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

import duckdb

from tests.benchmarks.table import print_table
from zbrain_nb import Job, JobSpec, Storage
from zbrain_nb.model.events import LogStream
from zbrain_nb.model.ids import new_id
from zbrain_nb.model.settings import Lifetimes
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.store import database, queries
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.opening import MEMORY_LIMIT, NO_AUTOMATIC_CHECKPOINT, wal_of
from zbrain_nb.store.rows import JOBS, LOGS, TRANSITIONS, Change, folded_row, job_row
from zbrain_nb.store.schema import COLUMNS, KINDS

TICK_SECS = 0.005
SAMPLE_SECS = 0.05
RAW_SECS = 10.0
LINE = "[{n:07d}] epoch {e} step {s} loss={loss:.6f} accuracy={acc:.6f} learning_rate=0.001"
SPEC = JobSpec(cmd=["python", "train.py", "--epochs", "10"], name="train")


class Load:
    """Makes rows at a steady rate: submits, three transitions and a share of the lines for each."""

    def __init__(self, submits: int, lines: int) -> None:
        self._submits, self._lines = submits, lines
        self._made = [0.0, 0.0]
        self._begin = time.perf_counter()
        self._seq = 10_000_000
        self._line = 0
        self.jobs: list[Job] = []

    def seq(self) -> int:
        self._seq += 1
        return self._seq

    def take(self) -> Change | None:
        """Return what has become due since the last time."""
        passed = time.perf_counter() - self._begin
        submits = int(passed * self._submits - self._made[0])
        lines = int(passed * self._lines - self._made[1])
        if not submits and not lines:
            return None
        self._made[0] += submits
        self._made[1] += lines
        change = Change()
        now = int(time.time() * 1e6)
        for _ in range(submits):
            job = Job(SPEC, owner="me", org_id="default")
            job.event_seq = self.seq()
            change.jobs.append(job_row(job, job.event_seq))
            for kind in ("job_leased", "job_started", "job_completed"):
                change.transitions.append((self.seq(), job.id, "default", 1, kind, now, '{"state":"running"}', 1))
            self.jobs.append(job)
        job_id = self.jobs[-1].id if self.jobs else new_id()
        seq = self.seq()
        if lines:
            numbers = range(self._line + 1, self._line + 1 + lines)
            self._line += lines
            texts = [
                LINE.format(n=n, e=n // 1000, s=n % 1000, loss=1 / (n % 977 + 1), acc=n % 991 / 991) for n in numbers
            ]
            streams, times = [LogStream.STDOUT] * lines, [now] * lines
            change.logs.append(
                Lines(job_id, numbers[0], 1, numbers[-1], seq, streams, times, texts, sum(map(len, texts)))
            )
        return change


class Watch:
    """Samples sizes and memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.wal_max = 0
        self.rss_max = 0
        self.sizes: list[tuple[float, int]] = []

    async def run(self) -> None:
        begin = time.perf_counter()
        while True:
            wal = wal_of(self._path)
            self.wal_max = max(self.wal_max, wal.stat().st_size if wal.exists() else 0)
            self.rss_max = max(self.rss_max, resident_bytes())
            self.sizes.append((time.perf_counter() - begin, self._path.stat().st_size))
            await asyncio.sleep(SAMPLE_SECS)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def fill(storage: Storage, count: int) -> None:
    """Bring in ended jobs of before, in pieces, past the writer's own path."""
    connection = storage._writer.database._connection
    table = storage._writer.database._segments.layouts["jobs"].table
    step = 50_000
    for begin in range(0, count, step):
        connection.execute(
            f"INSERT INTO {table} (id, event_seq, org_id, owner, name, created_at, spec, state, attempt, fields) "
            "SELECT (printf('%012x', 1700000000000 + i) || '70008000' || printf('%012x', i))::UUID, i, 'default', "
            "'me', 'old', make_timestamp(1700000000000000 + i), '{\"cmd\":[\"true\"],\"name\":\"old ' || i || '\"}', "
            "'succeeded', 1, '{\"state\":\"succeeded\"}' FROM range(?, ?) t(i)",
            [begin, min(begin + step, count)],
        )
        storage._writer.database._segments.note("jobs", step)
        storage._writer.database.tend()


async def commit_for(storage: Storage, load: Load, secs: float) -> list[float]:
    """Commit what becomes due, one batch at a time; return the times."""
    times = []
    deadline = time.perf_counter() + secs
    loop = asyncio.get_running_loop()
    while (begin := time.perf_counter()) < deadline:
        change = load.take()
        if change is not None:
            done = loop.create_future()
            begin = time.perf_counter()
            storage.append(
                [change],
                lambda outcomes, error, done=done: loop.call_soon_threadsafe(
                    done.set_result, (time.perf_counter(), outcomes, error)
                ),
            )
            end, outcomes, error = await done
            assert error is None and outcomes == [None], (error, outcomes)
            times.append(end - begin)
        await asyncio.sleep(max(0.0, TICK_SECS - (time.perf_counter() - begin)))
    return times


async def fold_on(storage: Storage, load: Load) -> None:
    """Fold what ended, a thousand jobs at a time, as the queue does."""
    while True:
        await asyncio.sleep(1.0)
        ended, load.jobs[:-1] = load.jobs[:-1], []
        for begin in range(0, len(ended), 1_000):
            rows = []
            for job in ended[begin : begin + 1_000]:
                job.state, job.event_seq = "succeeded", job.event_seq + 3
                rows.append(folded_row(job))
            await storage.write(lambda db, rows=rows: db.fold(rows))


async def read_on(storage: Storage, times: list[float]) -> None:
    """Run SQL, one query after the other."""
    while True:
        for query, arguments in (
            (lambda cursor: cursor.execute("SELECT state, count(*) FROM jobs GROUP BY ALL").fetchall(), ()),
            (queries.last_seq, ()),
            (lambda cursor: cursor.execute("SELECT id FROM jobs ORDER BY id DESC LIMIT 50").fetchall(), ()),
            (lambda cursor: cursor.execute("SELECT count(*), max(log_seq) FROM logs").fetchall(), ()),
        ):
            begin = time.perf_counter()
            await storage.read(query, *arguments)
            times.append(time.perf_counter() - begin)
            await asyncio.sleep(0.02)


async def retire_on(maintenance: Maintenance, dropped: list[str], pause: float) -> None:
    while True:
        await asyncio.sleep(pause)
        dropped += [segment.table for segment in await maintenance.retire_rows()]


async def soak(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    storage = Storage(folder / "soak.duckdb")
    await storage.open()
    fill(storage, options.old)
    life = options.secs / 4
    keep = Lifetimes(jobs_secs=1e9, events_secs=life, logs_secs=life)
    load = Load(options.submits, options.lines)

    async def folded() -> None:
        """Nothing: `fold_on` does it, and there are no blobs."""

    maintenance = Maintenance(
        storage,
        ArtifactStore(folder / "blobs"),
        keep,
        living=lambda: [job.id for job in load.jobs],
        fold=folded,
        forget_grants=folded,
    )
    watch, read_times, dropped = Watch(storage.path), list[float](), list[str]()
    others = [
        asyncio.ensure_future(other)
        for other in (
            watch.run(),
            fold_on(storage, load),
            read_on(storage, read_times),
            retire_on(maintenance, dropped, life / 24),
        )
    ]
    times = await commit_for(storage, load, options.secs)
    for other in others:
        assert not other.done(), other.exception()
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await storage.close()
    return {"times": times, "watch": watch, "reads": read_times, "dropped": dropped, "life": life}


def raw(folder: Path, options: argparse.Namespace) -> list[float]:
    """The same batches into plain tables, with a checkpoint as often."""
    path = folder / "raw.duckdb"
    connection = duckdb.connect(str(path), config={"checkpoint_threshold": NO_AUTOMATIC_CHECKPOINT})
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    for kind in KINDS:
        connection.execute(f"CREATE TABLE {kind} ({COLUMNS[kind]})")
    load = Load(options.submits, options.lines)
    times = []
    deadline = time.perf_counter() + min(RAW_SECS, options.secs)
    while (begin := time.perf_counter()) < deadline:
        change = load.take()
        if change is not None:
            begin = time.perf_counter()
            connection.execute("BEGIN")
            for layout, rows in ((JOBS, change.jobs), (TRANSITIONS, change.transitions), (LOGS, change.logs)):
                if rows:
                    statement, incoming = layout.as_table(rows)
                    connection.execute(statement)
                    del incoming
            connection.execute("COMMIT")
            times.append(time.perf_counter() - begin)
            if wal_of(path).stat().st_size > database.CHECKPOINT_BYTES:
                connection.execute("CHECKPOINT")
        time.sleep(max(0.0, TICK_SECS - (time.perf_counter() - begin)))
    connection.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--secs", type=float, default=600)
    parser.add_argument("--old", type=int, default=1_000_000)
    parser.add_argument("--submits", type=int, default=1_000)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--dir", default=None, help="where the database lies (the disk is part of the result)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        found = asyncio.run(soak(Path(name), options))
        raw_times = raw(Path(name), options)
    watch: Watch = found["watch"]
    rows = [
        [what, *(f"{at(times, share) * 1e3:.1f}" for share in (0.5, 0.99, 1.0)), f"{len(times):,}"]
        for what, times in (("commit", found["times"]), ("raw commit", raw_times), ("SQL reader", found["reads"]))
    ]
    title = f"{options.secs:g} s on {options.old:,} old jobs: {options.submits:,} submits/s, {options.lines:,} lines/s"
    print_table(title, ["", "p50 ms", "p99 ms", "max ms", "count"], rows)
    minutes: dict[int, int] = {}
    slot = max(1.0, options.secs / 10)
    for at_secs, size in watch.sizes:
        minutes[int(at_secs / slot)] = size
    print(f"file, MB at each {slot:g} s: {' '.join(f'{size / 1e6:.0f}' for size in minutes.values())}")
    late = [size for at_secs, size in watch.sizes if at_secs > 1.5 * found["life"]]
    print(
        f"after the first cycle ({found['life']:g} s): {min(late) / 1e6:.0f} to {max(late) / 1e6:.0f} MB; "
        f"log at most {watch.wal_max / 1e6:.0f} MB; resident at most {watch.rss_max / 1e6:.0f} MB; "
        f"dropped {len(found['dropped'])} segments"
    )


def at(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


if __name__ == "__main__":
    main()
