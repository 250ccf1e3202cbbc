"""ipywidgets' ``Output`` in a job: what it captures updates the display that it was shown as.

A job has no kernel for widgets to live in. Without this, ``with out: clear_output()`` would clear the job's
whole output.
"""

from __future__ import annotations

import html
import io
import sys
from types import ModuleType, TracebackType
from typing import Any

from zbrain_nb.worker.cell.displays import OutputSession


class Captured:
    """What one Output widget holds: texts and rich outputs, in order.

    Parameters
    ----------
    session : OutputSession
        Sends the updates.
    display_id : str
        Under which the widget was or will be shown.
    """

    def __init__(self, session: OutputSession, display_id: str) -> None:
        self._session = session
        self._display_id = display_id
        self._pieces: list[str | dict[str, Any]] = []

    def take(self, output: dict[str, Any]) -> None:
        """Take an output in place of the job."""
        if output["output_type"] == "clear_output":
            self._pieces.clear()
        elif output["output_type"] == "error":
            self._pieces.append("\n".join(output["traceback"]) + "\n")
        else:
            self._pieces.append(output["data"])
        self.show()

    def take_text(self, text: str) -> None:
        """Take what was printed."""
        if self._pieces and isinstance(self._pieces[-1], str):
            self._pieces[-1] += text
        else:
            self._pieces.append(text)

    def bundle(self) -> dict[str, Any]:
        """Return all of it as one bundle; as HTML too if something in it is rich."""
        plain = "".join(p if isinstance(p, str) else p.get("text/plain", "") + "\n" for p in self._pieces)
        if not any(isinstance(p, dict) and p.keys() - {"text/plain"} for p in self._pieces):
            return {"text/plain": plain}
        return {"text/plain": plain, "text/html": "".join(map(_as_html, self._pieces))}

    def show(self) -> None:
        """Send the present content."""
        self._session.update(self._display_id, self.bundle())


class _Text(io.TextIOBase):
    encoding = "utf-8"

    def __init__(self, captured: Captured) -> None:
        self._captured = captured

    def write(self, text: str) -> int:
        self._captured.take_text(text)
        return len(text)


def patch_output(module: ModuleType, session: OutputSession) -> None:
    """Let ``Output`` of ``ipywidgets.widgets.widget_output`` capture without a kernel."""
    output: Any = module.Output
    streams: list[tuple[Any, Any]] = []

    def enter(widget: Any) -> None:
        captured = session.captured.setdefault(widget.model_id, Captured(session, widget.model_id))
        streams.append((sys.stdout, sys.stderr))
        sys.stdout = sys.stderr = _Text(captured)
        session.capturing.append(captured)

    def leave(
        widget: Any, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is not None:
            from IPython.core.getipython import get_ipython

            shell: Any = get_ipython()
            shell.showtraceback((kind, error, trace), tb_offset=0)
        session.capturing.pop().show()
        sys.stdout, sys.stderr = streams.pop()
        return True  # shown already, as in a kernel

    output.__enter__, output.__exit__ = enter, leave


def _as_html(piece: str | dict[str, Any]) -> str:
    if isinstance(piece, str):
        return f"<pre>{html.escape(piece)}</pre>"
    for mime in ("text/html", "image/svg+xml"):
        if mime in piece:
            return f"<div>{piece[mime]}</div>"
    if "image/png" in piece:
        return f'<div><img src="data:image/png;base64,{piece["image/png"]}"></div>'
    return f"<pre>{html.escape(str(piece.get('text/plain', '')))}</pre>"
