"""Lists of jobs: rows of the store, corrected by what only the memory knows yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from zbrain_nb.model.errors import Malformed
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.queue.index import Index
from zbrain_nb.store import queries
from zbrain_nb.store.storage import Storage, is_id

MAX_LIMIT = 10_000


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs are wanted; None lets every value pass. Of `after` only the store knows."""

    orgs: frozenset[str] | None = None
    state: JobState | None = None
    owner: str | None = None
    name: str | None = None
    search: str | None = None
    before: str | None = None
    after: int | None = None
    tag: tuple[str, str] | None = None

    def passes(self, job: Job) -> bool:
        """Whether `job` is wanted."""
        return (
            (self.orgs is None or job.org_id in self.orgs)
            and self.state in (None, job.state)
            and self.owner in (None, job.owner)
            and self.name in (None, job.name)
            and (self.before is None or job.id < self.before)
            and (self.tag is None or job.spec.tags.get(self.tag[0]) == self.tag[1])
            and (self.search is None or self._finds(job, self.search.lower()))
        )

    @staticmethod
    def _finds(job: Job, text: str) -> bool:
        return text in job.name.lower() or job.id.startswith(text)


def make_filter(
    state: str | None,
    owner: str | None,
    name: str | None,
    search: str | None,
    cursor: str | None,
    tag: tuple[str, str] | None,
    after: int | None,
) -> Filter:
    """Return a filter made of a caller's words, of all orgs.

    Raises
    ------
    Malformed
        If `state` is no state or `cursor` no job id.
    """
    try:
        wanted = None if state is None else JobState(state)
    except ValueError as error:
        raise Malformed(f"{state!r} is no state.", f"States are {', '.join(JobState)}.") from error
    if cursor is not None and not is_id(cursor):
        raise Malformed("cursor must be the id of a job.")
    return Filter(state=wanted, owner=owner, name=name, search=search, before=cursor, after=after, tag=tag)


class Page(NamedTuple):
    """Jobs, newest first, and whether more stand behind them than are listed."""

    jobs: list[Job]
    is_cut: bool


async def list_jobs(
    storage: Storage,
    index: Index,
    wanted: Filter,
    limit: int,
    present: Callable[[Job], Job],
    most_bytes: int | None = None,
) -> Page:
    """Return at most `limit` jobs, newest first, about `most_bytes`; `present` gives the latest version of one."""
    limit = max(0, min(limit, MAX_LIMIT))
    # Which jobs are behind an event their rows alone say; in which state these are now, memory alone.
    by_store = wanted.after is not None
    # Taken before the store is read: a row may be folded, and leave the memory, meanwhile.
    moved = {} if by_store else {job.id: job for job in index.unfolded.values() if wanted.passes(job)}
    found: dict[str, Job] = {}
    before, floor, is_cut = wanted.before, "", False
    while True:
        rows, is_cut = await storage.read(
            queries.list_jobs,
            orgs=wanted.orgs,
            state=None if by_store else wanted.state,
            owner=wanted.owner,
            name=wanted.name,
            search=wanted.search,
            before=before,
            after=wanted.after,
            tag=wanted.tag,
            limit=limit,
            most_bytes=most_bytes,
        )
        for row in rows:
            job = present(row)
            if wanted.passes(job):
                found[job.id] = job
        if (len(rows) < limit and not is_cut) or not rows:
            floor = ""
            break
        before = floor = rows[-1].id
        if len(found) >= limit or (is_cut and found):
            break
    for job in map(present, moved.values()):
        if job.id >= floor and wanted.passes(job):
            found[job.id] = job
    jobs = sorted(found.values(), key=lambda job: job.id, reverse=True)
    return Page(jobs[:limit], is_cut or len(jobs) >= limit)
