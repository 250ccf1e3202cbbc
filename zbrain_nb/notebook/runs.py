"""The jobs of one notebook: a cell that is run again while its job is active attaches to it."""

from __future__ import annotations

from zbrain_nb.client.client import Client
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.notebook.origin import CELL_TAG, NOTEBOOK_TAG, PRINT_TAG

#: So many of a notebook's newest jobs are looked at.
MOST = 1_000


class NotebookRuns:
    """What this notebook has submitted, in this kernel and before.

    Parameters
    ----------
    client : Client
        Asks the server, once, for the jobs of before.
    notebook : str
        Which notebook (see `origin.notebook_of`).
    """

    def __init__(self, client: Client, notebook: str) -> None:
        self._client = client
        self._notebook = notebook
        self._handles: list[JobHandle] | None = None

    def all(self) -> list[JobHandle]:
        """Return the notebook's jobs, oldest first."""
        if self._handles is None:
            jobs = self._client.jobs(limit=MOST, tag=(NOTEBOOK_TAG, self._notebook))
            self._handles = jobs[::-1]
        return self._handles

    def known(self) -> list[JobHandle]:
        """Return those of the jobs that are known without asking the server, oldest first."""
        return list(self._handles or [])

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
        return self._newest(PRINT_TAG, print_)

    def earlier(self, cell: str | None) -> JobHandle | None:
        """Return an active job of the same cell, or None."""
        return None if cell is None else self._newest(CELL_TAG, cell)

    def _newest(self, tag: str, value: str) -> JobHandle | None:
        found = [handle for handle in self.all() if handle.job.spec.tags.get(tag) == value]
        return next((handle for handle in reversed(found) if not handle.done()), None)
