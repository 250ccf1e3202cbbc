"""Text is looked for in a log as a view shows it, in pages that say up to where was looked."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from tests.unit.store.test_storage import new_job
from zbrain_nb import Storage
from zbrain_nb.model.events import LOG_PAGE_BYTES, LogEntry
from zbrain_nb.store import searching
from zbrain_nb.store.searching import Found, search_log

pytestmark = pytest.mark.anyio

JOB, OTHER = new_job().id, new_job().id


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    storage = Storage.in_memory()
    yield storage
    await storage.close()


async def write(storage: Storage, *lines: str, stream: str = "stdout", start: int = 0) -> None:
    await storage.append_logs(JOB, [LogEntry(start + n, 1, stream, 1.5, line) for n, line in enumerate(lines)])


async def search(storage: Storage, text: str, from_seq: int = 0, limit: int = 100, stream: str | None = None) -> Found:
    return await storage.read(search_log, JOB, text, from_seq, 1_000, limit, stream)


async def seqs(storage: Storage, text: str, **wanted: object) -> list[int]:
    return [entry.seq for entry in (await search(storage, text, **wanted)).entries]  # type: ignore[arg-type]


async def test_text_is_found_in_either_case_and_means_itself(storage: Storage) -> None:
    await write(storage, "Epoch 1: 100% of it_s done", "epoch 2: 100 of its done", "ÄRGER 'im' \"Log\"", "e.och")
    await storage.append_logs(OTHER, [LogEntry(0, 1, "stdout", 1.5, "epoch of another job")])
    assert await seqs(storage, "EPOCH") == [0, 1]
    assert await seqs(storage, "100%") == [0]
    assert await seqs(storage, "it_s") == [0]
    assert await seqs(storage, "e.och") == [3]
    assert await seqs(storage, "ärger 'IM' \"log\"") == [2]
    assert (await search(storage, "nowhere")) == Found([], 1_000)


async def test_escape_sequences_are_looked_through(storage: Storage) -> None:
    await write(storage, "\x1b[31mERR\x1b[0mOR in \x1b]0;a title\x07it", "31m")
    assert await seqs(storage, "error in it") == [0]
    assert await seqs(storage, "title") == []
    assert await seqs(storage, "31m") == [1]


async def test_pages_go_on_where_the_last_one_ended(storage: Storage) -> None:
    await write(storage, *("hit" if n % 3 == 0 else "miss" for n in range(20)))
    await write(storage, "hit", stream="stderr", start=20)
    first = await search(storage, "hit", limit=4)
    assert ([entry.seq for entry in first.entries], first.next_seq) == ([0, 3, 6, 9], 10)
    second = await search(storage, "hit", from_seq=first.next_seq, limit=4)
    assert ([entry.seq for entry in second.entries], second.next_seq) == ([12, 15, 18, 20], 21)
    assert (await search(storage, "hit", from_seq=second.next_seq, limit=4)) == Found([], 1_000)
    assert await seqs(storage, "hit", stream="stderr") == [20]
    assert second.entries[-1] == LogEntry(20, 1, "stderr", 1.5, "hit")


async def test_search_out_of_time_says_how_far_it_looked(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(storage, *("miss" for _ in range(30)), "hit")
    monkeypatch.setattr(searching, "FIRST_WINDOW", 10)
    seen = []
    at = 0
    while at < 31:
        ticks = itertools.count(0, searching.BUDGET_SECS)  # each window takes all the time there is
        found = await storage.read(search_log, JOB, "hit", at, 31, 100, None, lambda ticks=ticks: next(ticks))
        assert found.next_seq > at
        at = found.next_seq
        seen.append((at, len(found.entries)))
    assert seen == [(10, 0), (20, 0), (30, 0), (31, 1)]


async def test_page_of_long_lines_ends_at_its_size(storage: Storage) -> None:
    long = "hit" + "x" * 1024 * 1024
    await write(storage, *[long] * 10)
    seen: list[int] = []
    at = 0
    while at < 1_000:
        found = await search(storage, "hit", from_seq=at)
        assert sum(len(entry.line) for entry in found.entries) < LOG_PAGE_BYTES + len(long)
        seen += [entry.seq for entry in found.entries]
        at = found.next_seq
    assert seen == list(range(10))
