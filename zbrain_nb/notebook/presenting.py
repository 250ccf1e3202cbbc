"""How a handle shows itself in a notebook: the live view by its mime type, or the same view as a widget.

JupyterLab and Notebook 7 draw the mime type without a kernel. For front ends without our lab extension the widget is
added to the same bundle. Either asks through the kernel where its page cannot reach the server.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import publish_display_data

from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.printing import printable
from zbrain_nb.client.viewed import Viewed
from zbrain_nb.notebook.bundle import MIME_TYPE, mime_bundle, snapshot
from zbrain_nb.notebook.reporting import report_failure
from zbrain_nb.notebook.widget import ViewWidget

#: So many lines of a log are saved with the notebook, or printed in it, which comes to the same.
TAIL = 200
WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"


class NotebookPresenter:
    """The presenter of handles in a notebook (see `zbrain_nb.client.viewed.Presenter`)."""

    def bundle(self, handle: JobHandle) -> dict[str, Any]:
        """Return the display bundle of the job as it stands; an ended one comes with its outputs and log's end."""
        if not is_kernel():
            return {"text/plain": in_words(handle.refresh())}
        return self._saved(handle) | widget_part(lambda: self.widget(handle)._repr_mimebundle_())

    def _saved(self, handle: JobHandle) -> dict[str, Any]:
        job = handle.refresh().job
        ended = job.state.ended
        log, outputs = (tail(handle), handle.outputs) if ended else ((), ())
        bundle = mime_bundle(job, log_tail=log, outputs=outputs, cached=handle.cached)
        bundle[MIME_TYPE] |= _of_the_cell(handle)
        if outputs:  # whose eyes they are for, by the server: those of others are shown in a frame of no origin
            bundle[MIME_TYPE]["viewer"] = handle.client.call(handle.client.asynchronous.whoami).owner
        return bundle

    def display(self, handle: JobHandle) -> None:
        """Show the live view under the running cell; at the job's end, save what it came to in the notebook.

        The view itself needs no such update. It is for who opens the notebook where no server knows the job.
        """
        if not is_kernel():
            sys.stdout.write(f"{in_words(handle.refresh())}\n")
            return
        shown = {"display_id": f"zbrain-{handle.id}-{uuid.uuid4().hex[:8]}"}
        bundle = self.bundle(handle)
        publish_display_data(bundle, transient=shown)
        widget = {mime: data for mime, data in bundle.items() if mime == WIDGET_TYPE}

        def save(ended: JobHandle) -> None:
            publish_display_data(self._saved(ended) | widget, transient=shown, update=True)

        if not handle.job.state.ended:
            what = f"how {handle.name!r} ended is not saved in the notebook"
            report_failure(handle.add_done_callback(save), what)

    def widget(self, handle: JobHandle) -> ViewWidget:
        """Return the view as a widget."""
        saved = snapshot(handle.refresh().job, cached=handle.cached) | _of_the_cell(handle)
        return ViewWidget(handle.client, "job", saved)


def _of_the_cell(handle: JobHandle) -> dict[str, Any]:
    """Return what a view shows that only the submitter knows: what went along, and the earlier runs of the cell."""
    return {"shipped": handle.shipped, "earlier": earlier_ids(handle)}


def earlier_ids(shown: Viewed) -> list[str]:
    """Return the ids of the earlier runs that the view offers to cancel, those among them that have ended since too."""
    return shown.earlier.ids if shown.earlier else []


def is_kernel() -> bool:
    """Whether this IPython is a notebook's; a terminal gets words in place of views."""
    return getattr(get_ipython(), "kernel", None) is not None


def in_words(handle: JobHandle) -> str:
    """Return how a job stands, for a terminal."""
    job = handle.job
    why = f" {printable(job.reason)}" if job.reason else ""
    more = ".logs() shows its log, .result() its value" if job.state.ended else ".logs(follow=True) shows its log"
    waits = "" if job.state.ended else ", .result() waits for it"
    return f"{handle!r}: {job.state}.{why} ({more}{waits}.)"


def tail(handle: JobHandle) -> list[Any]:
    """Return the newest lines of the log, oldest first."""
    lines = handle.client.call(handle.client.asynchronous.count_log_lines, handle.id)
    return list(handle.logs(from_seq=max(0, lines - TAIL)))


def widget_part(show: Callable[[], Any]) -> dict[str, Any]:
    """Return what shows a widget, of what `show` returns, where the front end has no other way to the live view.

    Elsewhere a widget is better left out: it hides the static summary from readers without a kernel.
    """
    if not needs_widget():
        return {}
    shown = show()
    data = (shown[0] if isinstance(shown, tuple) else shown) or {}
    return {WIDGET_TYPE: data[WIDGET_TYPE]} if WIDGET_TYPE in data else {}


def needs_widget() -> bool:
    """Whether the front end is one that does not have our lab extension, as far as a kernel can tell.

    VS Code and Colab say who they are. A Jupyter server that has the lab extension has the server extension, too, which
    tells its kernels where the server is; one that did not is another environment's, or on another machine.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or not getattr(kernel, "_allow_stdin", True):  # nbclient, papermill: nobody watches
        return False
    if any(name.startswith("VSCODE_") for name in os.environ) or "COLAB_RELEASE_TAG" in os.environ:
        return True
    cell = str(kernel.get_parent("shell").get("metadata", {}).get("cellId", ""))
    return cell.startswith("vscode-") or "ZBRAIN_URL" not in os.environ
