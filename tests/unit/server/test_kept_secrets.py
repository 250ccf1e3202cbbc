"""What a new process finds of the secrets that another wrote down."""

from __future__ import annotations

from pathlib import Path

import pytest

from zbrain_nb import Job, JobQueue, JobSpec, Storage
from zbrain_nb.server.secrets import Secrets

pytestmark = pytest.mark.anyio
SECRET = "of the data directory"


async def test_new_process_keeps_what_living_jobs_need_and_removes_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    async with JobQueue(Storage.in_memory(), tmp_path / "blobs") as queue:
        old = Secrets(folder, SECRET, queue)
        groups = [[Job(JobSpec(cmd=["true"], secrets=["CALM"])) for _ in range(2)] for _ in range(2)]
        for jobs in groups:
            held = await old.keep(jobs, {"CALM": "correct-horse"})
            await queue.accept(jobs)
            await old.settle(held, held)
        living, ended = groups[0][1], [groups[0][0], *groups[1]]
        await queue.cancel_many([job.id for job in ended])
        (folder / "made elsewhere").write_bytes(b"of another key, or another kind")
        new = Secrets(folder, SECRET, queue)
        await new.start()
        await new.stop()
        assert [path.name for path in folder.iterdir()] == [groups[0][0].id]
        assert queue.holds_secrets(living.id)
        assert not any(queue.holds_secrets(job.id) for job in ended)
        await new.forget([living.id])
        assert list(folder.iterdir()) == []
