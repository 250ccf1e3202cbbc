"""Pages of logs and events end where they get large, so that long lines need no more memory than short ones."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.store.test_storage import new_job
from zbrain_nb import Storage
from zbrain_nb.model.events import LOG_PAGE_BYTES, LogEntry
from zbrain_nb.store import queries
from zbrain_nb.store.events import EventQuery, events_between

pytestmark = pytest.mark.anyio
LONG = "x" * 64 * 1024
LINES = 200


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    storage = Storage.in_memory()
    yield storage
    await storage.close()


async def test_log_page_of_long_lines_ends_at_its_size_and_the_next_goes_on(storage: Storage) -> None:
    job = new_job()
    await storage.append_logs(job.id, [LogEntry(seq, 1, "stdout", 1.5, LONG) for seq in range(LINES)])
    seen: list[int] = []
    while page := await storage.read(queries.log_entries, job.id, len(seen), 1000, None):
        assert sum(len(entry.line) for entry in page) < LOG_PAGE_BYTES + len(LONG)
        seen += [entry.seq for entry in page]
    assert seen == list(range(LINES))


async def test_event_page_of_long_lines_ends_at_its_size_and_no_event_is_cut(storage: Storage) -> None:
    job = new_job()
    await storage.save_job(job)
    for start in range(0, LINES, 10):
        await storage.append_logs(job.id, [LogEntry(start + n, 1, "stdout", 1.5, LONG) for n in range(10)])
    seen: list[int] = []
    after = 0
    while after < storage.last_seq:
        wanted = EventQuery(after, storage.last_seq, 1000, [job.id])
        events, after = await storage.read(events_between, wanted)
        lines = [entry for event in events for entry in event.entries]
        assert sum(len(entry.line) for entry in lines) < LOG_PAGE_BYTES + 10 * len(LONG)
        seen += [entry.seq for entry in lines]
    assert seen == list(range(LINES))
