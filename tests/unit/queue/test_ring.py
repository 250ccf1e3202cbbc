"""Recent lines of live jobs come from memory, and are the very lines that the store has."""

from __future__ import annotations

import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb.model.events import JobCompleted, JobLogged, JobProgress, LogStream
from zbrain_nb.queue.ring import Ring
from zbrain_nb.store import queries
from zbrain_nb.store.lines import Lines

pytestmark = pytest.mark.anyio


def lines(job_id: str, first: int, count: int, text: str = "x") -> Lines:
    texts = tuple(f"{text}{first + i}" for i in range(count))
    return Lines(job_id, first, 1, None, 1, (LogStream.STDOUT,) * count, [5] * count, texts, len("".join(texts)))


@pytest.fixture
def no_store(queue, monkeypatch):
    """Let the store refuse to read logs from now on."""

    async def refuse(query, *asked):
        raise AssertionError(f"the store was asked: {query.__name__}{asked}")

    return lambda: monkeypatch.setattr(queue.storage, "read", refuse)


async def test_live_job_is_served_from_memory_alike(queue, no_store):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(
        JobLogged(job.id, attempt=1, lines=[("stdout", 1.2345678, "a"), ("stderr", 2.5, "ö"), ("stdout", 3, "\ud800")]),
        JobProgress(job.id, attempt=1, stdout="b\nc\n", stderr="d"),
    )
    await hand.send(JobLogged(job.id, attempt=1, lines=[("system", 4.0, "e")]))
    stored = await queue.storage.read(queries.log_entries, job.id, 0, 100, None)
    assert [str(entry) for entry in stored] == ["a", "ö", "?", "b", "c", "d", "e"]
    no_store()
    for from_seq in range(9):
        for limit in (0, 1, 3, 100):
            assert await queue.get_logs(job.id, from_seq, limit) == stored[from_seq : from_seq + limit]
    assert await queue.get_logs(job.id, -5) == stored
    for stream in LogStream:
        wanted = [entry for entry in stored if entry.stream is stream]
        assert await queue.get_logs(job.id, 0, 100, stream) == wanted
        assert await queue.get_logs(job.id, 0, 1, stream) == wanted[:1]


async def test_lines_before_the_ring_and_of_ended_jobs_come_from_the_store(queue):
    queue._watch.ring = Ring(max_lines=4)
    hand = await Hand(queue).register()
    job = await hand.run()
    for i in range(10):
        await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, f"{i}")]))
    assert queue._watch.ring.read(job.id, 0, 100) is None
    assert [str(entry) for entry in queue._watch.ring.read(job.id, 6, 100)] == ["6", "7", "8", "9"]
    assert [str(entry) for entry in await queue.get_logs(job.id)] == [str(i) for i in range(10)]
    await hand.send(JobCompleted(job.id, attempt=1))
    assert (len(queue._watch.ring), queue._watch.ring.held_bytes) == (0, 0)
    assert len(await queue.get_logs(job.id, 6)) == 4


async def test_ring_holds_only_what_is_durable(queue, monkeypatch):
    hand = await Hand(queue).register()
    job = await hand.run()
    append = queue.storage.append
    monkeypatch.setattr(queue.storage, "append", lambda changes, done: done(None, RuntimeError("no disk")))
    with pytest.raises(Exception, match="could not write"):
        await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "lost")]))
    monkeypatch.setattr(queue.storage, "append", append)
    await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "kept")]))
    assert [str(entry) for entry in await queue.get_logs(job.id)] == ["kept"]


async def test_ring_of_a_job_found_at_the_start_begins_with_its_next_line(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "before")]))
    await queue.close()
    await hand.register()
    await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "after")]))
    assert queue._watch.ring.read(job.id, 0, 10) is None
    assert [str(entry) for entry in await queue.get_logs(job.id)] == ["before", "after"]


def test_ring_is_bounded_in_bytes_and_the_silent_give_first() -> None:
    ring = Ring(max_lines=1000, max_bytes=10_000)
    for job in "abc":
        for i in range(10):
            ring.add(lines(job, i * 5, 5))
    assert ring.held_bytes <= 10_000
    assert ring.held_bytes == sum(one.size_bytes for tail in ring._tails.values() for one in tail)
    assert ring.read("c", 0, 100) is not None
    assert ring.read("b", 49, 100) is not None
    assert ring.read("b", 0, 100) is None
    assert list(ring._tails) == ["b", "c"]
    ring.add(lines("d", 0, 1000))  # more than all bounds: it stays alone
    assert list(ring._tails) == ["d"]
    ring.drop("d")
    assert ring.held_bytes == 0


def test_one_event_of_many_lines_is_cut_to_the_newest() -> None:
    ring = Ring(max_lines=10)
    ring.add(lines("j", 0, 1000))
    assert [entry.seq for entry in ring.read("j", 990, 100)] == list(range(990, 1000))
    assert [entry.line for entry in ring.read("j", 998, 100)] == ["x998", "x999"]
    assert ring.read("j", 989, 100) is None


def test_lines_that_do_not_follow_begin_anew() -> None:
    ring = Ring()
    ring.add(lines("j", 0, 5))
    ring.add(lines("j", 7, 2))
    assert ring.read("j", 4, 100) is None
    assert [entry.seq for entry in ring.read("j", 7, 100)] == [7, 8]
    assert ring.held_bytes == lines("j", 7, 2).size_bytes
