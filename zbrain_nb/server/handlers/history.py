"""``GET history``: a table of the history as an Arrow IPC stream."""

from __future__ import annotations

import datetime as dt
from contextlib import aclosing, suppress

from tornado.iostream import StreamClosedError

from zbrain_nb.model.errors import Malformed
from zbrain_nb.model.history import MEDIA_TYPE, HistoryQuery
from zbrain_nb.server.handlers.base import PEOPLE, ApiHandler, admitting


class HistoryHandler(ApiHandler):
    """``GET history?table=&columns=&since=&after=&epoch=&org=&job=&limit=``."""

    admits = admitting(GET=PEOPLE)

    async def get(self) -> None:
        """Stream the rows, newest first; a reader that is slow or goes away holds up nothing.

        ``since`` is a time (ISO 8601), ``after`` an ``event_seq`` with the ``epoch`` of the stream that named it (see
        `HistoryQuery`).
        """
        columns = self.get_query_argument("columns", "")
        wanted = HistoryQuery(
            table=self.get_query_argument("table", ""),
            columns=tuple(name.strip() for name in columns.split(",")) if columns else (),
            since=self._since(),
            after=self._number("after", 0),
            epoch=self.get_query_argument("epoch", "") or None,
            org_id=self.get_query_argument("org", "") or None,
            job_id=self.get_query_argument("job", "") or None,
            limit=self._number("limit", 1),
        )
        self.set_header("Content-Type", MEDIA_TYPE)
        async with aclosing(self.queue.history(wanted, scope=self.principal)) as chunks:
            with suppress(StreamClosedError):  # the reader went away
                async for chunk in chunks:
                    self.write(chunk)
                    await self.flush()
                self.finish()

    def _number(self, name: str, low: int) -> int | None:
        return self.int_argument(name, 0, low=low) if self.get_query_argument(name, "") else None

    def _since(self) -> dt.datetime | None:
        text = self.get_query_argument("since", "")
        if not text:
            return None
        try:
            since = dt.datetime.fromisoformat(text)
        except ValueError:
            raise Malformed(f"since must be a time in ISO 8601, not {text[:40]!r}.", "2026-01-31T08:00:00Z") from None
        return since if since.tzinfo else since.replace(tzinfo=dt.UTC)
