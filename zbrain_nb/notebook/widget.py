"""The view of a job as an ipywidget, for layouts with other widgets and for pages that cannot reach the server.

In the browser it is the same module as the lab extension's, and like that it talks straight to the server where
it can. Where it cannot (VS Code, Colab, remote kernels) it asks the kernel, and whoever made the widget feeds it:
see `JobWidget`. Nothing here talks to a server or starts a thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_VIEW = Path(__file__).parent / "view"
#: In the order of their imports.
_MODULES = (
    "ask",
    "elements",
    "text",
    "trace",
    "lines",
    "feed",
    "words",
    "outputs",
    "kept",
    "params",
    "search",
    "log",
    "view",
    "jupyter",
    "server",
    "kernel",
    "widget",
)
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)


def _one_module() -> str:
    """Join the view's modules: a widget's source is loaded from a blob, where relative imports cannot be found."""
    sources = [(_VIEW / f"{name}.js").read_text("utf-8") for name in _MODULES]
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", source)) for source in sources)


class JobWidget(anywidget.AnyWidget):
    """Live view of one job.

    Parameters
    ----------
    job_id : str
        Which job.
    name : str
        What to call it until more is known.
    snapshot : dict or None
        What to show first, as `zbrain_nb.notebook.bundle.snapshot` makes it.
    on_act : callable or None
        Called with what a view without server asks for: ``"refresh"`` (a view opened: set `snapshot`, then `push`
        what follows), ``"cancel"``, ``"retry"`` or ``"run_again"``. It returns None, or one sentence for the
        reader when it could not be done. It runs where the kernel handles messages, so it must not block.

    Attributes
    ----------
    snapshot : dict
        Assign to replace what is shown, also by another job (after a retry). With ``event_seq``, the number of the
        last event that its outputs hold.
    fed : bool
        Whether a view has asked to be fed by the kernel. While False nobody needs `push`, which does nothing.
    """

    _esm = _one_module()
    _css = (_VIEW / "zbrain.css").read_text("utf-8")

    job_id = traitlets.Unicode().tag(sync=True)
    name = traitlets.Unicode().tag(sync=True)
    snapshot = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        job_id: str,
        name: str,
        snapshot: dict[str, Any] | None = None,
        on_act: Callable[[str], str | None] | None = None,
    ) -> None:
        super().__init__(job_id=job_id, name=name, snapshot=snapshot or {})
        self.fed = False
        self._on_act = on_act
        self.on_msg(self._take)

    def push(self, events: Sequence[dict[str, Any]]) -> None:
        """Hand events to the views that the kernel feeds.

        Parameters
        ----------
        events : sequence of dict
            As the server's event stream sends them, oldest first; one that a view has seen changes nothing.
        """
        if self.fed and events:
            self.send({"events": list(events)})

    def _take(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        verb = content.get("act")
        if verb == "refresh":
            self.fed = True
        if verb not in ("refresh", "cancel", "retry", "run_again") or self._on_act is None:
            return
        problem = self._on_act(verb)
        if problem:
            self.send({"problem": problem})

    def __repr__(self) -> str:
        return "<zbrain job>"
