"""Routes for operators: the queues, and their pauses."""

from __future__ import annotations

from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.queues import QueueInfo
from zbrain_nb.server.handlers.answers import Queues
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PEOPLE, PERSONS, operation


class QueuesHandler(ApiHandler):
    """``GET queues``."""

    @operation(admits=PEOPLE, answers={200: Queues})
    async def get(self) -> None:
        """List the queues that have something to do, or are paused."""
        self.reply({"queues": await self.queue.queues(scope=self.principal)})


class PauseHandler(ApiHandler):
    """``POST queues/{org}/{kind}/pause``."""

    @operation(admits=PERSONS, act="pause", answers={200: QueueInfo}, refuses=(InvalidSpec,))
    async def post(self, org_id: str, kind: str) -> None:
        """Lease no more of its jobs; what runs goes on."""
        self.note_object("queue", f"{org_id}/{kind}", org_id)
        self.reply(await self.queue.pause(org_id, kind, scope=self.principal))


class ResumeHandler(ApiHandler):
    """``POST queues/{org}/{kind}/resume``."""

    @operation(admits=PERSONS, act="resume", answers={200: QueueInfo}, refuses=(InvalidSpec,))
    async def post(self, org_id: str, kind: str) -> None:
        """Go on."""
        self.note_object("queue", f"{org_id}/{kind}", org_id)
        self.reply(await self.queue.resume(org_id, kind, scope=self.principal))
