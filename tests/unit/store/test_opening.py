"""Opening: old versions are brought up to date, and of what is damaged as much is kept as can be read."""

import logging

import duckdb
import pytest

from tests.unit.store.rows import change_of, end, new_job
from zbrain_nb import Storage
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.store import opening, queries, schema
from zbrain_nb.store.segments import read_segments

pytestmark = pytest.mark.anyio

#: The tables as version 1 made them, and what a queue left in them.
VERSION_1 = """
CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
INSERT INTO meta VALUES ('schema_version', '1');
CREATE TABLE jobs (
    id UUID PRIMARY KEY, event_seq BIGINT NOT NULL, org_id VARCHAR NOT NULL, owner VARCHAR NOT NULL,
    name VARCHAR NOT NULL, created_at TIMESTAMP NOT NULL, spec VARCHAR NOT NULL, idempotency_key VARCHAR,
    payload_hash VARCHAR, retry_of UUID, state VARCHAR NOT NULL DEFAULT 'pending',
    attempt INTEGER NOT NULL DEFAULT 0, started_at TIMESTAMP, finished_at TIMESTAMP, worker_id VARCHAR,
    exit_code INTEGER, reason VARCHAR, fields VARCHAR, folded_seq BIGINT
);
CREATE TABLE transitions (
    event_seq BIGINT NOT NULL, job_id UUID NOT NULL, org_id VARCHAR NOT NULL, attempt INTEGER NOT NULL,
    kind VARCHAR NOT NULL, ts TIMESTAMP NOT NULL, data VARCHAR NOT NULL, worker_seq BIGINT
);
CREATE TABLE logs (
    job_id UUID NOT NULL, log_seq BIGINT NOT NULL, attempt INTEGER NOT NULL, worker_seq BIGINT,
    event_seq BIGINT NOT NULL, stream VARCHAR NOT NULL, ts TIMESTAMP NOT NULL, line VARCHAR NOT NULL
);
CREATE TABLE workers (id VARCHAR PRIMARY KEY, info VARCHAR NOT NULL);
INSERT INTO workers VALUES ('w', '{"id":"w"}');
INSERT INTO jobs (id, event_seq, org_id, owner, name, created_at, spec, state, fields, folded_seq) VALUES
    ('018f0000-0000-7000-8000-000000000001', 1, 'lab', 'ada', 'done', '2026-01-01', '{"cmd":["true"]}', 'succeeded',
     '{"state":"succeeded","event_seq":3}', 3),
    ('018f0000-0000-7000-8000-000000000002', 2, 'lab', 'ada', 'waits', '2026-01-01',
     '{"cmd":["true"],"tags":{"kind":"a \\"word\\""}}', 'pending', NULL, NULL);
INSERT INTO transitions VALUES
    (3, '018f0000-0000-7000-8000-000000000001', 'lab', 1, 'job_completed', '2026-01-01',
     '{"state":"succeeded","event_seq":3}', 2);
INSERT INTO logs VALUES
    ('018f0000-0000-7000-8000-000000000001', 0, 1, 1, 4, 'stdout', '2026-01-01', 'a line');
"""
DONE, WAITS = "018f0000-0000-7000-8000-000000000001", "018f0000-0000-7000-8000-000000000002"


def make_version_1(path, places=False):
    with duckdb.connect(str(path)) as connection:
        connection.execute(VERSION_1)
        if places:
            connection.execute("ALTER TABLE jobs ADD COLUMN lane VARCHAR; ALTER TABLE jobs ADD COLUMN rank BIGINT")


@pytest.mark.parametrize("places", [False, True])
async def test_version_1_is_brought_up_to_date_and_used(tmp_path, places):
    storage = Storage(tmp_path)
    make_version_1(storage.path, places)
    for _ in range(2):
        await storage.open()
        assert storage.last_seq >= 4
        jobs = await storage.get_jobs([DONE, WAITS])
        assert [jobs[job_id].state for job_id in (DONE, WAITS)] == ["succeeded", "pending"]
        assert [e.line for e in await storage.read(queries.log_entries, DONE, 0, 9, None)] == ["a line"]
        assert await storage.read(queries.workers) == ['{"id":"w"}']
        tagged = dict.fromkeys(("orgs", "state", "owner", "name", "search", "before", "after"))
        found, _ = await storage.read(queries.list_jobs, **tagged, tag=("kind", 'a "word"'), limit=9)
        assert [job.id for job in found] == [WAITS]
        segments = await storage.read(read_segments)
        assert [(s.kind, s.number, s.first_seq, s.closed_at is None) for s in segments] == [
            ("audit", 1, 1, True),
            ("jobs", 1, 1, False),
            ("jobs", 2, 5, False),
            ("jobs", 3, 5, True),
            *((kind, n, first, n == 2) for kind in ("logs", "transitions") for n, first in ((1, 1), (2, 5))),
        ]
        await storage.commit([change_of(storage, new_job(), events=1, lines=1)])
        waiting = await storage.get_job(WAITS)
        await end(storage, waiting)
        assert (await storage.get_job(WAITS)).state == "succeeded"
        waiting.state = "pending"
        await end(storage, waiting, state="pending")
        await storage.close()
    assert [p.name for p in tmp_path.iterdir()] == ["zbrain.duckdb"]


async def test_migration_that_fails_leaves_the_database_as_it_was(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    make_version_1(storage.path)

    def fail(connection, kind):
        raise duckdb.IOException("Could not write file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "show_segments", fail)
        with pytest.raises(ZBrainError, match="No space left"):
            await storage.open()
    with duckdb.connect(str(storage.path)) as connection:
        assert connection.execute("SELECT value FROM meta").fetchall() == [("1",)]
        assert connection.execute("SELECT count(*) FROM jobs").fetchall() == [(2,)]
    await storage.open()
    assert len(await storage.get_jobs([DONE, WAITS])) == 2
    await storage.close()


async def make_whole(tmp_path, *, with_wal):
    """A database with a checkpointed job, and another in the write-ahead log if asked; as a kill leaves it."""
    source = Storage(tmp_path / "source")
    first, second = new_job(name="first"), new_job(name="second")
    many = [new_job(name="x" * 200) for _ in range(500)]
    await source.commit([change_of(source, job, lines=1) for job in (first, *many)])
    await source.close()
    await source.open()
    if with_wal:
        for _ in range(20):
            await source.commit([change_of(source, new_job(), lines=2)])
        await source.commit([change_of(source, second, lines=1)])
    data = tmp_path / "data"
    data.mkdir()
    for file in source.path.parent.glob("zbrain.duckdb*"):
        (data / file.name).write_bytes(file.read_bytes())
    await source.close()
    return Storage(data), first, second


def damage(path, kind):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if kind == "truncated":
        content = content[: middle - middle % 4096]
    elif kind == "garbage":
        content = bytearray(b"not a database" * 1000)
    elif kind == "empty":
        content = bytearray()
    else:
        for at in range(middle, middle + 64) if kind == "flipped" else range(3 * 4096, len(content), 4096):
            content[at] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "garbage", "pages"])
@pytest.mark.parametrize("with_wal", [False, True])
async def test_damaged_database_is_set_aside_with_its_log_and_the_message_says_what_is_lost(
    tmp_path, caplog, kind, with_wal
):
    storage, first, _ = await make_whole(tmp_path, with_wal=with_wal)
    damage(storage.path, kind)
    broken = {path.name.removeprefix("zbrain.duckdb"): path.read_bytes() for path in storage.path.parent.iterdir()}
    await storage.open()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "its jobs and logs are missing until it is repaired" in record.message
    assert record.last_checkpoint.startswith("20")
    assert record.size_bytes == len(broken[""])
    aside = opening.set_aside_files(storage.path)
    assert record.set_aside == [str(path) for path in aside]
    assert [path.read_bytes() for path in aside] == [broken[name] for name in sorted(broken) if name in ("", ".wal")]
    assert await storage.get_job(first.id) is None
    await storage.commit([change_of(storage, new_job())])
    await storage.close()


@pytest.mark.parametrize("kind", ["flipped"])
async def test_log_that_cannot_be_replayed_costs_what_follows_the_checkpoint_and_no_more(tmp_path, caplog, kind):
    storage, first, second = await make_whole(tmp_path, with_wal=True)
    wal = opening.wal_of(storage.path)
    damage(wal, kind)
    broken = wal.read_bytes(), storage.path.read_bytes()
    await storage.open()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "what was committed after the last checkpoint is lost" in record.message
    assert record.lost_since.startswith("20")
    assert await storage.get_job(first.id)
    assert await storage.get_job(second.id) is None
    database, log = opening.set_aside_files(storage.path)
    assert (log.read_bytes(), database.read_bytes()) == broken
    await storage.commit([change_of(storage, second)])
    await storage.close()
    await storage.open()
    assert (await storage.get_jobs([first.id, second.id])).keys() == {first.id, second.id}
    await storage.close()


@pytest.mark.parametrize("kind", [1, 100, 5000, "garbage", "truncated"])
async def test_log_with_a_torn_end_is_replayed_as_far_as_it_goes_and_the_rest_is_said(tmp_path, caplog, kind):
    storage, first, second = await make_whole(tmp_path, with_wal=True)
    wal = opening.wal_of(storage.path)
    if isinstance(kind, int):
        wal.write_bytes(wal.read_bytes()[:-kind])
    else:
        damage(wal, kind)
    torn = wal.read_bytes()
    await storage.open()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "The end of the write-ahead log was not whole" in record.message
    assert 0 < record.dropped_bytes <= len(torn)
    assert storage.path.with_name("zbrain.duckdb.torn.wal").read_bytes() == torn
    assert (await storage.get_jobs([first.id, second.id])).keys() == {first.id}
    assert opening.set_aside_files(storage.path) == []
    await storage.close()


async def test_whole_log_is_replayed_without_a_word(tmp_path, caplog):
    storage, first, second = await make_whole(tmp_path, with_wal=True)
    await storage.open()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (await storage.get_jobs([first.id, second.id])).keys() == {first.id, second.id}
    await storage.close()
    assert [path.name for path in storage.path.parent.iterdir()] == ["zbrain.duckdb"]


async def test_flipped_byte_in_any_page_is_found_at_the_start_or_harms_no_job(tmp_path, caplog):
    whole, _, _ = await make_whole(tmp_path, with_wal=False)
    content = whole.path.read_bytes()
    found = 0
    for n, at in enumerate(range(3 * 4096 + 5_000, len(content), 128 * 1024)):
        storage = Storage(tmp_path / f"page {n}")
        storage.path.parent.mkdir()
        storage.path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        caplog.clear()
        await storage.open()
        if opening.set_aside_files(storage.path):
            found += 1
            assert "could not be opened and was set aside" in caplog.text
        else:
            jobs = await storage.read(lambda cursor: cursor.execute("SELECT * FROM jobs").fetchall())
            assert len(jobs) == 501
        await storage.close()
    assert found
