"""Displays, results and errors of a cell as nbformat outputs in events.

ipykernel's publisher and display hook build Jupyter messages and hand them to a session; `OutputSession` stands
in its place and turns each message into an event for the supervisor.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.zmqshell import ZMQDisplayPublisher
from traitlets import Any as AnyTrait

from zbrain_nb.worker.cell.frames import FrameWriter

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MAX_OUTPUT_CHARS = 20_000


class OutputSession:
    """Takes the place of `jupyter_client.session.Session`.

    Attributes
    ----------
    error : dict or None
        The last error sent: ``ename``, ``evalue``, ``traceback``.
    output : str or None
        The text form of the last ``execute_result``.
    captured : dict
        Content of Output widgets, by the id that they are shown under (see `widgets`).
    capturing : list
        Those entered now, the innermost last: it takes the outputs.
    """

    def __init__(self) -> None:
        self._writer: FrameWriter | None = None
        self.error: dict[str, Any] | None = None
        self.output: str | None = None
        self.captured: dict[str, Any] = {}
        self.capturing: list[Any] = []

    def connect(self, writer: FrameWriter) -> None:
        """Send events to `writer` from now on; before that they are dropped."""
        self._writer = writer

    def msg(self, msg_type: str, content: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Make a message."""
        return {"header": {"msg_type": msg_type}, "msg_type": msg_type, "content": content}

    def send(
        self, _socket: Any, message: dict[str, Any] | str, content: dict[str, Any] | None = None, *_: Any, **__: Any
    ) -> None:
        """Send a message, or one made of type and content."""
        if isinstance(message, str):
            kind, body = message, content or {}
        else:
            kind, body = message["msg_type"], message["content"]
        output = self._as_output(kind, body)
        if output is None:
            return
        if self.capturing:
            self.capturing[-1].take(output)
        else:
            self._send(output)

    def update(self, display_id: str, data: dict[str, Any]) -> None:
        """Show new content under an id, past any widget that captures."""
        transient = {"display_id": display_id}
        self._send({"output_type": "update_display_data", "data": data, "metadata": {}, "transient": transient})

    def _send(self, output: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.event({"kind": "displayed", "outputs": [output]})

    def _as_output(self, kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
        if kind == "clear_output":
            return {"output_type": kind, "wait": bool(content.get("wait"))}
        if kind == "error":
            self.error = {name: content[name] for name in ("ename", "evalue", "traceback")}
            return {"output_type": kind, **self.error}
        if kind not in ("display_data", "update_display_data", "execute_result"):
            return None
        data, transient = _plain_data(content["data"]), dict(content.get("transient") or {})
        widget = content["data"].get(WIDGET_VIEW, {}).get("model_id")
        if widget is not None:
            transient.setdefault("display_id", widget)
        if widget in self.captured:
            data = self.captured[widget].bundle()
        output: dict[str, Any] = {"output_type": kind, "data": data, "metadata": content.get("metadata") or {}}
        if kind == "execute_result":
            output["execution_count"] = content.get("execution_count")
            text = data.get("text/plain")
            self.output = text if text is None or len(text) <= MAX_OUTPUT_CHARS else text[:MAX_OUTPUT_CHARS] + "…"
        if transient:
            output["transient"] = transient
        return output


class JobDisplayPublisher(ZMQDisplayPublisher):
    """ipykernel's publisher with a session of ours."""

    session = AnyTrait()


class JobDisplayHook(ZMQShellDisplayHook):
    """ipykernel's display hook with a session of ours."""

    session = AnyTrait()


def _plain_data(data: dict[str, Any]) -> dict[str, Any]:
    """Return the bundle as nbformat wants it: bytes in base64, no view of a widget (it has no kernel to live in)."""
    plain = {
        mime: b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        for mime, value in data.items()
        if mime != WIDGET_VIEW
    }
    if not plain and data:
        plain["text/plain"] = "A widget; it cannot be shown from a job."
    return plain
