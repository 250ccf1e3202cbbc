"""The dashboard in a notebook: ``client.dashboard()`` and ``%zbrain``.

The lab extension draws it live, by its mime type, straight from the server. Beside it stand the widget, for layouts
and for pages without the extension, and a static table of the newest jobs for exports.
"""

from __future__ import annotations

import datetime as dt
import html
import time
from typing import Any

import msgspec

from zbrain_nb.client.client import Client
from zbrain_nb.model.job import Job
from zbrain_nb.model.settings import read_settings
from zbrain_nb.notebook.presenting import is_kernel, widget_part
from zbrain_nb.notebook.tables import JOB_COLUMNS, job_row, table_text
from zbrain_nb.notebook.widget import ViewWidget

MIME_TYPE = "application/vnd.zbrain.dashboard+json"
VERSION = 1
#: Constant, because nbval compares it and jobs differ on every run.
PLAIN = "<zbrain dashboard>"
#: So many jobs are kept in the notebook, for readers without a server.
MAX_SAVED = 50
MAX_TEXT = 300
_FIELDS = (
    "id",
    "owner",
    "state",
    "attempt",
    "created_at",
    "started_at",
    "finished_at",
    "worker_id",
    "exit_code",
    "progress",
    "reason",
    "retry_of",
    "losses",
    "event_seq",
)


class Dashboard(ViewWidget):
    """Live table of jobs; displayed alone it is drawn by the lab extension, in a layout as a widget.

    Parameters
    ----------
    client : Client
        Reads what is kept in the notebook, and asks the server for pages that cannot.

    Attributes
    ----------
    saved : dict
        The newest jobs when it was made, or when `refresh` was called.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        super().__init__(client, "dashboard", _saved(self._jobs()))

    def refresh(self) -> None:
        """Read the newest jobs again, for what is displayed next, and its exports."""
        self.saved = _saved(self._jobs())

    def _jobs(self) -> list[Job]:
        return [handle.job for handle in self._client.jobs(limit=MAX_SAVED)]

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        if not is_kernel():
            return {"text/plain": table_text(JOB_COLUMNS, [job_row(job) for job in self._jobs()]) or "No jobs."}
        data = {MIME_TYPE: self.saved, "text/html": _table(self.saved["rows"]), "text/plain": PLAIN}
        show = super()._repr_mimebundle_
        return data | widget_part(lambda: show(**kwargs))


def _saved(jobs: list[Job]) -> dict[str, Any]:
    rows = [_row(job) for job in jobs]
    org = jobs[0].org_id if jobs else read_settings().default_org_id
    return {"version": VERSION, "org": org, "saved_at": time.time(), "rows": rows}


def _row(job: Job) -> dict[str, Any]:
    fields = msgspec.to_builtins(job)
    row = {name: fields[name] for name in _FIELDS}
    row["name"] = job.name
    row["spec"] = {"worker": job.spec.worker, "tags": job.spec.tags, "max_retries": job.spec.max_retries}
    if job.error:
        row["error"] = {name: str(job.error.get(name, ""))[:MAX_TEXT] for name in ("ename", "evalue")}
    return row


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as HTML, for readers without the live table; nothing of a job is HTML there."""
    if not rows:
        return "<p>No jobs.</p>"
    lines = [[row["state"].capitalize(), row["name"], _when(row["created_at"]), row["reason"] or ""] for row in rows]
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    head = "<tr><th>State</th><th>Name</th><th>Submitted</th><th>Reason</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _when(created_at: str) -> str:
    return f"{dt.datetime.fromisoformat(created_at).astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
