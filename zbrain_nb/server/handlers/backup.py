"""``POST backup``: a copy of everything, made by the host while it serves. Not relayed: it writes on this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec

from zbrain_nb.model.errors import Conflict
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PERSONS, operation


class BackupRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of the request and of the answer: ``to`` is an absolute path on the host's machine."""

    to: str


class BackupHandler(ApiHandler):
    """``POST backup``."""

    @operation(admits=PERSONS, act="backup", body=BackupRequest, answers={201: BackupRequest}, refuses=(Conflict,))
    async def post(self) -> None:
        """Make the backup; 201 when it is whole. The relay does not show this route."""
        self.principal.check_holder("make a backup")
        wanted = self.decode(BackupRequest)
        self.note_object("folder", wanted.to)
        await self.context.maintenance.back_up(Path(wanted.to))
        self.reply({"to": wanted.to}, 201)
