"""``GET whoami``: as whom the server sees the caller, so that clients tell one's own jobs from those of others."""

from __future__ import annotations

from zbrain_nb.model.protocol import Identified
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PEOPLE, operation


class WhoAmIHandler(ApiHandler):
    """``GET whoami``."""

    @operation(admits=PEOPLE, answers={200: Identified})
    def get(self) -> None:
        """Say whose jobs the caller's are, where its jobs go, and its roles; no roles are said of who may all."""
        who = self.principal
        self.reply(Identified(who.owner, who.home, None if who.roles is None else dict(who.roles)))
