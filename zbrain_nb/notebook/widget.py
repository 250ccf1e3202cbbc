"""The views as ipywidgets, for layouts with other widgets, and for pages without the lab extension (VS Code, Colab).

In the browser it is the same module as the lab extension's, and like that it talks straight to the server where it can.
Where it cannot, it asks through the kernel: see `zbrain_nb.notebook.bridge`.
"""

from __future__ import annotations

from typing import Any, Literal

import anywidget
import traitlets

from zbrain_nb.client.client import Client
from zbrain_nb.notebook.bridge import Bridge
from zbrain_nb.notebook.joining import VIEW, join_modules

STYLES = ("zbrain.css", "dashboard/dashboard.css")


class ViewWidget(anywidget.AnyWidget):
    """A live view of a job, of a group, or of all jobs.

    Parameters
    ----------
    client : Client
        Asks the server for pages that cannot.
    kind : str
        ``job``, ``group`` or ``dashboard``.
    saved : dict
        What to show first, as the display bundle holds it under the view's mime type.

    Attributes
    ----------
    saved : dict
        As above. A view that shows another job instead (after a retry) says so here, for pages that open later.
    """

    _esm = join_modules("widget.js")
    _css = "\n".join((VIEW / name).read_text("utf-8") for name in STYLES)

    kind = traitlets.Unicode().tag(sync=True)
    saved = traitlets.Dict().tag(sync=True)

    def __init__(self, client: Client, kind: Literal["job", "group", "dashboard"], saved: dict[str, Any]) -> None:
        self.bridge = Bridge(lambda: client, self.send)  # first, for ipywidgets closes one whose making failed, too
        super().__init__(kind=kind, saved=saved)
        self.on_msg(lambda _widget, message, _buffers: self.bridge.take(message))

    def close(self) -> None:
        """End the view, on all pages."""
        self.bridge.close()
        super().close()

    def __repr__(self) -> str:
        return f"<zbrain {self.kind}>"
