"""What callers see of jobs: look, list and find, logs, outputs and artifacts. Nothing here changes a job."""

from __future__ import annotations

import builtins
from collections.abc import Iterable

import msgspec

from zbrain_nb.model.access import Principal, among
from zbrain_nb.model.errors import TooLarge
from zbrain_nb.model.events import LogEntry
from zbrain_nb.model.job import Job, JobArtifact, JobState
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.queue.core import QueueCore
from zbrain_nb.queue.listing import Filter, Page, list_jobs, make_filter
from zbrain_nb.queue.outputs import Shown, reduce_outputs
from zbrain_nb.store import queries
from zbrain_nb.store.searching import Found, search_log
from zbrain_nb.store.storage import is_id

#: So many jobs whose rows are out of date are folded before a list is made, for it would sift them all.
FOLD_BEFORE_LIST = 8_000


class JobReads(QueueCore):
    """Methods that look at jobs."""

    async def list(
        self,
        org_id: str | None = None,
        state: JobState | str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        *,
        name: str | None = None,
        q: str | None = None,
        owner: str | None = None,
        tag: tuple[str, str] | None = None,
        after: int | None = None,
        scope: Principal | None = None,
    ) -> builtins.list[Job]:
        """Return jobs, newest first.

        Parameters
        ----------
        org_id, state, name, owner : str, optional
            Only jobs with this very value.
        limit : int
            At most so many, up to 10,000.
        cursor : str, optional
            Id of the last job of the page before.
        q : str, optional
            A part of the name, in either case, or the head of the id.
        tag : tuple of str, optional
            Only jobs that bear this tag, with this value.
        after : int, optional
            Only jobs whose submit is an event behind this ``event_seq``.

        Raises
        ------
        Malformed
            If `state` is no state or `cursor` no id.
        """
        wanted = make_filter(state, owner, name, q, cursor, tag, after)
        return (await self.list_page(wanted, limit, org_id=org_id, scope=scope)).jobs

    async def list_page(
        self,
        wanted: Filter,
        limit: int,
        *,
        org_id: str | None = None,
        most_bytes: int | None = None,
        scope: Principal | None = None,
    ) -> Page:
        """Return the jobs that `list` would, and whether more stand behind them.

        Parameters
        ----------
        wanted : Filter
            Which; of its orgs those that `scope` sees.
        most_bytes : int, optional
            The page ends too when what is kept of its jobs is so large together.
        """
        await self.open()
        wanted = msgspec.structs.replace(wanted, orgs=among(scope, org_id))
        if len(self._index.unfolded) > FOLD_BEFORE_LIST:
            await self._folder.fold()
        return await list_jobs(self.storage, self._index, wanted, limit, self._present, most_bytes)

    async def get_many(
        self, ids: Iterable[str], *, scope: Principal | None = None, most_bytes: int | None = None
    ) -> builtins.list[Job]:
        """Return those of the jobs that exist, as they are now, in the order of `ids`.

        Raises
        ------
        TooLarge
            If they are several, and take more than `most_bytes` of memory together.
        """
        await self.open()
        wanted = list(dict.fromkeys(job_id for job_id in ids if is_id(job_id)))
        if most_bytes is not None and len(wanted) > 1:
            known = [entry for job_id in wanted if (entry := self._index.get(job_id)) is not None]
            size = sum(entry.size for entry in known if self._sees(scope, entry.job))
            size += await self._weigh(wanted, scope)
            if size > most_bytes:
                takes, most = format_kib(size / 1024), format_kib(most_bytes / 1024)
                raise TooLarge(f"These jobs take {takes} together, over the limit of {most}.", "Name fewer at once.")
        entries = {job_id: self._index.get(job_id) for job_id in wanted}
        absent = [job_id for job_id, entry in entries.items() if entry is None]
        stored = await self.storage.read(queries.jobs_by_id, absent) if absent else {}
        found = {job_id: self._shown(entry) for job_id, entry in entries.items() if entry is not None}
        found |= {job_id: self._present(job) for job_id, job in stored.items()}
        return [found[job_id] for job_id in wanted if job_id in found and self._sees(scope, found[job_id])]

    async def find(
        self, text: str, *, org_id: str | None = None, limit: int = 10, scope: Principal | None = None
    ) -> builtins.list[Job]:
        """Return jobs whose id begins with `text` (4 or more characters) or whose name it is, newest first."""
        if is_id(text):
            job = await self.get(text, scope=scope)
            return [job] if job is not None and org_id in (None, job.org_id) else []
        found = {job.id: job for job in await self.list(org_id, limit=limit, name=text, scope=scope)}
        if len(text) >= 4 and set(text.lower()) <= set("0123456789abcdef-"):
            near = await self.list(org_id, limit=limit, q=text, scope=scope)
            found |= {job.id: job for job in near if job.id.startswith(text.lower())}
        return sorted(found.values(), key=lambda job: job.id, reverse=True)[:limit]

    async def get_logs(
        self,
        job_id: str,
        from_seq: int = 0,
        limit: int = 1000,
        stream: str | None = None,
        *,
        scope: Principal | None = None,
    ) -> builtins.list[LogEntry]:
        """Return lines of the job's log from `from_seq` on (inclusive), in order; none for an unknown job.

        They may be fewer than there are, and than `limit`, if they are long (see `LOG_PAGE_BYTES`).
        """
        if not is_id(job_id) or await self._is_hidden(job_id, scope):
            return []
        await self.open()
        from_seq, limit = max(0, from_seq), max(0, limit)
        entry = self._index.live.get(job_id)
        if entry is not None:
            if from_seq >= entry.log_seq:
                return []
            recent = self._watch.ring.read(job_id, from_seq, limit, stream)
            if recent is not None:
                return recent
        return await self.storage.read(queries.log_entries, job_id, from_seq, limit, stream)

    async def search_logs(
        self,
        job_id: str,
        text: str,
        from_seq: int = 0,
        limit: int = 1000,
        stream: str | None = None,
        *,
        scope: Principal | None = None,
    ) -> Found:
        """Return lines of the job's log, from `from_seq` on, that hold `text` in either case, and where to go on.

        They may be fewer than there are, and than `limit`: a search ends after half a second too, wherever it is.
        """
        end = await self.count_log_lines(job_id, scope=scope)
        from_seq = max(0, from_seq)
        if from_seq >= end or limit < 1:
            return Found([], from_seq)
        return await self.storage.read(search_log, job_id, text, from_seq, end, limit, stream)

    async def count_log_lines(self, job_id: str, *, scope: Principal | None = None) -> int:
        """Return how many lines the job's log has; 0 for an unknown job."""
        if not is_id(job_id) or await self._is_hidden(job_id, scope):
            return 0
        await self.open()
        entry = self._index.get(job_id)
        if entry is not None:
            return entry.log_seq
        _, lines = await self.storage.read(queries.positions, [job_id])
        return lines.get(job_id, 0)

    async def list_outputs(self, job_id: str, *, upto: int | None = None, scope: Principal | None = None) -> Shown:
        """Return the rich outputs of the job's last attempt as nbformat output dicts, in order.

        They are those of the events up to `upto`, by default of all that is published: whoever follows the events
        behind that number gets each of the others once.
        """
        await self.open()
        seq = self.event_seq if upto is None else upto
        job = await self.get(job_id, scope=scope)
        if job is None:
            return Shown([], clear_next=False)
        return reduce_outputs(await self.storage.read(queries.displays, job_id, job.attempt, seq))

    async def list_artifacts(self, job_id: str, *, scope: Principal | None = None) -> builtins.list[JobArtifact]:
        """Return the files kept with the job; none for an unknown job."""
        job = await self.get(job_id, scope=scope)
        return [] if job is None else list(job.artifacts)
