"""``GET history``: a table of the history as an Arrow IPC stream."""

from __future__ import annotations

import datetime as dt
from contextlib import aclosing, suppress
from typing import Annotated

import msgspec
from msgspec import Meta
from tornado.iostream import StreamClosedError

from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.history import MEDIA_TYPE, HistoryQuery, TableName
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PEOPLE, Content, operation


class HistoryArguments(msgspec.Struct):
    """Arguments of ``GET history`` (see `HistoryQuery`)."""

    table: TableName
    columns: Annotated[list[str], Meta(description="Of the table, in order; left out, all.")] = []
    since: Annotated[dt.datetime | None, Meta(description="Rows from this time on.")] = None
    after: (
        Annotated[int, Meta(ge=0, le=2**53, description="Rows that were added or changed behind this `event_seq`.")]
        | None
    ) = None
    epoch: Annotated[str | None, Meta(description="Of the stream that named `after`.")] = None
    org: Annotated[str | None, Meta(description="Rows of this org.")] = None
    job: Annotated[str | None, Meta(description="Rows of the job with this id.")] = None
    limit: Annotated[int, Meta(ge=1, le=2**53, description="The newest rows only, at most so many.")] | None = None


class HistoryHandler(ApiHandler):
    """``GET history``."""

    @operation(
        admits=PEOPLE,
        act="read history",
        query=HistoryArguments,
        answers={200: Content(MEDIA_TYPE)},
        refuses=(InvalidSpec,),
    )
    async def get(self) -> None:
        """Stream the rows, newest first; a reader that is slow or goes away holds up nothing."""
        asked = self.query(HistoryArguments)
        wanted = HistoryQuery(
            table=asked.table,
            columns=tuple(asked.columns),
            since=asked.since,
            after=asked.after,
            epoch=asked.epoch,
            org_id=asked.org,
            job_id=asked.job,
            limit=asked.limit,
        )
        self.note_orgs("table", asked.table, self.principal.among(asked.org) or ())
        self.set_header("Content-Type", MEDIA_TYPE)
        async with aclosing(self.queue.history(wanted, scope=self.principal)) as chunks:
            with suppress(StreamClosedError):  # the reader went away
                async for chunk in chunks:
                    self.write(chunk)
                    await self.flush()
                self.finish()
