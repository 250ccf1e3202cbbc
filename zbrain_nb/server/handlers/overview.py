"""``GET overview``: what stands above the table of jobs."""

from __future__ import annotations

import msgspec

from zbrain_nb.server.handlers.base import ApiHandler


class OverviewHandler(ApiHandler):
    """``GET overview?org=``."""

    async def get(self) -> None:
        """Count the org's jobs, and say how the last minutes went, what is stored and which workers there are."""
        overview = await self.queue.overview(self.get_query_argument("org", "") or None)
        now = self.queue.measures()
        usage = await self.queue.artifact_usage()
        body = msgspec.to_builtins(overview)
        body["workers"] = self.queue.workers()
        body["storage"] = {
            "database_bytes": now.database_bytes + now.wal_bytes,
            "artifacts": usage.blobs,
            "artifact_bytes": usage.size_bytes,
            "free_bytes": usage.free_bytes,
        }
        self.reply(body)
