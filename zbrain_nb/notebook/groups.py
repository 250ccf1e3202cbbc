"""How a group of jobs shows itself in a notebook: one live view by its mime type, a static summary for the rest."""

from __future__ import annotations

import html
import sys
import uuid
from collections import Counter
from typing import Any

import msgspec
from IPython.display import publish_display_data

from zbrain_nb.client.group import JobGroup, parameters
from zbrain_nb.client.printing import printable
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.notebook.presenting import WIDGET_TYPE, earlier_ids, is_kernel, widget_part
from zbrain_nb.notebook.reporting import report_failure
from zbrain_nb.notebook.widget import ViewWidget

MIME_TYPE = "application/vnd.zbrain.group+json"
VERSION = 1
#: Constant, because nbval compares it and an id or a state would differ on every run.
PLAIN = "<zbrain group>"
#: So many runs are listed in the static summary.
MAX_LISTED = 50
#: So many reasons are told in a terminal.
MAX_REASONS = 6
_FIELDS = ("id", "state", "created_at", "started_at", "finished_at", "reason", "exit_code", "event_seq")


class GroupView:
    """The presenter of groups in a notebook (see `zbrain_nb.client.viewed.Presenter`)."""

    def bundle(self, group: JobGroup) -> dict[str, Any]:
        """Return the display bundle of the group as it stands."""
        if not is_kernel():
            return {"text/plain": in_words(group)}
        return _bundle(group) | widget_part(lambda: self.widget(group)._repr_mimebundle_())

    def display(self, group: JobGroup) -> None:
        """Show the live view under the running cell; at the end of all, save what they came to in the notebook."""
        if not is_kernel():
            sys.stdout.write(f"{in_words(group)}\n")
            return
        shown = {"display_id": f"zbrain-group-{uuid.uuid4().hex[:12]}"}
        bundle = self.bundle(group)
        publish_display_data(bundle, transient=shown)
        widget = {mime: data for mime, data in bundle.items() if mime == WIDGET_TYPE}

        def save(ended: JobGroup) -> None:
            publish_display_data(_bundle(ended) | widget, transient=shown, update=True)

        if not group.done():
            what = f"how the runs of {group.name!r} ended is not saved in the notebook"
            report_failure(group.add_done_callback(save), what)

    def widget(self, group: JobGroup) -> ViewWidget:
        """Return the view as a widget."""
        return ViewWidget(group.client, "group", _saved(group))


def in_words(group: JobGroup) -> str:
    """Return how the runs stand, for a terminal: how many are in which state, and why some failed."""
    told = [repr(group)]
    reasons = Counter(handle.job.reason or "" for handle in group if handle.job.state is JobState.FAILED)
    told += [f"  {count:,} failed: {printable(reason)}" for reason, count in reasons.most_common(MAX_REASONS)]
    return "\n".join(told) if group.done() else f"{told[0]}; .results() waits for them."


def _bundle(group: JobGroup) -> dict[str, Any]:
    return {MIME_TYPE: _saved(group), "text/html": summary(group), "text/plain": PLAIN}


def _saved(group: JobGroup) -> dict[str, Any]:
    jobs = [handle.job for handle in group.refresh()]
    return {
        "version": VERSION,
        "name": group.name,
        "org": jobs[0].org_id if jobs else "",
        "runs": [_run(job) for job in jobs],
        "earlier": earlier_ids(group),
    }


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
