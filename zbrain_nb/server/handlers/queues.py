"""Routes for operators: the queues, and their pauses."""

from __future__ import annotations

from zbrain_nb.server.handlers.base import PEOPLE, PERSONS, ApiHandler, admitting


class QueuesHandler(ApiHandler):
    """``GET queues``."""

    admits = admitting(GET=PEOPLE)

    async def get(self) -> None:
        """List the queues that have something to do, or are paused."""
        self.reply({"queues": await self.queue.queues(scope=self.principal)})


class PauseHandler(ApiHandler):
    """``POST queues/{org}/{kind}/pause``."""

    admits = admitting(POST=PERSONS)

    async def post(self, org_id: str, kind: str) -> None:
        """Lease no more of its jobs; what runs goes on."""
        self.reply(await self.queue.pause(org_id, kind, scope=self.principal))


class ResumeHandler(ApiHandler):
    """``POST queues/{org}/{kind}/resume``."""

    admits = admitting(POST=PERSONS)

    async def post(self, org_id: str, kind: str) -> None:
        """Go on."""
        self.reply(await self.queue.resume(org_id, kind, scope=self.principal))
