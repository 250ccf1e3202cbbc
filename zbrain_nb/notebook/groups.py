"""How a group of jobs shows itself in a notebook: one live view by its mime type, a static summary for the rest."""

from __future__ import annotations

import html
import sys
import time
import uuid
from typing import Any

import ipywidgets
import msgspec
from IPython.core.getipython import get_ipython
from IPython.display import publish_display_data

from zbrain_nb.client.group import JobGroup, parameters
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.notebook.presenting import needs_widget

MIME_TYPE = "application/vnd.zbrain.group+json"
VERSION = 1
#: Constant, because nbval compares it and an id or a state would differ on every run.
PLAIN = "<zbrain group>"
#: So many runs are listed in the static summary.
MAX_LISTED = 50
_FIELDS = ("id", "state", "created_at", "started_at", "finished_at", "reason", "exit_code", "event_seq")
_PUSH_SECS = 0.5


class GroupView:
    """The presenter of groups in a notebook (see `zbrain_nb.client.group.GroupPresenter`)."""

    def bundle(self, group: JobGroup) -> dict[str, Any]:
        """Return the display bundle of the group as it stands."""
        jobs = [handle.job for handle in group.refresh()]
        saved = {
            "version": VERSION,
            "name": group.name,
            "org": jobs[0].org_id if jobs else "",
            "runs": [_run(job) for job in jobs],
        }
        bundle = {MIME_TYPE: saved, "text/html": summary(group), "text/plain": PLAIN}
        if needs_widget():
            shown = self.widget(group)._repr_mimebundle_()
            bundle |= shown if isinstance(shown, dict) else {}
        return bundle

    def display(self, group: JobGroup) -> None:
        """Show the live view under the running cell; at the end of all, save what they came to in the notebook."""
        if getattr(get_ipython(), "kernel", None) is None:
            sys.stdout.write(f"{group!r}; .results() waits for them.\n")
            return
        shown = {"display_id": f"zbrain-group-{uuid.uuid4().hex[:12]}"}
        publish_display_data(self.bundle(group), transient=shown)

        def save(ended: JobGroup) -> None:
            publish_display_data(self.bundle(ended), transient=shown, update=True)

        if not group.done():
            group.add_done_callback(save)

    def widget(self, group: JobGroup) -> ipywidgets.HTML:
        """Return a summary as a widget that the kernel keeps up to date."""
        shown = ipywidgets.HTML(summary(group.refresh()))

        async def feed() -> None:
            pushed = 0.0
            async for _ in group.changes():
                if time.monotonic() - pushed >= _PUSH_SECS:
                    pushed = time.monotonic()
                    shown.value = summary(group)
            shown.value = summary(group)

        group.client.start(feed)
        return shown


def _run(job: Job) -> dict[str, Any]:
    fields = msgspec.to_builtins(job)
    return {**{name: fields[name] for name in _FIELDS}, "label": label_of(job)}


def label_of(job: Job) -> str:
    """Return what tells a run from the others, in words."""
    return ", ".join(f"{name}={value}" for name, value in parameters(job).items())


def summary(group: JobGroup) -> str:
    """Return counts and the runs as HTML, for readers without the live view."""
    jobs = [handle.job for handle in group]
    counts = ", ".join(f"{count:,} {state}" for state, count in group.last_counts().items())
    # those that went wrong first
    listed = sorted(jobs, key=lambda job: job.state is not JobState.FAILED)[:MAX_LISTED]
    rows = "".join(
        f"<tr><td>{html.escape(label_of(job))}</td><td>{job.state}</td><td>{html.escape(job.reason or '')}</td></tr>"
        for job in listed
    )
    more = f"<p>and {len(jobs) - len(listed):,} more</p>" if len(jobs) > len(listed) else ""
    return (
        f"<div><p><b>{html.escape(group.name)}</b>: {len(jobs):,} runs, {counts}</p>"
        f"<details><summary>Runs</summary><table>{rows}</table>{more}</details></div>"
    )
