"""What overviews read: ``GET overview``, which stands above the table of jobs, and how one job was tried."""

from __future__ import annotations

from typing import Annotated

import msgspec

from zbrain_nb.model.errors import JobNotFound
from zbrain_nb.server.handlers.answers import Attempts, FullOverview, StorageUse
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PEOPLE, operation
from zbrain_nb.server.handlers.jobs import job_row


class OverviewQuery(msgspec.Struct):
    """Arguments of ``GET overview``."""

    org: Annotated[str | None, msgspec.Meta(description="Whose jobs; left out, the caller's home.")] = None


class OverviewHandler(ApiHandler):
    """``GET overview?org=``."""

    @operation(admits=PEOPLE, query=OverviewQuery, answers={200: FullOverview})
    async def get(self) -> None:
        """Count the org's jobs, and say how the last minutes went, what is stored and which workers there are."""
        overview = await self.queue.overview(self.query(OverviewQuery).org, scope=self.principal)
        body = msgspec.to_builtins(overview)
        body["workers"] = self.queue.workers(scope=self.principal)
        body["storage"] = await self._storage()
        self.reply(body)

    async def _storage(self) -> StorageUse:
        """Return what is stored: blobs that two people sent lie here once, so all their bytes are for the holder alone.

        Anybody else could send a guess, and see by these numbers whether it was here before.
        """
        if not self.principal.is_holder:
            return StorageUse(artifact_bytes=self.queue.stored.files("owner", self.principal.owner))
        usage = await self.queue.artifact_usage()
        return StorageUse(
            artifact_bytes=usage.size_bytes,
            artifacts=usage.blobs,
            database_bytes=self.queue.database_bytes(),
            free_bytes=usage.free_bytes,
        )


class AttemptsHandler(ApiHandler):
    """``GET jobs/{id}/attempts``."""

    @operation(admits=PEOPLE, answers={200: Attempts}, refuses=(JobNotFound,))
    async def get(self, job_id: str) -> None:
        """Show the job's attempts, and the chain of jobs that Retry made before and after it."""
        job = await self.job(job_id)
        chain = await self.queue.retry_chain(job, scope=self.principal)
        attempts = await self.queue.list_attempts(job.id, scope=self.principal)
        self.reply({"attempts": attempts, "chain": [job_row(each) for each in chain]})
