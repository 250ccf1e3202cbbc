"""``orgs/{org}/limits``: how much an org may use, and does."""

from __future__ import annotations

from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.quotas import OrgLimits, Quota
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PEOPLE, PERSONS, operation


class LimitsHandler(ApiHandler):
    """``GET`` and ``POST orgs/{org}/limits``."""

    @operation(admits=PEOPLE, answers={200: OrgLimits}, refuses=(InvalidSpec,))
    async def get(self, org_id: str) -> None:
        """Show the limits of an org, and how much of them is used."""
        self.reply(await self.queue.limits(org_id, scope=self.principal))

    @operation(admits=PERSONS, act="set limits", body=Quota, answers={200: OrgLimits})
    async def post(self, org_id: str) -> None:
        """Limit the org, in place of what was set before; for its admins."""
        self.note_object("org", org_id, org_id)
        self.reply(await self.queue.set_limits(org_id, self.decode(Quota), scope=self.principal))
