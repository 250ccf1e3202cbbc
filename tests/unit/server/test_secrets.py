"""The values of secrets: handed to the attempt that runs, and to the worker that runs it."""

import pytest

from tests.unit.queue.stage import FakeClock, Hand
from zbrain_nb import Job, JobQueue, JobSpec, Storage
from zbrain_nb.model.events import JobFailed
from zbrain_nb.model.protocol import Lease
from zbrain_nb.model.sealing import SealingKey
from zbrain_nb.server.secrets import Secrets

pytestmark = pytest.mark.anyio
VALUE = {"KEY": "a value of somebody's"}


async def test_lease_that_went_to_another_worker_meanwhile_gets_no_value(tmp_path):
    """An answer under way may be older than what was decided since: who lost the lease is told nothing any more."""
    clock, key = FakeClock(), SealingKey()
    queue = JobQueue(Storage.in_memory(), tmp_path / "blobs", clock=clock, owner="ada")
    secrets = Secrets(tmp_path / "secrets", "5" * 64, queue)

    async def handed(worker_id, leased):
        lease = Lease(leased)
        await secrets.hand_over(worker_id, lease, key.public)
        return key.open(lease.sealed) if lease.sealed else None

    async with queue:
        job = Job(JobSpec(cmd=["true"], secrets=["KEY"], max_retries=1))
        held = await secrets.keep([job], VALUE)
        await queue.accept([job])
        await secrets.settle(held, held)
        one, two = await Hand(queue, "one").register(), await Hand(queue, "two").register()
        (first,) = await one.lease()
        assert await handed("one", first) == VALUE
        await one.send(JobFailed(job.id, attempt=1, after=0, seq=1))
        assert await handed("one", first) is None, "it does not run"
        clock.advance(3600)
        queue.tick()
        (second,) = await two.lease()
        assert await handed("one", first) is None, "an earlier attempt"
        assert await handed("one", second) is None, "of another worker"
        assert await handed("two", second) == VALUE
    await queue.storage.close()
