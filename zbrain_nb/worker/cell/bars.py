"""Progress bars of tqdm as progress events: the job's view has a bar of its own.

tqdm is patched when the cell imports it, or at once if that was done ahead. Bars written to a file of the user's, and
those of processes that the cell forks, stay text.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from zbrain_nb.worker.cell.frames import FrameWriter

_WITH_TOTAL = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_WITHOUT_TOTAL = "{n_fmt}{unit} [{elapsed}, {rate_fmt}{postfix}]"
_SHOWN = 3
#: What a bar that is a widget does otherwise than one on a console.
_OF_WIDGETS = frozenset(
    {"status_printer", "display", "colour", "__init__", "__iter__", "update", "close", "clear", "reset"}
)


class _Nowhere(io.StringIO):
    """The file of a bar that is shown as events."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return len(text)


class Bars:
    """The bars of one job.

    Parameters
    ----------
    writer : FrameWriter
        Takes the progress events.
    """

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer
        self._texts: dict[int, str] = {}
        self._fractions: dict[int, float | None] = {}

    def patch_console(self, module: ModuleType) -> None:
        """Patch ``tqdm.std.tqdm``, from which all others inherit."""
        tqdm: Any = module.tqdm
        begin, show, clear, move, close = tqdm.__init__, tqdm.display, tqdm.clear, tqdm.moveto, tqdm.close
        bars = self

        def __init__(bar: Any, iterable: Any = None, *args: Any, **kwargs: Any) -> None:
            streams = (None, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
            bar.zbrain_events = bars._writer.is_open and len(args) < 4 and kwargs.get("file") in streams
            if bar.zbrain_events:
                kwargs["file"] = _Nowhere()
            begin(bar, iterable, *args, **kwargs)

        def display(bar: Any, msg: str | None = None, pos: int | None = None) -> Any:
            if not bar.zbrain_events:
                return show(bar, msg, pos)
            bars.show(bar, tqdm.format_meter)
            return True

        def wrap_close(bar: Any) -> None:
            close(bar)
            bars.drop(bar)

        tqdm.__init__, tqdm.display, tqdm.close = __init__, display, wrap_close
        tqdm.clear = lambda bar, *a, **k: None if bar.zbrain_events else clear(bar, *a, **k)
        tqdm.moveto = lambda bar, n: None if bar.zbrain_events else move(bar, n)

    def patch_notebook(self, module: ModuleType) -> None:
        """Make console bars of those that are widgets: the class itself, for others may have imported it before."""
        bar: Any = module.tqdm_notebook
        for name in _OF_WIDGETS.intersection(vars(bar)):
            delattr(bar, name)

        def __init__(one: Any, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("display", None)
            super(bar, one).__init__(*args, **kwargs)

        bar.__init__ = __init__

    def show(self, bar: Any, format_meter: Callable[..., str]) -> None:
        """Send how far the outermost bar is, with the texts of those within it."""
        state = dict(bar.format_dict)
        n, total = state["n"], state["total"]
        name = (state["prefix"] or "").removesuffix(": ")
        state.update(bar_format=_WITH_TOTAL if total else _WITHOUT_TOTAL, ncols=None, prefix="")
        key = id(bar)
        self._fractions[key] = min(1.0, n / total) if total else None
        meter = format_meter(**state)
        self._texts[key] = f"{name}: {meter}" if name else meter
        outermost = next(iter(self._fractions))
        note = " · ".join(list(self._texts.values())[:_SHOWN])
        self._writer.event({"kind": "progress", "fraction": self._fractions[outermost], "note": note})

    def drop(self, bar: Any) -> None:
        """Forget a bar that was closed."""
        self._fractions.pop(id(bar), None)
        self._texts.pop(id(bar), None)
