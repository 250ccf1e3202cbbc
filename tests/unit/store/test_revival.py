"""A database that DuckDB gave up is opened again in the same process, and what was in doubt is taken back."""

import duckdb
import pytest

from tests.unit.store.rows import add_life, change_of, new_job
from zbrain_nb.model.errors import DiskFloor, Unavailable
from zbrain_nb.store import database, queries
from zbrain_nb.store.database import Database
from zbrain_nb.store.events import EventQuery, events_between
from zbrain_nb.store.rows import Change

pytestmark = pytest.mark.anyio


@pytest.fixture
def fatal(monkeypatch):
    """Let the next commit be durable, and DuckDB give the database up over it; the list says with which words."""
    words: list[str] = []
    transact = Database._transact

    def fail(self, changes):
        transact(self, changes)
        if words:
            raise duckdb.FatalException(words.pop())

    monkeypatch.setattr(Database, "_transact", fail)
    return words


async def test_commit_in_doubt_is_taken_back_so_that_its_repetition_is_the_only_one(storage, fatal):
    old = new_job()
    await storage.commit([change_of(storage, old, lines=1)])
    job = new_job()
    change = change_of(storage, job, events=1, lines=2)
    add_life(storage, change, old, lines=3, first_line=1)
    fatal.append("a bit fell over")
    outcomes = await storage.write(lambda db: db.append([change]))
    assert [type(outcome) for outcome in outcomes] == [Unavailable]
    assert await storage.get_job(job.id) is None
    assert [e.seq for e in await storage.read(queries.log_entries, old.id, 0, 9, None)] == [0]
    await storage.commit([change])
    assert (await storage.get_job(job.id)).progress
    assert [e.seq for e in await storage.read(queries.log_entries, old.id, 0, 9, None)] == [0, 1, 2, 3]
    assert [e.seq for e in await storage.read(queries.log_entries, job.id, 0, 9, None)] == [0, 1]


async def test_commit_in_doubt_is_taken_back_when_the_database_opens_again_later(storage, fatal, monkeypatch):
    monkeypatch.setattr(database, "REVIVAL_PAUSE_SECS", 0.0)
    job = new_job()
    change = change_of(storage, job)
    opened = database.open_connection
    closed = []

    def refuse(path, **options):
        closed.append(path)
        raise duckdb.IOException("Could not write file: No space left on device")

    monkeypatch.setattr(database, "open_connection", refuse)
    fatal.append("No space left on device")
    outcomes = await storage.write(lambda db: db.append([change]))
    assert [type(outcome) for outcome in outcomes] == [DiskFloor]
    with pytest.raises(Unavailable):
        await storage.commit([add_life(storage, Change(), job, lines=1)])
    assert len(closed) > 1
    monkeypatch.setattr(database, "open_connection", opened)
    await storage.commit([change_of(storage, new_job())])
    assert await storage.get_job(job.id) is None
    await storage.commit([change])
    assert await storage.get_job(job.id)


async def test_lines_of_jobs_that_are_gone_end_no_page_of_events_early(storage):
    gone, kept = new_job(), new_job()
    await storage.commit([add_life(storage, Change(), gone, lines=6)])
    await storage.commit([change_of(storage, kept, lines=6)])
    after, seen = 0, []
    while after < storage.last_seq:
        events, after = await storage.read(events_between, EventQuery(after, storage.last_seq, 4))
        seen += [event.seq for event in events]
    assert seen == list(range(7, 14))
