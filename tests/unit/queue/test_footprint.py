"""What stays in memory is bounded by what it takes, and not by its number alone."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tracemalloc
from types import SimpleNamespace

import duckdb
import msgspec
import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import CancelResult, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import OverQuota
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.queue import index, loading, memory
from zbrain_nb.queue.taken import MAX_BYTES, TakenEvents
from zbrain_nb.store import texts, waiting
from zbrain_nb.store.footprint import JOB_BYTES, extra_bytes, extra_bytes_of_spec
from zbrain_nb.store.rows import encode
from zbrain_nb.store.texts import fetch_whole

pytestmark = pytest.mark.anyio

LARGE = "x" * 20_000
CODE = "print(f(x, [1, 2]), {'a': 3})\n" * 600


@pytest.fixture
async def queue(tmp_path, clock):
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada") as opened:
        yield opened


@pytest.fixture
def narrow_windows(monkeypatch):
    monkeypatch.setattr(memory, "WINDOWS_BYTES", 120_000)
    monkeypatch.setattr(memory, "LANE_BYTES", 10_000)


def spec(**fields):
    return JobSpec(cmd=["true"], **fields)


async def lease_all(queue):
    hand = await Hand(queue).register()
    found = []
    while queue._index.ready.parked or queue._index.ready.lanes:
        jobs = await hand.lease(wait_secs=5.0 if queue._index.ready.parked else 0.05)
        if not jobs:
            break
        found += [job.id for job in jobs]
    return found


@pytest.mark.parametrize(
    "value", [[{}] * 5000, [[]] * 5000, ["xé"] * 5000, "x" * 90_000 + "😀", [[n, {"a": 1.5}] for n in range(3000)]]
)
async def test_estimate_is_no_less_than_what_it_takes_in_memory(value):
    text = json.dumps(value, ensure_ascii=False).encode()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    decoded = msgspec.json.decode(text)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert decoded
    assert taken <= JOB_BYTES + extra_bytes(text) < 12 * taken
    spec_of_it = encode(spec(input=value))
    assert taken <= JOB_BYTES + extra_bytes_of_spec(spec_of_it) < JOB_BYTES + extra_bytes(spec_of_it)


@pytest.mark.parametrize("text", [CODE, CODE + "µ", CODE + "Ж", CODE + "😀", "数," * 9000])
def test_estimate_of_text_is_close_whatever_it_says(text):
    taken = sys.getsizeof(text)
    assert taken < JOB_BYTES + extra_bytes_of_spec(encode(JobSpec(code=text))) < 1.2 * taken + JOB_BYTES


@pytest.mark.parametrize(
    ("text", "is_wide"), [("x", False), ("\x1b[31m", False), ("é", False), ("数", True), ("😀", True)]
)
def test_characters_that_are_escaped_count_as_wide_as_they_are(text, is_wide):
    encoded = json.dumps("x" * 50_000 + text).encode()
    assert encoded.isascii()
    assert sys.getsizeof(json.loads(encoded)) <= extra_bytes(encoded)
    assert (extra_bytes(encoded) > 3 * len(encoded)) == is_wide


VALUES = [{}, LARGE, [{}] * 900, ["é"] * 900, "😀" * 900]


async def extras(queue):
    rows = await queue.storage.read(fetch_whole, "jobs", "SELECT id::VARCHAR, extra_bytes, spec FROM jobs", [], 2)
    return {job_id: (extra or 0, extra_bytes_of_spec(spec.encode())) for job_id, extra, spec in rows}


async def test_store_and_queue_estimate_alike(queue):
    ids = await queue.submit_many([spec(input=value) for value in VALUES])
    for _ in range(2):
        sizes = {job_id: queue._index.live[job_id].size - JOB_BYTES for job_id in ids}
        assert await extras(queue) == {job_id: (size, size) for job_id, size in sizes.items()}
        await queue.close()
        await queue.open()


async def test_jobs_of_the_version_before_are_estimated_no_less_than_they_take(queue, monkeypatch):
    monkeypatch.setattr(texts, "_SHORT", 1 << 30)  # it kept long texts in their rows
    ids = await queue.submit_many([spec(input=value) for value in VALUES])
    await queue.close()
    with duckdb.connect(str(queue.storage.path)) as connection:
        connection.execute("DROP INDEX jobs_1_id; ALTER TABLE jobs_1 DROP COLUMN extra_bytes")
        connection.execute("CREATE UNIQUE INDEX jobs_1_id ON jobs_1 (id)")
        connection.execute("UPDATE meta SET value = '8' WHERE key = 'schema_version'")
    await queue.open()
    assert (await extras(queue))[ids[0]] == (0, 0)
    assert all(kept >= told for kept, told in (await extras(queue)).values())
    await queue.submit(spec(input=LARGE))


class Watched:
    """A cursor that notes of how many rows a statement looked at the specs, at most."""

    def __init__(self, cursor):
        self.cursor = cursor
        self.specs = 0

    def execute(self, statement, params=()):
        rows = self.cursor.execute(statement, params).fetchall()
        self.specs = max(self.specs, len(rows) if "spec" in statement else 0)
        return SimpleNamespace(fetchall=lambda: rows)


async def test_page_of_large_jobs_looks_at_no_spec_but_those_that_fit(queue):
    await queue.submit_many([spec(input=LARGE) for _ in range(40)])
    (lane,) = queue._index.ready.lanes.values()

    def read(cursor):
        watched = Watched(cursor)
        found, has_more = waiting.page(watched, lane.text, 0, 0, 30, 85_000)
        return len(found), has_more, watched.specs

    assert await queue.storage.read(read) == (3, True, 3)


@pytest.mark.usefixtures("narrow_windows")
async def test_large_waiting_jobs_are_parked_and_leased_in_order(queue):
    ids = await queue.submit_many([spec(input=LARGE) for _ in range(30)])
    assert len(queue._index.live) < 8
    ids = await queue.submit_many([spec(input=LARGE, priority=1) for _ in range(30)]) + ids
    assert len(queue._index.live) < 12
    assert await lease_all(queue) == ids
    assert queue._index.ready.memory.held == 0


@pytest.mark.usefixtures("narrow_windows")
async def test_large_jobs_of_one_lane_leave_others_their_room(queue):
    large = await queue.submit_many([spec(input=LARGE) for _ in range(30)])
    small = await queue.submit_many([spec(concurrency_group=f"g{n}") for n in range(3) for _ in range(4)])
    assert all(job_id in queue._index.live for job_id in small)
    assert sorted(await lease_all(queue)) == sorted([*large, *small[::4]])  # the groups let one run at a time


@pytest.mark.usefixtures("narrow_windows")
async def test_job_larger_than_all_room_is_leased(queue):
    ids = await queue.submit_many([spec(input=LARGE * 20) for _ in range(4)])
    assert len(queue._index.live) == 1
    assert await lease_all(queue) == ids


@pytest.mark.usefixtures("narrow_windows")
async def test_no_more_large_jobs_than_fit_are_in_memory_when_opened_again(queue):
    ids = await queue.submit_many([spec(input=LARGE) for _ in range(30)])
    await queue.close()
    await queue.open()
    assert len(queue._index.live) < 8
    assert queue.active_jobs() == 30
    assert await queue.cancel_job(ids[-1]) is CancelResult.CANCELED
    assert await lease_all(queue) == ids[:-1]


@pytest.mark.parametrize("reopened", [False, True])
async def test_large_jobs_in_many_lanes_are_refused_beyond_their_room(queue, monkeypatch, reopened):
    """The first of each is in memory, whatever it takes."""
    monkeypatch.setattr(memory, "FIRST_BYTES_EACH", 50_000)
    hand = await Hand(queue).register()
    ids = {group: [await queue.submit(spec(input=LARGE, concurrency_group=group)) for _ in range(3)] for group in "ab"}
    small = await queue.submit(spec(concurrency_group="c"))
    if reopened:
        await queue.close()
        await queue.open()
        await hand.register()
    other = spec(input=LARGE, concurrency_group="c")
    with pytest.raises(OverQuota, match="differ in kind, org, resources or concurrency group") as refused:
        await queue.submit(other)
    assert refused.value.details["quota"] == "owner_first_bytes"
    with pytest.raises(OverQuota):
        await queue.submit_many([spec(), other])
    await queue.submit_many([spec(input=LARGE, concurrency_group="a")] * 2)  # the lane has taken as much before
    await queue.submit(other, owner="bob")
    await queue.submit(spec(concurrency_group="d"))
    await queue.cancel_many([*ids["b"], small])
    results = await asyncio.gather(*(queue.submit(other) for _ in range(2)), return_exceptions=True)
    assert [type(one) for one in results] == [str, str]
    with pytest.raises(OverQuota):
        await queue.submit(spec(input=LARGE, concurrency_group="b"))


async def test_large_jobs_in_many_lanes_are_no_more_than_their_room_when_they_come_at_once(queue, monkeypatch):
    monkeypatch.setattr(memory, "FIRST_BYTES_EACH", 50_000)
    many = [spec(input=LARGE, concurrency_group=group) for group in "abcd"]
    results = await asyncio.gather(*map(queue.submit, many), return_exceptions=True)
    assert [type(one) for one in results] == [str, str, OverQuota, OverQuota]
    await queue.cancel_many(results[:2])
    assert queue._index.ready.owners == {}


@pytest.fixture
def little_kept(monkeypatch):
    monkeypatch.setattr(memory, "KEPT_BYTES_EACH", 100_000)
    monkeypatch.setattr(memory, "KEPT_BYTES", 170_000)
    monkeypatch.setattr(memory, "KEPT_BYTES_FREE", 40_000)


@pytest.mark.usefixtures("little_kept")
async def test_large_jobs_that_wait_for_others_are_refused_beyond_their_room(queue):
    parent = await queue.submit(spec())
    large = spec(input=LARGE, after=[parent])
    with pytest.raises(OverQuota, match="in parts") as refused:
        await queue.submit_many([large] * 5)
    assert refused.value.details["quota"] == "owner_kept_bytes"
    results = await asyncio.gather(*(queue.submit(large) for _ in range(6)), return_exceptions=True)
    assert [type(one) for one in results] == [str] * 4 + [OverQuota] * 2
    await queue.submit_many([large] * 2, owner="bob")
    await queue.submit(large, owner="eve")
    with pytest.raises(OverQuota) as refused:
        await queue.submit(large, owner="eve")
    assert refused.value.details["quota"] == "host_kept_bytes"
    await queue.submit_many([spec(after=[parent]) for _ in range(1000)])
    await queue.submit_many([spec(input=LARGE)] * 5)


@pytest.mark.usefixtures("little_kept")
async def test_code_that_waits_for_others_counts_with_its_length(queue):
    parent = await queue.submit(spec())
    child = JobSpec(code=CODE + "µ", after=[parent])
    room = 100_000 // len(CODE)
    await queue.submit_many([child] * (room - 1))
    with pytest.raises(OverQuota):
        await queue.submit_many([child] * 2)


@pytest.mark.usefixtures("little_kept")
@pytest.mark.parametrize("reopened", [False, True])
async def test_jobs_that_wait_for_others_give_their_room_back_as_they_start_or_end(queue, reopened):
    hand = await Hand(queue).register()
    parent = await hand.run()
    ids = await queue.submit_many([spec(input=LARGE, after=[parent.id], max_retries=1) for _ in range(4)])
    if reopened:
        await queue.close()
        await queue.open()
        await hand.register()
    each = queue._index.live[ids[0]].size - JOB_BYTES
    assert queue._index.ready.memory.kept == queue._index.ready.owners["ada"].kept == 4 * each
    await hand.send(JobCompleted(parent.id, attempt=1))
    assert queue._index.ready.memory.kept == 4 * each
    await queue.cancel_job(ids[0])
    (job,) = await hand.lease()
    assert queue._index.ready.memory.kept == 2 * each
    await hand.send(JobFailed(job.id, attempt=1))
    assert (await queue.get(job.id)).state is JobState.RETRYING
    assert queue._index.ready.memory.kept == 3 * each
    for job_id in ids:
        await queue.cancel_job(job_id)
    assert queue._index.ready.memory.kept == queue._index.ready.memory.held == 0
    assert "ada" not in queue._index.ready.owners


async def test_ended_jobs_that_take_much_are_forgotten_and_found_again(queue, monkeypatch):
    monkeypatch.setattr(index, "RECENT_BYTES", 100_000)
    monkeypatch.setattr(index, "MOST_RECENT_BYTES_EACH", 50_000)
    hand = await Hand(queue).register()
    ids = []
    for output in (LARGE, LARGE * 4, LARGE, LARGE, LARGE, LARGE, LARGE):
        job = await hand.run()
        await hand.send(JobCompleted(job.id, attempt=1, output=output))
        ids.append(job.id)
    assert [job_id for job_id in ids if job_id in queue._index.recent] == ids[-4:]
    jobs = [await queue.get(job_id) for job_id in ids]
    assert [(job.state, len(job.output)) for job in jobs[:3]] == [
        (JobState.SUCCEEDED, len(LARGE)),
        (JobState.SUCCEEDED, 4 * len(LARGE)),
        (JobState.SUCCEEDED, len(LARGE)),
    ]


@pytest.mark.parametrize("what", ["cancel", "wait for"])
async def test_command_may_name_more_ended_jobs_than_stay_in_memory(queue, monkeypatch, what):
    """Some were there when it was prepared, and gave way to the others of its own."""
    monkeypatch.setattr(index, "RECENT_BYTES", 100_000)
    ids = await queue.submit_many([spec(input=LARGE) for _ in range(8)])
    await queue.cancel_many(ids)
    assert 0 < len(queue._index.recent) < len(ids)
    async with asyncio.timeout(10):
        if what == "cancel":
            await queue.cancel_many(ids)
        else:
            await queue.submit(spec(after=ids, after_any=True))


async def test_jobs_that_took_much_are_folded_before_the_pause_is_over(queue, monkeypatch):
    monkeypatch.setattr(loading, "FOLD_PAUSE_SECS", 3600.0)
    monkeypatch.setattr(loading, "FOLD_BYTES", 50_000)
    hand = await Hand(queue).register()
    jobs = [await hand.run() for _ in range(3)]
    await hand.send(*(JobCompleted(job.id, attempt=1, output=LARGE) for job in jobs))
    async with asyncio.timeout(10):
        while queue._index.unfolded:
            await queue.storage.read(lambda cursor: None)
    assert (await queue.get(jobs[0].id)).output == LARGE


async def test_nothing_holds_what_a_large_ended_job_was_sent_and_left(queue):
    sent, left = 70_001, 70_003
    hand = await Hand(queue).register()
    job = await hand.run(spec(input=[0] * sent))
    await hand.send(JobCompleted(job.id, attempt=1, output=[0] * left))
    job = await hand.run()
    await hand.send(JobCompleted(job.id, attempt=1))
    await queue.fold()
    gc.collect()
    assert not [len(one) for one in gc.get_objects() if type(one) is list and len(one) in (sent, left)]


async def test_watched_events_count_with_the_outputs_that_they_carry():
    events = TakenEvents()
    events.extend([JobCompleted("job", output=[{}] * 40_000) for _ in range(5)])
    assert len(events._events) * 40_000 * 64 <= MAX_BYTES
