"""Long texts lie apart from their rows: nothing that reads them sees a difference, and no cell is long."""

import contextlib
import io
import itertools
import random
import time

import duckdb
import pytest
from arro3.io import read_ipc_stream

from tests.unit.store.rows import change_of, end, new_job
from zbrain_nb import Job, JobSpec, JobState, Storage
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.events import LOG_PAGE_BYTES, LogStream
from zbrain_nb.model.history import END_OF_STREAM, HistoryQuery
from zbrain_nb.model.leavings import MAX_REASON
from zbrain_nb.store import queries, texts, waiting
from zbrain_nb.store.backup import start_backup
from zbrain_nb.store.events import EventQuery, events_between
from zbrain_nb.store.history import HistoryPages
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.retention import blobs_named, needed_jobs
from zbrain_nb.store.rows import encode, folded_row
from zbrain_nb.store.searching import search_log
from zbrain_nb.store.segments import read_segments
from zbrain_nb.store.texts import CELL_BYTES, MARK

pytestmark = pytest.mark.anyio
KINDS = ("jobs", "transitions", "logs")
EVERY = dict.fromkeys(("orgs", "state", "owner", "name", "search", "before", "after", "tag"))
source = random.Random(7)
LONG = [
    "x" * CELL_BYTES,
    "x" * (CELL_BYTES + 1),
    source.randbytes(50_000).hex(),
    "数" * 30_000,
    "é" * CELL_BYTES + "😀" * 100,
    MARK,
    MARK + '1:2:0:9:"',
    "-" * 100_000,
]


def error(text):
    return {"ename": "E", "evalue": text, "traceback": []}


def coded(code):
    return Job(JobSpec(code=code), owner="ada", org_id="lab")


def lines_of(storage, job, some):
    seq = storage.next_seq()
    return Lines(job.id, 0, 1, 9, seq, [LogStream.STDOUT] * len(some), [1] * len(some), some, sum(map(len, some)))


async def write(storage, text, job=None):
    """Write a job of which all texts are this one, and end it."""
    job = job or new_job(input={"text": text})
    change = change_of(storage, job)
    seq = storage.next_seq()
    outputs = encode({"outputs": [{"text": text}]}).decode()
    change.transitions.append((seq, job.id, job.org_id, 1, "job_displayed", 0, outputs, 1))
    job.state, job.attempt, job.error, job.event_seq = JobState.FAILED, 1, error(text), storage.next_seq()
    patch = encode({"state": "failed", "attempt": 1, "error": job.error, "event_seq": job.event_seq}).decode()
    change.transitions.append((job.event_seq, job.id, job.org_id, 1, "job_failed", 0, patch, 2))
    change.logs.append(lines_of(storage, job, ["before", text, "after"]))
    await storage.commit([change])
    return job


async def fold(storage, *jobs):
    rows = [folded_row(job) for job in jobs]
    assert await storage.write(lambda database: database.fold(rows)) == set()


async def query(storage, statement, *values):
    return await storage.read(lambda cursor: cursor.execute(statement, list(values)).fetchall())


async def cells(storage):
    """Return the length of the longest text in each table."""
    longest = {}
    for kind, columns in {"jobs": ("spec", "fields"), "transitions": ("data",), "logs": ("line",)}.items():
        for table, column in [*((kind, column) for column in columns), (f"{kind}_texts", "text")]:
            ((size,),) = await query(storage, f"SELECT max(strlen({column})) FROM {table}")
            longest[table, column] = size or 0
    return longest


@pytest.fixture
async def storage(tmp_path):
    storage = Storage(tmp_path / "data")
    await storage.open()
    yield storage
    await storage.close()


@pytest.mark.parametrize("is_folded", [True, False], ids=["folded", "as it came"])
async def test_long_texts_are_read_as_they_were_written_and_no_cell_is_long(storage, is_folded):
    jobs = [await write(storage, text) for text in LONG]
    if is_folded:
        await fold(storage, *jobs)
    await storage.close()
    await storage.open()
    assert max((await cells(storage)).values()) <= CELL_BYTES
    found = await storage.get_jobs([job.id for job in jobs])
    part = waiting.Slice([job.id for job in jobs], 1, storage.last_seq, 0)
    for placed in await storage.read(waiting.jobs_of, part):
        assert placed.job == found[placed.job.id]
    for job, text in zip(jobs, LONG, strict=True):
        assert (found[job.id].spec, found[job.id].error) == (job.spec, error(text))
        assert await storage.read(queries.displays, job.id, 1, storage.last_seq) == [{"text": text}]
        entries = await storage.read(queries.log_entries, job.id, 0, 10, None)
        assert [entry.line for entry in entries] == ["before", text, "after"]
    if is_folded:
        listed, _ = await storage.read(queries.list_jobs, **EVERY, limit=100)
        assert [(job.id, job.error) for job in reversed(listed)] == [(job.id, job.error) for job in jobs]


async def test_events_with_long_texts_are_read_as_they_were_in_pages_that_end_where_they_get_large(storage):
    text = source.randbytes(1_000_000).hex()
    for _ in range(5):
        await write(storage, text)
    seen, after, pages = [], 0, 0
    while after < storage.last_seq:
        events, after = await storage.read(events_between, EventQuery(after, storage.last_seq, 1000))
        seen += events
        pages += 1
    assert [event.seq for event in seen] == list(range(1, storage.last_seq + 1))
    assert pages > 3
    for event in seen:
        if event.job is not None:
            assert event.job.spec.input == {"text": text}
        elif event.kind == "job_displayed":
            assert event.data == {"outputs": [{"text": text}]}
        elif event.kind == "job_failed":
            assert event.data["error"] == error(text)
        else:
            assert [entry.line for entry in event.entries] == ["before", text, "after"]


async def test_page_of_events_reads_no_more_text_than_it_has(storage):
    """However many rows with cells of the greatest length follow."""
    jobs = [coded("short") for _ in range(600)]
    changes = [change_of(storage, job) for job in jobs]
    for job, change in zip(jobs, changes, strict=True):
        job.state, job.error, job.event_seq = JobState.FAILED, error("x" * (CELL_BYTES - 500)), storage.next_seq()
        patch = encode({"state": "failed", "error": job.error, "event_seq": job.event_seq}).decode()
        change.transitions = [(job.event_seq, job.id, job.org_id, 1, "job_failed", 0, patch, 1)]
    await storage.commit(changes)
    await fold(storage, *jobs)
    read = 0

    class Weighing:
        """A cursor that adds up the texts of what is fetched."""

        def __init__(self, cursor):
            self.cursor = cursor

        def execute(self, statement, values=()):
            nonlocal read
            found = self.cursor.execute(statement, values)
            rows = found.fetchall() if statement.startswith("SELECT") else []
            read += sum(len(value) for row in rows for value in row if isinstance(value, str))
            return type("Fetched", (), {"fetchall": lambda _: rows})()

    wanted = EventQuery(0, storage.last_seq, 20_000)
    events, upto = await storage.read(lambda cursor: events_between(Weighing(cursor), wanted))
    assert (events[-1].seq, upto < storage.last_seq) == (upto, True)
    assert read < 1.1 * LOG_PAGE_BYTES


async def test_page_of_jobs_ends_by_the_size_of_texts_that_lie_apart(storage):
    jobs = [await write(storage, "x" * 300_000) for _ in range(4)]
    await fold(storage, *jobs)
    listed, is_cut = await storage.read(queries.list_jobs, **EVERY, limit=100, most_bytes=1_000_000)
    assert ([job.id for job in listed], is_cut) == ([jobs[3].id, jobs[2].id], True)


async def test_job_that_moves_on_leaves_nothing_of_the_texts_it_had(storage):
    job = await write(storage, "x" * 100_000)
    await fold(storage, job)
    before = await query(storage, "SELECT count(*) FROM jobs_texts WHERE number = ?", texts.FIELDS)
    job.error, job.event_seq = error("y" * 100_000), storage.next_seq()
    await fold(storage, job)
    assert await query(storage, "SELECT count(*) FROM jobs_texts WHERE number = ?", texts.FIELDS) == before
    assert (await storage.get_job(job.id)).error == job.error
    job.error, job.event_seq = None, storage.next_seq()
    await fold(storage, job)
    assert await query(storage, "SELECT count(*) FROM jobs_texts WHERE number = ?", texts.FIELDS) == [(0,)]


async def test_job_that_moves_on_between_two_statements_of_a_reader_is_read_whole(storage):
    job = await write(storage, "x" * 100_000)
    await fold(storage, job)
    database, moves = storage._writer.database, iter(range(3))

    class Between:
        """A cursor; behind each of its first statements the job moves on."""

        def __init__(self):
            self.cursor = database.cursor()

        def execute(self, statement, values=()):
            found = self.cursor.execute(statement, list(values))
            rows = found.fetchall() if statement.startswith("SELECT") else []
            if next(moves, None) is not None:
                job.error, job.event_seq = error("y" * (100_000 + job.event_seq)), storage.next_seq()
                database.fold([folded_row(job)])
            return type("Found", (), {"fetchall": lambda _: rows})()

    found = queries.jobs_by_id(Between(), [job.id])
    assert found[job.id].error["evalue"].startswith("y")


async def test_jobs_whose_rows_bear_one_number_keep_their_own_texts(storage):
    jobs = [new_job() for _ in range(2)]
    await storage.save_jobs(jobs)
    for job, letter in zip(jobs, "ab", strict=True):
        job.state, job.error, job.event_seq = JobState.FAILED, error(letter * 100_000), 5
    await storage.save_jobs(jobs)
    found = await storage.get_jobs([job.id for job in jobs])
    assert [found[job.id].error for job in jobs] == [job.error for job in jobs]


async def test_missing_piece_is_told_and_no_half_text_is_returned(storage):
    job = await write(storage, "x" * 100_000)
    delete = "DELETE FROM jobs_1_texts WHERE part = 2"
    await storage.write(lambda database: database._connection.execute(delete) and None)
    with pytest.raises(ZBrainError, match=f"{job.id}.*is not whole"):
        await storage.get_job(job.id)


async def test_long_lines_are_searched(storage):
    job = await write(storage, "x" * CELL_BYTES + " Needle \x1b[31mred\x1b[0mdish " + "y" * CELL_BYTES)
    sought = {"needle REDDISH": [1], "xx Needle": [1], "[31m": [], "zzz": [], "after": [2], "e": [0, 1, 2]}
    for text, seqs in sought.items():
        found = await storage.read(search_log, job.id, text, 0, 3, 10, None)
        assert [entry.seq for entry in found.entries] == seqs, text
    found = await storage.read(search_log, job.id, "e", 0, 3, 2, None)
    assert ([entry.seq for entry in found.entries], found.next_seq) == ([0, 1], 2)
    assert "Needle" in found.entries[1].line


@pytest.mark.parametrize(
    "line",
    [MARK, f"{MARK}1:2", f'{MARK}{"0" * 36}:1:2:{"9" * 30}:"', f'{MARK}{"0" * 36}:1:2:5:"'],
    ids=["mark", "part", "number", "reference"],
)
async def test_line_of_the_version_before_that_looks_like_a_reference_is_a_line(storage, monkeypatch, line):
    job = new_job()
    change = change_of(storage, job)
    change.logs.append(lines_of(storage, job, [line, "x"]))
    monkeypatch.setattr("zbrain_nb.store.database.set_aside", lambda kind, rows: (rows, []))
    await storage.commit([change])
    assert [entry.line for entry in await storage.read(queries.log_entries, job.id, 0, 10, None)] == [line, "x"]
    events, _ = await storage.read(events_between, EventQuery(0, storage.last_seq, 10))
    assert [entry.line for entry in events[-1].entries] == [line, "x"]
    found = await storage.read(search_log, job.id, "zbrain", 0, 2, 10, None)
    assert [entry.line for entry in found.entries] == [line]
    pages = HistoryPages(HistoryQuery(table="logs"), storage.last_seq, "token", None)
    stream = await storage.read(pages.begin) + await storage.read(pages.next) + END_OF_STREAM
    assert read_ipc_stream(io.BytesIO(stream)).read_all()["line"].to_pylist() == ["x", line]


async def test_search_of_long_lines_ends_when_its_time_is_over_and_goes_on_from_there(storage):
    job, count = new_job(), 9
    change = change_of(storage, job)
    some = ["x" * (texts.BATCH_BYTES // 2)] * count
    change.logs.append(lines_of(storage, job, ["needle", *some, "needle"]))
    await storage.commit([change])
    ticks, at, seen, calls = itertools.count(step=1.0), 0, [], 0  # each look at the clock is too late
    while at <= count + 1:
        found = await storage.read(search_log, job.id, "NEEDLE", at, count + 2, 100, None, lambda: next(ticks))
        assert at < found.next_seq <= at + 4
        seen += [entry.seq for entry in found.entries]
        at, calls = found.next_seq, calls + 1
    assert (seen, calls > 3) == ([0, count + 1], True)


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        ("jobs", [("code", "CODE"), ("error_text", "TEXT"), ("error_name", "E"), ("kind", "code")]),
        ("attempts", [("error_name", "E"), ("outcome", "failed")]),
        ("events", [("state", "failed")]),
        ("logs", [("line", "TEXT")]),
    ],
)
async def test_history_shows_long_texts_as_they_are(storage, table, wanted):
    texts_of_jobs = ["x" * 100_000, "数" * 30_000, "short"]
    jobs = [await write(storage, text, coded(text + " = 1")) for text in texts_of_jobs]
    await fold(storage, *jobs)
    pages = HistoryPages(HistoryQuery(table=table), storage.last_seq, "token", None)
    stream = await storage.read(pages.begin)
    while (page := await storage.read(pages.next)) is not None:
        stream += page
    rows = read_ipc_stream(io.BytesIO(stream + END_OF_STREAM)).read_all()
    for column, value in wanted:
        found = rows[column].to_pylist()
        for text in texts_of_jobs:
            assert {"TEXT": text, "CODE": text + " = 1"}.get(value, value) in found


async def test_segment_is_dropped_with_its_texts_and_those_of_living_jobs_are_carried(storage):
    gone, living = await write(storage, "g" * 100_000), new_job(input="l" * 100_000)
    await write(storage, "l" * 100_000, living)
    await end(storage, gone)
    living.state, living.event_seq = JobState.RUNNING, living.event_seq
    await fold(storage, living)
    await storage.write(lambda database: database.open_segments(KINDS, time.time()))
    for kind in KINDS:
        segment = next(s for s in await storage.read(read_segments) if s.table == f"{kind}_1")
        needed = await storage.read(needed_jobs, segment, [])
        assert needed == [living.id]
        await storage.write(lambda database, s=segment, n=needed: database.drop_segment(s, n))
        assert await query(storage, f"SELECT DISTINCT job_id::VARCHAR FROM {kind}_texts") == [(living.id,)]
    tables = {name for (name,) in await query(storage, "SELECT table_name FROM duckdb_tables()")}
    assert not {name for name in tables if name.split("_")[1:2] == ["1"]} - {"audit_1"}
    assert (await storage.get_job(living.id)).error == error("l" * 100_000)
    assert await storage.read(queries.displays, living.id, 1, storage.last_seq) == [{"text": "l" * 100_000}]
    lines = [entry.line for entry in await storage.read(queries.log_entries, living.id, 0, 10, None)]
    assert lines == ["before", "l" * 100_000, "after"]


async def test_parents_and_blobs_are_found_wherever_a_long_text_is_cut(storage):
    names = [source.randbytes(32).hex() for _ in range(130)]
    parents = [new_job() for _ in range(1000)]
    await storage.commit([change_of(storage, parent) for parent in parents])
    await end(storage, *parents)
    await storage.write(lambda database: database.open_segments(["jobs"], time.time()))
    child = new_job(after=[parent.id for parent in parents], after_any=True)
    await storage.commit([change_of(storage, child)])
    for place, name in enumerate(names):
        padding = "-" * (CELL_BYTES - 200 + 2 * place)
        await storage.commit([change_of(storage, new_job(input=[padding, name, "x" * CELL_BYTES]))])
    first, last = [s for s in await storage.read(read_segments) if s.kind == "jobs"]
    assert await storage.read(blobs_named, last, [*names, "0" * 64]) == set(names)
    assert set(await storage.read(needed_jobs, first, [])) == {parent.id for parent in parents}


async def test_ids_that_a_long_text_mentions_are_no_parents(storage):
    """Whoever writes ids of others' jobs into a spec does not keep their rows."""
    ended, parent = new_job(), new_job()
    await storage.commit([change_of(storage, job) for job in (ended, parent)])
    await end(storage, ended, parent)
    await storage.write(lambda database: database.open_segments(["jobs"], time.time()))
    child = new_job(input=[f'"after":["{ended.id}"]', ended.id, "x" * CELL_BYTES], after=[parent.id], after_any=True)
    await storage.commit([change_of(storage, child)])
    first = (await storage.read(read_segments))[1]
    assert first.table == "jobs_1"
    assert await storage.read(needed_jobs, first, []) == [parent.id]


async def test_backup_holds_long_texts(storage, tmp_path):
    jobs = [await write(storage, text) for text in LONG]
    await fold(storage, jobs[0])
    await storage.write(lambda database: database.open_segments(KINDS, time.time()))
    jobs.append(await write(storage, LONG[3]))
    backup = start_backup(tmp_path / "backup", storage.path)
    while await storage.read(backup.copy_next):
        pass
    backup.finish()
    with contextlib.closing(duckdb.connect(str(tmp_path / "backup" / "zbrain.duckdb"))) as connection:
        columns = "SELECT data_type, column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
        for table in ("jobs_1", "jobs_1_texts"):
            assert connection.execute(columns, [table]).fetchall() == await query(storage, columns, table)
    copy = Storage(tmp_path / "backup")
    found = await copy.get_jobs([job.id for job in jobs])
    assert [found[job.id].error for job in jobs] == [job.error for job in jobs]
    await copy.close()


async def test_failed_commit_leaves_no_pieces(storage):
    job = await write(storage, "x" * 100_000)
    before = await query(storage, "SELECT count(*) FROM jobs_texts")
    with pytest.raises(ZBrainError):
        await storage.commit([change_of(storage, job)])
    assert await query(storage, "SELECT count(*) FROM jobs_texts") == before


def test_pieces_are_short_and_make_the_text():
    for text, cut in itertools.product(LONG, range(0, 40, 13)):
        pieces = [
            piece for *_, piece in texts.set_aside("transitions", [(1, "j", "o", 1, "k", 0, text[cut:], None)])[1]
        ]
        assert "".join(pieces) in ("", text[cut:])
        assert all(0 < len(piece.encode()) <= CELL_BYTES for piece in pieces)


def test_reason_fits_into_a_cell():
    assert len("😀".encode()) * MAX_REASON + 200 < CELL_BYTES
