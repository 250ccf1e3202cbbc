"""Segments: appended to in turn, read as one table, dropped whole, and what living jobs need carried over."""

import os
import subprocess
import sys
import time

import pytest

from tests.unit.store.rows import add_life, change_of, end, new_job
from zbrain_nb import Storage
from zbrain_nb.model.errors import Conflict
from zbrain_nb.store import queries, segments
from zbrain_nb.store.events import EventQuery, events_between
from zbrain_nb.store.retention import needed_jobs
from zbrain_nb.store.rows import Change, folded_row
from zbrain_nb.store.segments import read_segments

pytestmark = pytest.mark.anyio
KINDS = ("jobs", "transitions", "logs")


async def next_segments(storage, kinds=KINDS):
    await storage.write(lambda db: db.open_segments(kinds, time.time()))


async def segment(storage, table):
    return next(s for s in await storage.read(read_segments) if s.table == table)


async def drop(storage, table, in_memory=()):
    found = await segment(storage, table)
    needed = await storage.read(needed_jobs, found, in_memory)
    await storage.write(lambda db: db.drop_segment(found, needed))
    return needed


async def count(storage, table):
    return await storage.read(lambda cursor: cursor.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_rows_past_the_limit_go_into_the_next_segment_and_are_read_as_one(storage, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_ROWS", {"jobs": 3, "transitions": 5, "logs": 7, "audit": 9})
    jobs = [new_job(name=f"job {n}") for n in range(10)]
    for job in jobs:
        await storage.commit([change_of(storage, job, events=2, lines=2)])
    await storage.write(lambda db: None)
    found = await storage.read(read_segments)
    assert {s.kind: s.number for s in found} == {"jobs": 4, "transitions": 4, "logs": 3, "audit": 1}
    assert [s.closed_at is None for s in found if s.kind == "jobs"] == [False, False, False, True]
    assert [await count(storage, kind) for kind in KINDS] == [10, 20, 20]
    assert (await storage.get_jobs(job.id for job in jobs)).keys() == {job.id for job in jobs}
    every = dict.fromkeys(("orgs", "state", "owner", "name", "search", "before", "after", "tag"))
    listed, _ = await storage.read(queries.list_jobs, **every, limit=4)
    assert [job.id for job in listed] == [job.id for job in reversed(jobs)][:4]


async def test_segments_grow_when_there_are_many_so_that_queries_stay_cheap(storage, monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_ROWS", {"jobs": 2, "transitions": 9, "logs": 9, "audit": 9})
    monkeypatch.setattr(segments, "MANY_SEGMENTS", 2)
    for _ in range(40):
        await storage.commit([change_of(storage, new_job())])
    assert len([s for s in await storage.read(read_segments) if s.kind == "jobs"]) < 10


async def test_segment_without_rows_is_not_closed(storage):
    await storage.commit([change_of(storage, new_job())])
    await next_segments(storage)
    await next_segments(storage)
    assert [(s.kind, s.number) for s in await storage.read(read_segments)] == [
        ("audit", 1),
        ("jobs", 1),
        ("jobs", 2),
        ("logs", 1),
        ("transitions", 1),
    ]


async def test_id_of_an_older_segment_is_refused_like_one_of_the_open(storage):
    old, other = new_job(), new_job()
    await storage.commit([change_of(storage, old)])
    await next_segments(storage)
    outcomes = await storage.write(lambda db: db.append([change_of(storage, old), change_of(storage, other)]))
    assert [type(outcome) for outcome in outcomes] == [Conflict, type(None)]
    with pytest.raises(Conflict):
        await storage.commit([change_of(storage, other)])
    assert await count(storage, "jobs") == 2


async def test_fold_reaches_jobs_in_every_segment(storage):
    jobs = [new_job() for _ in range(4)]
    for job in jobs:
        await storage.commit([change_of(storage, job)])
        await next_segments(storage)
    await end(storage, *jobs)
    assert {job.state for job in (await storage.get_jobs(job.id for job in jobs)).values()} == {"succeeded"}


async def test_dropped_segment_takes_ended_jobs_and_leaves_the_living(storage):
    ended, living, in_memory, later = (new_job() for _ in range(4))
    for job in (ended, living, in_memory):
        await storage.commit([change_of(storage, job, events=3, lines=5)])
    await end(storage, ended, in_memory)
    before = await storage.read(queries.positions, [living.id])
    await next_segments(storage)
    await storage.commit([change_of(storage, later)])
    for kind in KINDS:
        needed = await drop(storage, f"{kind}_1", [in_memory.id])
        assert set(needed) == {living.id, in_memory.id}
    assert (await storage.get_jobs([ended.id, living.id, in_memory.id, later.id])).keys() == {
        living.id,
        in_memory.id,
        later.id,
    }
    assert await storage.read(queries.positions, [living.id]) == before == ({living.id: {1: 1004}}, {living.id: 5})
    assert (await storage.get_job(living.id)).progress == {"fraction": 0.02, "note": None}
    assert [e.line for e in await storage.read(queries.log_entries, ended.id, 0, 10, None)] == []
    await end(storage, living)
    assert (await storage.get_job(living.id)).state == "succeeded"  # its row has moved, and is found


async def test_dropped_segment_leaves_the_last_lines_of_each_attempt(storage, monkeypatch):
    monkeypatch.setattr(
        segments,
        "CARRIED",
        {kind: text.replace(str(segments.MAX_CARRIED_OF_ATTEMPT), "2", -1) for kind, text in segments.CARRIED.items()},
    )
    job = new_job()
    change = change_of(storage, job, events=4, lines=4, attempt=1)
    add_life(storage, change, job, events=4, lines=4, attempt=2, first_line=4)
    await storage.commit([change])
    before = await storage.read(queries.positions, [job.id])
    await next_segments(storage)
    await drop(storage, "logs_1")
    await drop(storage, "transitions_1")
    assert [e.seq for e in await storage.read(queries.log_entries, job.id, 0, 10, None)] == [2, 3, 6, 7]
    assert await storage.read(queries.positions, [job.id]) == before
    assert await count(storage, "transitions") == 4


async def test_parent_of_a_living_job_is_carried(storage):
    parent = new_job()
    await storage.commit([change_of(storage, parent)])
    await end(storage, parent)
    await next_segments(storage)
    child = new_job(after=[parent.id], after_any=True)
    await storage.commit([change_of(storage, child)])
    assert await drop(storage, "jobs_1") == [parent.id]
    assert await storage.get_job(parent.id)


async def test_segment_with_too_much_to_carry_is_needed(storage, monkeypatch):
    await storage.commit([change_of(storage, new_job(), lines=1) for _ in range(6)])
    await next_segments(storage)
    monkeypatch.setattr("zbrain_nb.store.retention.MAX_CARRIED", 5)
    for table in ("jobs_1", "logs_1"):
        assert await storage.read(needed_jobs, await segment(storage, table), []) is None


async def test_reader_in_the_middle_of_a_transaction_sees_what_is_dropped_under_it(storage):
    job = new_job()
    await storage.commit([change_of(storage, job, lines=3)])
    await end(storage, job)
    await next_segments(storage)
    cursor = storage._writer.database.cursor()
    cursor.execute("BEGIN")
    assert cursor.execute("SELECT count(*) FROM logs").fetchone() == (3,)
    await drop(storage, "logs_1")
    assert cursor.execute("SELECT count(*) FROM logs").fetchone() == (3,)
    cursor.execute("ROLLBACK")
    assert cursor.execute("SELECT count(*) FROM logs").fetchone() == (0,)


async def test_numbers_go_on_when_everything_was_dropped_and_the_storage_is_reopened(storage):
    job = new_job()
    await storage.commit([change_of(storage, job, events=2, lines=2)])
    await end(storage, job)
    last = storage.last_seq
    assert storage.oldest_event_seq == 1
    await next_segments(storage)
    for kind in KINDS:
        await drop(storage, f"{kind}_1")
    assert storage.oldest_event_seq == last + 1
    await storage.close()
    await storage.open()
    assert (storage.last_seq, storage.oldest_event_seq) == (last, last + 1)


async def test_oldest_event_is_that_from_which_every_kind_is_whole(storage):
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        await storage.commit([change_of(storage, job, events=1, lines=1)])
        await next_segments(storage)
    await end(storage, *jobs)
    await drop(storage, "logs_1")
    await drop(storage, "logs_2")
    await drop(storage, "transitions_1")
    assert storage.oldest_event_seq == 7


async def test_events_of_segments_are_read_in_order(storage):
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        await storage.commit([change_of(storage, job, events=1, lines=1)])
        await next_segments(storage)
    events, whole = await storage.read(events_between, EventQuery(2, 9, 100))
    assert [event.seq for event in events] == [3, 4, 5, 6, 7, 8, 9]
    assert whole == 9


_KILLED = """
import asyncio, os, sys, time
from tests.unit.store.rows import change_of, end, new_job
from zbrain_nb import Storage
from zbrain_nb.store.segments import read_segments

async def main():
    storage = Storage(sys.argv[1])
    await storage.open()
    gone, stays = new_job(), new_job()
    await storage.commit([change_of(storage, job, events=1, lines=1) for job in (gone, stays)])
    await end(storage, gone)
    for _ in range(2):
        await storage.write(lambda db: db.open_segments(("jobs", "transitions", "logs"), time.time()))
        await storage.commit([change_of(storage, new_job(), events=1, lines=1)])
    for segment in await storage.read(read_segments):
        if segment.number == 1 and segment.closed_at:
            await storage.write(lambda db: db.drop_segment(segment, [stays.id]))
    print(stays.id, gone.id, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_segments_made_and_dropped_before_a_kill_are_replayed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, text=True, check=False, cwd=os.getcwd()
    )
    assert done.returncode == -9, done.stderr
    stays, gone = done.stdout.split()
    storage = Storage(tmp_path)
    await storage.open()
    assert not list(tmp_path.glob("*unreadable*"))
    assert [await count(storage, kind) for kind in KINDS] == [3, 3, 3]
    assert (await storage.get_jobs([stays, gone])).keys() == {stays}
    assert {s.number for s in await storage.read(read_segments) if s.kind in KINDS} == {2, 3}
    await storage.close()


async def test_fold_of_a_job_that_was_dropped_changes_nothing(storage):
    change, row = Change(), folded_row(new_job())
    assert await storage.write(lambda db: db.fold([row])) == set()
    await storage.commit([change])
    assert await count(storage, "jobs") == 0
