"""How a handle shows itself in a notebook: the live view by its mime type, or the same view as a widget.

JupyterLab and Notebook 7 draw the mime type without a kernel. Where our lab extension cannot be (VS Code, Colab),
the widget is added to the same bundle, fed by a thread of the kernel when its page cannot reach the server.
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import Any

import msgspec
from IPython.core.getipython import get_ipython
from IPython.display import publish_display_data

from zbrain_nb.client.client import Client
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.notebook.bundle import MIME_TYPE, mime_bundle, snapshot
from zbrain_nb.notebook.widget import JobWidget

TAIL = 200


class NotebookPresenter:
    """The presenter of handles in a notebook (see `zbrain_nb.client.handle.Presenter`)."""

    def bundle(self, handle: JobHandle) -> dict[str, Any]:
        """Return the display bundle of the job as it stands; an ended one comes with its outputs and log's end."""
        job = handle.refresh().job
        ended = job.state.ended
        log, outputs = (tail(handle), handle.outputs) if ended else ((), ())
        bundle = mime_bundle(job, log_tail=log, outputs=outputs, cached=handle.cached)
        bundle[MIME_TYPE]["shipped"] = handle.shipped
        if needs_widget():
            shown = self.widget(handle)._repr_mimebundle_()
            bundle |= shown[0] if shown else {}
        return bundle

    def display(self, handle: JobHandle) -> None:
        """Show the live view under the running cell; at the job's end, save what it came to in the notebook.

        The view itself needs no such update. It is for who opens the notebook where no server knows the job.
        """
        if getattr(get_ipython(), "kernel", None) is None:
            sys.stdout.write(f"{handle!r} runs; .logs(follow=True) shows its log, .result() waits for it.\n")
            return
        shown = {"display_id": f"zbrain-{handle.id}-{uuid.uuid4().hex[:8]}"}
        publish_display_data(self.bundle(handle), transient=shown)

        def save(ended: JobHandle) -> None:
            publish_display_data(self.bundle(ended), transient=shown, update=True)

        if not handle.job.state.ended:
            handle.add_done_callback(save)

    def widget(self, handle: JobHandle) -> JobWidget:
        """Return the view as a widget that is fed by the kernel when its page cannot reach the server."""
        return _FedWidget(handle).widget


def tail(handle: JobHandle) -> list[Any]:
    """Return the newest lines of the log, oldest first."""
    lines = handle.client.call(handle.client.asynchronous.count_log_lines, handle.id)
    return list(handle.logs(from_seq=max(0, lines - TAIL)))


def needs_widget() -> bool:
    """Whether the front end is one that does not have our lab extension, as far as a kernel can tell."""
    if any(name.startswith("VSCODE_") for name in os.environ) or "COLAB_RELEASE_TAG" in os.environ:
        return True
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    cell = kernel.get_parent("shell").get("metadata", {}).get("cellId", "")
    return str(cell).startswith("vscode-")


class _FedWidget:
    """Feeds a widget from the client's loop, once a view asks for it."""

    def __init__(self, handle: JobHandle) -> None:
        self._handle = handle
        self._client: Client = handle.client
        self._feeding = False
        shown = snapshot(handle.refresh().job, cached=handle.cached)
        self.widget = JobWidget(handle.id, handle.name, shown, on_act=self._act)

    def _act(self, verb: str) -> str | None:
        if verb == "refresh":
            if not self._feeding:
                self._feeding = True
                self._client.start(self._feed)
            return None
        self._client.start(self._do, verb)
        return None

    async def _do(self, verb: str) -> None:
        client = self._client.asynchronous
        try:
            if verb == "cancel":
                await client.cancel(self.widget.job_id)
            else:
                job = await client.retry(self.widget.job_id)
                self._handle = JobHandle(self._client, job)
                self.widget.job_id, self.widget.name = job.id, job.name
                self.widget.snapshot = snapshot(job)
                await self._feed()
        except ZBrainError as error:
            self.widget.send({"problem": str(error)})

    async def _feed(self) -> None:
        client, job_id = self._client.asynchronous, self.widget.job_id
        async for update in client.follow(job_id):
            events: list[dict[str, Any]] = []
            about = {"topic": f"jobs/{job_id}", "job_id": job_id, "attempt": 0, "ts": 0.0}
            if update.entries:
                lines = {"entries": msgspec.to_builtins(update.entries)}
                events.append({**about, "seq": 0, "kind": "job_logged", "data": lines})
            if update.outputs:
                events.append(
                    {**about, "seq": update.seq, "kind": "job_displayed", "data": {"outputs": update.outputs}}
                )
            if update.job is not None:
                patch = msgspec.to_builtins(update.job) | {"name": update.job.name}
                events.append({**about, "seq": update.job.event_seq, "kind": "job_progressed", "data": patch})
            self.widget.push(events)
        self._feeding = False
