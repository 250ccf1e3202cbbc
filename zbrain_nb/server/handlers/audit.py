"""``GET audit``: who did what, for those who administer an org."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import msgspec
from msgspec import Meta

from zbrain_nb.model.access import Verb
from zbrain_nb.model.audit import Record
from zbrain_nb.model.errors import Forbidden
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PERSONS, operation
from zbrain_nb.store.audit import AuditQuery

MAX_LIST = 10_000


class AuditArguments(msgspec.Struct):
    """Arguments of ``GET audit``."""

    org: Annotated[str | None, Meta(description="Records of this org.")] = None
    who: Annotated[str | None, Meta(description="Acts of this owner.")] = None
    verb: Annotated[str | None, Meta(description="Acts of this name.")] = None
    since: Annotated[dt.datetime | None, Meta(description="Records from this time on.")] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = 100
    cursor: Annotated[int, Meta(ge=0, le=2**53, description="`next_cursor` of the page before.")] | None = None


class AuditPage(msgspec.Struct):
    """Records, newest first; ``next_cursor`` asks for those behind them and is null on the last page."""

    records: list[Record]
    next_cursor: int | None


class AuditHandler(ApiHandler):
    """``GET audit``."""

    @operation(admits=PERSONS, act="read audit", query=AuditArguments, answers={200: AuditPage})
    async def get(self) -> None:
        """List who did what, newest first: to admins of their orgs, to who holds the data directory all.

        An act is in it half a second later at most; asking writes what is still held.
        """
        wanted = self.query(AuditArguments)
        orgs = self._orgs(wanted.org)
        found = await self.context.audit.read(
            AuditQuery(
                orgs=orgs,
                who=wanted.who,
                verb=wanted.verb,
                since=wanted.since,
                before=wanted.cursor,
                limit=wanted.limit,
            )
        )
        is_full = len(found) == wanted.limit
        self.note_orgs("audit", "", orgs or (), len(found))
        self.reply({"records": found, "next_cursor": found[-1].seq if is_full else None})

    def _orgs(self, org_id: str | None) -> list[str] | None:
        """Return of which orgs the caller may read the audit, or this one if it may."""
        by = self.principal
        if org_id is not None:
            by.check(Verb.ADMINISTER, org_id)
            return [org_id]
        if by.roles is None:
            return None
        orgs = [one for one in by.roles if by.may(Verb.ADMINISTER, one)]
        if not orgs:
            raise Forbidden(f"{by.owner} administers no org.", "The audit is for admins.")
        return orgs
