"""The jobs of one notebook: a cell that is run again while its job is active attaches to it."""

from __future__ import annotations

import os

import anyio

from zbrain_nb.client.client import Client
from zbrain_nb.client.group import GROUP_TAG, JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.job import Job
from zbrain_nb.notebook.origin import CELL_TAG, NOTEBOOK_TAG, PRINT_TAG

#: So many of a notebook's newest jobs are looked at.
MOST = 1_000


class NotebookRuns:
    """What this notebook has submitted, in this kernel and before.

    Parameters
    ----------
    client : Client
        Asks the server for the jobs of before, and for those that others submitted since (`look`).
    notebook : str
        Which notebook (see `origin.notebook_of`).
    """

    def __init__(self, client: Client, notebook: str) -> None:
        self._client = client
        #: Which notebook.
        self.notebook = notebook
        self._tag = (NOTEBOOK_TAG, notebook)
        self._handles: list[JobHandle] = []
        self._seq: int | None = None

    def of(self, path: str) -> NotebookRuns:
        """Return those of the notebook that has, or had, another path; a relative one is beside this notebook."""
        return NotebookRuns(self._client, os.path.normpath(os.path.join(os.path.dirname(self.notebook), path)))

    def all(self) -> list[JobHandle]:
        """Return the notebook's jobs, oldest first."""
        if self._seq is None:
            self.look()
        return self._handles

    def known(self) -> list[JobHandle]:
        """Return those of the jobs that are known without asking the server, oldest first."""
        return list(self._handles)

    def look(self, patience_secs: float | None = None) -> list[tuple[JobHandle, JobHandle]]:
        """Look for jobs of the notebook that others submitted: a page's Retry makes such.

        Parameters
        ----------
        patience_secs : float, optional
            How long to wait for the server.

        Returns
        -------
        list of tuple
            Which job is repeated by which, oldest first. One that somebody else submitted again is not among them:
            what it leaves is not this owner's to load.

        Raises
        ------
        TimeoutError
            If the server has not answered by then.
        """
        jobs, self._seq = self._client.call(self._submitted, patience_secs)
        known = {handle.id: handle for handle in self._handles} if jobs else {}
        repeats = []
        for job in reversed(jobs):
            if job.id in known:
                continue
            old = known.get(job.retry_of or "")
            if old is None or old.job.owner != job.owner:
                again = JobHandle(self._client, job)
            elif job.id in old.repeats:  # by this kernel's own `retry`
                again = old.repeats[job.id]
            else:
                again = old.repeated_by(job)
                repeats.append((old, again))
            known[job.id] = again
            self._handles.append(again)
        del self._handles[:-MOST]
        return repeats

    async def _submitted(self, patience_secs: float | None) -> tuple[list[Job], int]:
        ask = self._client.asynchronous.submitted
        with anyio.fail_after(patience_secs):
            jobs, seq = await ask(self._tag, self._seq, MOST)
            if self._seq is not None and seq < self._seq:  # another database: its numbers begin anew
                jobs, seq = await ask(self._tag, None, MOST)
        return jobs, seq

    def add(self, handle: JobHandle) -> None:
        """Remember a job that was submitted here."""
        handles = self.all()
        handles.append(handle)
        del handles[:-MOST]

    def newest_by_cell(self) -> list[JobHandle]:
        """Return the newest job of each cell, oldest first; of jobs without a cell, all."""
        newest: dict[str, JobHandle] = {}
        for handle in self.all():
            key = handle.job.spec.tags.get(CELL_TAG, handle.id)
            newest.pop(key, None)
            newest[key] = handle
        return list(newest.values())

    def same(self, print_: str) -> JobHandle | None:
        """Return the active job that does the very same, or None."""
        found = self._tagged(PRINT_TAG, print_)
        return next((handle for handle in reversed(found) if not handle.done()), None)

    def earlier(self, cell: str | None) -> JobGroup:
        """Return the active jobs of the same cell, oldest first."""
        found = [] if cell is None else self._tagged(CELL_TAG, cell)
        seen = JobGroup(self._client, found).refresh()
        return JobGroup(self._client, [handle for handle in seen if not handle.job.state.ended])

    def earlier_than(self, handle: JobHandle) -> JobGroup:
        """Return the active jobs of its cell that are older than this one, or than its group, oldest first."""
        tags = handle.job.spec.tags
        group = self._tagged(GROUP_TAG, tags[GROUP_TAG]) if GROUP_TAG in tags else []
        first = min(each.id for each in [handle, *group])  # ids grow with time
        return JobGroup(self._client, [each for each in self.earlier(tags.get(CELL_TAG)) if each.id < first])

    def _tagged(self, tag: str, value: str) -> list[JobHandle]:
        return [handle for handle in self.all() if handle.job.spec.tags.get(tag) == value]
