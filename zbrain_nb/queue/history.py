"""The face that readers of history see: whole tables, streamed as Arrow."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from functools import cached_property

from zbrain_nb.model.access import Principal, among
from zbrain_nb.model.history import END_OF_STREAM, HistoryQuery
from zbrain_nb.queue.core import QueueCore
from zbrain_nb.store.history import HistoryPages


class HistorySide(QueueCore):
    """Methods about the history."""

    @cached_property
    def _history_token(self) -> str:
        return uuid.uuid4().hex

    @cached_property
    def _running_seqs(self) -> dict[str, int]:
        """The ``event_seq`` of running jobs as they were last folded here."""
        return {}

    async def history(self, wanted: HistoryQuery, *, scope: Principal | None = None) -> AsyncGenerator[bytes, None]:
        """Yield an Arrow IPC stream of the rows that are wanted, newest first, a page at a time.

        Jobs are as they are now. What is added while it is read may be left out; it comes behind the `Mark` in the
        stream's schema. A stream that does not close with `END_OF_STREAM` is not whole.

        Raises
        ------
        Unavailable
            If the database refused.
        """
        await self.open()
        upto = self.event_seq
        if wanted.table == "jobs":
            self._note_running()
            await self._folder.fold()
        pages = HistoryPages(wanted, upto, self._history_token, among(scope, wanted.org_id))
        yield await self.storage.read(pages.begin)
        while (page := await self.storage.read(pages.next)) is not None:
            yield page
        yield END_OF_STREAM

    def _note_running(self) -> None:
        """Have those running jobs folded that went on since: the queue itself folds changes of state alone."""
        index, before = self._index, dict(self._running_seqs)
        self._running_seqs.clear()
        for job_id in index.leases.jobs():
            entry = index.live.get(job_id)
            if entry is None:
                continue
            if before.get(job_id) != entry.job.event_seq:
                index.unfolded[job_id] = entry.job
            self._running_seqs[job_id] = entry.job.event_seq
