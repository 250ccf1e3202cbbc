"""Routes for operators: the queues, and their pauses."""

from __future__ import annotations

from zbrain_nb.server.handlers.base import ApiHandler


class QueuesHandler(ApiHandler):
    """``GET queues``."""

    async def get(self) -> None:
        """List the queues that have something to do, or are paused."""
        self.reply({"queues": await self.queue.queues()})


class PauseHandler(ApiHandler):
    """``POST queues/{org}/{kind}/pause``."""

    async def post(self, org_id: str, kind: str) -> None:
        """Lease no more of its jobs; what runs goes on."""
        self.reply(await self.queue.pause(org_id, kind, by=self.context.owner))


class ResumeHandler(ApiHandler):
    """``POST queues/{org}/{kind}/resume``."""

    async def post(self, org_id: str, kind: str) -> None:
        """Go on."""
        self.reply(await self.queue.resume(org_id, kind))
