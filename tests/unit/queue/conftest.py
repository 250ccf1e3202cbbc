from collections.abc import AsyncIterator

import pytest

from tests.unit.queue.stage import FakeClock
from zbrain_nb import JobQueue, Storage


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def queue(tmp_path, clock) -> AsyncIterator[JobQueue]:
    """A queue in memory whose clock stands still, with no randomness in its back-off."""
    queue = JobQueue(Storage.in_memory(), tmp_path / "blobs", clock=clock, owner="ada", lease_ttl_secs=60)
    queue._endings._jitter = lambda: 1.0
    async with queue:
        yield queue
    await queue.storage.close()
