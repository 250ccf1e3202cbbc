"""The history as Arrow: what its tables say, page by page, while the queue goes on."""

from __future__ import annotations

import datetime as dt
import io
from contextlib import aclosing

import duckdb
import msgspec
import pytest
from arro3.io import read_ipc_stream

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import JobCanceled, JobCompleted, JobFailed, JobProgress, JobQueue, JobSpec, JobStarted, Storage
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.history import END_OF_STREAM, MARK, TABLES, HistoryQuery, Mark
from zbrain_nb.store import history

pytestmark = pytest.mark.anyio


def as_rows(stream: bytes) -> list[dict]:
    assert stream.endswith(END_OF_STREAM)
    with duckdb.connect() as connection:
        connection.register("incoming", read_ipc_stream(io.BytesIO(stream)))
        found = connection.execute("FROM incoming")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def mark_of(stream: bytes) -> Mark:
    return msgspec.json.decode(read_ipc_stream(io.BytesIO(stream)).schema.metadata[MARK], type=Mark)


async def stream(queue: JobQueue, table: str, **query: object) -> bytes:
    return b"".join([chunk async for chunk in queue.history(HistoryQuery(table=table, **query))])


async def ask(queue: JobQueue, table: str, **query: object) -> list[dict]:
    return as_rows(await stream(queue, table, **query))


@pytest.fixture
def small_pages(monkeypatch) -> None:
    monkeypatch.setattr(history, "MAX_ROWS", 3)
    monkeypatch.setattr(history, "FIRST_SPAN", 4)


async def test_jobs_show_what_only_the_memory_knows_yet(queue: JobQueue) -> None:
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["python", "a b.py"], name="train", priority=3, resources={"cpus": 0.5}))
    await hand.send(JobProgress(job_id=job.id, attempt=1, after=0, seq=1, progress=0.25))
    (row,) = await ask(queue, "jobs")
    assert (row["id"], row["state"], row["worker_id"], row["progress"]) == (job.id, "running", "w", 0.25)
    assert (row["cmd"], row["kind"], row["priority"], row["cpus"]) == (["python", "a b.py"], "cmd", 3, 0.5)
    assert row["created_at"] == job.created_at.replace(tzinfo=None)


async def test_nothing_secret_is_in_any_table(queue: JobQueue) -> None:
    spec = JobSpec(cmd=["true"], env={"API": "S3CRET"}, tags={"lr": "0.1", "zbrain.cell": "PRIVATE"}, input="S3CRET")
    hand = await Hand(queue).register()
    job = await hand.run(spec)
    error = {"ename": "E", "evalue": "bad", "pickled": "S3CRET"}
    await hand.send(JobFailed(job_id=job.id, attempt=1, after=0, seq=1, error=error))
    streams = [await stream(queue, table) for table in TABLES]
    assert not any(word in data for word in (b"S3CRET", b"PRIVATE") for data in streams)
    (row,) = as_rows(streams[0])
    assert (row["env"], row["tags"], row["error_name"], row["error_text"]) == (["API"], {"lr": "0.1"}, "E", "bad")


async def test_attempts_tell_how_each_ended_and_how_long_it_took(queue: JobQueue, clock) -> None:
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["false"], max_retries=1))
    clock.advance(5)
    await hand.send(JobStarted(job_id=job.id, attempt=1, after=0, seq=1))
    clock.advance(2)
    await hand.send(JobFailed(job_id=job.id, attempt=1, after=1, seq=2, exit_code=3))
    clock.advance(60)
    queue.tick()
    await hand.lease()
    await hand.send(JobFailed(job_id=job.id, attempt=2, after=0, seq=1, lost=True, reason="Gone."))
    clock.advance(1)
    queue.tick()
    await hand.lease()
    await hand.send(JobCompleted(job_id=job.id, attempt=3, after=0, seq=1))
    first, second, third = (await ask(queue, "attempts"))[::-1]
    assert (first["outcome"], first["exit_code"], first["worker_id"]) == ("failed", 3, "w")
    assert (first["started_at"] - first["leased_at"], first["ended_at"] - first["started_at"]) == (
        dt.timedelta(seconds=5),
        dt.timedelta(seconds=2),
    )
    assert second["outcome"] == "lost"
    assert second["reason"].startswith("Gone.")
    assert (third["outcome"], third["attempt"], third["exit_code"]) == ("succeeded", 3, 0)


async def test_attempt_that_ended_before_its_job_was_canceled_keeps_its_end(queue: JobQueue, clock) -> None:
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["false"], max_retries=1))
    await hand.send(JobFailed(job_id=job.id, attempt=1, after=0, seq=1))
    clock.advance(0.1)
    await queue.cancel_job(job.id)
    other = await hand.run()
    await queue.cancel_job(other.id)
    await hand.send(JobCanceled(job_id=other.id, attempt=1, after=0, seq=1))
    running = await hand.run()
    outcomes = {row["job_id"]: row["outcome"] for row in await ask(queue, "attempts")}
    assert outcomes == {job.id: "failed", other.id: "canceled", running.id: "running"}


async def test_events_tell_each_change_from_the_submit_on(queue: JobQueue) -> None:
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(JobCompleted(job_id=job.id, attempt=1, after=0, seq=1))
    rows = (await ask(queue, "events"))[::-1]
    assert [(row["kind"], row["state"]) for row in rows] == [
        ("job_submitted", "pending"),
        ("job_leased", "running"),
        ("job_completed", "succeeded"),
    ]
    assert [row["event_seq"] for row in rows] == sorted(row["event_seq"] for row in rows)


@pytest.mark.parametrize("table", TABLES)
async def test_pages_bring_each_row_once_newest_first(queue: JobQueue, table: str, small_pages: None, clock) -> None:
    hand = await Hand(queue).register()
    ids = []
    for n in range(20):
        clock.advance(n % 3 / 1000)  # ids of the same millisecond, and of others
        job = await hand.run()
        ids.append(job.id)
        await hand.send(JobProgress(job_id=job.id, attempt=1, after=0, seq=1, stdout=f"one {n}\ntwo\n"))
    chunks = [chunk async for chunk in queue.history(HistoryQuery(table=table))]
    assert len(chunks) > 7
    rows = as_rows(b"".join(chunks))
    keys = [tuple(row[name] for name in TABLES[table].key) for row in rows]
    assert len(set(keys)) == len(keys) == {"jobs": 20, "attempts": 20, "events": 40, "logs": 40}[table]
    named = [row.get("id", row.get("job_id")) for row in rows]
    assert list(dict.fromkeys(named)) == ids[::-1] if table != "events" else keys == sorted(keys)[::-1]
    few = await ask(queue, table, limit=5)
    assert few == rows[:5]


async def test_heavy_rows_make_small_pages(queue: JobQueue, monkeypatch) -> None:
    monkeypatch.setattr(history, "MAX_BYTES", 100_000)
    for _ in range(20):
        await queue.submit(JobSpec(code="x" * 40_000))
    chunks = [chunk async for chunk in queue.history(HistoryQuery(table="jobs", columns=("id", "code")))]
    assert max(map(len, chunks)) < 130_000
    assert len([chunk async for chunk in queue.history(HistoryQuery(table="jobs", columns=("id",)))]) == 3


async def test_after_brings_what_was_added_or_changed(queue: JobQueue) -> None:
    hand = await Hand(queue).register()
    job = await hand.run()
    await queue.submit(TRUE)
    before = {table: mark_of(await stream(queue, table)) for table in TABLES}
    fresh = await queue.submit(TRUE)
    await hand.send(JobProgress(job_id=job.id, attempt=1, after=0, seq=1, stdout="more\n"))
    await hand.send(JobCompleted(job_id=job.id, attempt=1, after=1, seq=2))
    rows = {table: await ask(queue, table, after=mark.upto, epoch=mark.epoch) for table, mark in before.items()}
    assert {row["id"]: row["state"] for row in rows["jobs"]} == {job.id: "succeeded", fresh: "pending"}
    assert [row["outcome"] for row in rows["attempts"]] == ["succeeded"]
    assert [row["kind"] for row in rows["events"]] == ["job_completed", "job_submitted"]
    assert [row["line"] for row in rows["logs"]] == ["more"]
    for table in TABLES:
        mark = mark_of(await stream(queue, table))
        assert await ask(queue, table, after=mark.upto, epoch=mark.epoch) == []
        assert await ask(queue, table, after=mark.upto, epoch="of another queue") == await ask(queue, table)


async def test_filters_narrow_every_table(queue: JobQueue, clock) -> None:
    hand = await Hand(queue).register()
    old = await hand.run(JobSpec(cmd=["true"], org_id="lab"))
    await hand.send(JobProgress(job_id=old.id, attempt=1, after=0, seq=1, stdout="old\n"))
    clock.advance(3600)
    young = await hand.run(JobSpec(cmd=["true"], org_id="field"))
    await hand.send(JobProgress(job_id=young.id, attempt=1, after=0, seq=1, stdout="young\n"))
    since = dt.datetime.fromtimestamp(clock.time() - 60, dt.UTC)
    for table in TABLES:
        name = "id" if table == "jobs" else "job_id"
        assert {row[name] for row in await ask(queue, table)} == {old.id, young.id}
        assert {row[name] for row in await ask(queue, table, org_id="lab")} == {old.id}
        assert {row[name] for row in await ask(queue, table, job_id=young.id.upper())} == {young.id}
        from_then = young.created_at if table == "jobs" else since  # a job bears the time of its own making
        assert {row[name] for row in await ask(queue, table, since=from_then)} == {young.id}
        assert await ask(queue, table, org_id="nobody") == []


async def test_rows_carried_from_a_dropped_segment_are_read_once(queue: JobQueue, small_pages: None) -> None:
    ids = [await queue.submit(TRUE) for _ in range(12)]
    storage = queue.storage
    async with aclosing(queue.history(HistoryQuery(table="jobs", columns=("id",)))) as chunks:
        read = [await anext(chunks), await anext(chunks)]
        await storage.write(lambda database: database.open_segments(["jobs"], 0.0))
        epoch = mark_of(await stream(queue, "jobs")).epoch
        oldest = await storage.write(lambda database: database._segments.all["jobs"][0])
        await storage.write(lambda database: database.drop_segment(oldest, ids[:6] + ids[-1:]))
        read += [chunk async for chunk in chunks]
    found = [row["id"] for row in as_rows(b"".join(read))]
    first_page = found[: found.index(ids[5])]
    assert first_page
    assert found == [*first_page, *ids[5::-1]]
    assert first_page == ids[-len(first_page) :][::-1]
    assert mark_of(await stream(queue, "jobs")).epoch != epoch


async def test_epoch_changes_with_each_segment_that_is_dropped_though_the_oldest_stays(queue: JobQueue) -> None:
    storage = queue.storage
    epochs = []
    for _ in range(3):
        await queue.submit(TRUE)
        epochs.append(mark_of(await stream(queue, "jobs")).epoch)
        await storage.write(lambda database: database.open_segments(["jobs"], 0.0))
    _, second, third, _ = await storage.write(lambda database: database._segments.all["jobs"])
    for segment in (second, third):
        await storage.write(lambda database, segment=segment: database.drop_segment(segment, []))
        epochs.append(mark_of(await stream(queue, "jobs")).epoch)
    assert [epoch == epochs[0] for epoch in epochs] == [True, True, True, False, False]
    assert epochs[3] != epochs[4]


async def test_slow_reader_holds_up_no_checkpoint(tmp_path, small_pages: None) -> None:
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs") as queue:
        for _ in range(12):
            await queue.submit(TRUE)
        async with aclosing(queue.history(HistoryQuery(table="jobs"))) as chunks:
            await anext(chunks)
            await anext(chunks)
            await queue.storage.write(lambda database: database._connection.execute("CHECKPOINT").fetchall())
            wal = tmp_path / "zbrain.duckdb.wal"
            assert not wal.exists() or wal.stat().st_size == 0


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ({"table": "job"}, "table", "jobs, attempts, events, logs"),
        ({"table": "logs", "columns": ("line", "env")}, "columns", "job_id, log_seq"),
        ({"table": "jobs", "org_id": "a b\n"}, "org", ""),
        ({"table": "jobs", "job_id": "1' or true"}, "job", ""),
    ],
)
def test_query_that_does_not_hold_names_what_there_is(query: dict, field: str, said: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        HistoryQuery(**query)
    assert caught.value.details["field"] == field
    assert said in caught.value.hint
