"""A job's rich outputs as a notebook would show them, reduced from the messages that made them.

Follows the Jupyter messaging spec: ``clear_output`` (with ``wait``, at the next output), ``update_display_data``
and ``display_data`` with a ``transient.display_id``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """nbformat output dicts in order, and whether the next one takes the place of them all."""

    outputs: list[dict[str, Any]]
    clear_next: bool


def reduce_outputs(messages: Iterable[dict[str, Any]]) -> Shown:
    """Return what is shown after all `messages`.

    Parameters
    ----------
    messages : iterable of dict
        nbformat outputs, ``clear_output`` and ``update_display_data``, as they came. None is changed.
    """
    shown: list[dict[str, Any]] = []
    by_display: dict[str, list[dict[str, Any]]] = {}
    clear_next = False
    for message in messages:
        kind = message["output_type"]
        if kind == "clear_output":
            clear_next = bool(message.get("wait"))
            if not clear_next:
                shown, by_display = [], {}
            continue
        display_id = _display_id(message)
        if kind == "update_display_data":
            for output in by_display.get(display_id or "", ()):
                output["data"] = message.get("data", {})
                output["metadata"] = message.get("metadata", {})
            continue
        if clear_next:
            shown, by_display, clear_next = [], {}, False
        output = dict(message)
        if kind == "stream" and shown and shown[-1].get("name") == output.get("name") and _is_stream(shown[-1]):
            shown[-1]["text"] = _text(shown[-1]) + _text(output)
            continue
        if display_id:
            by_display.setdefault(display_id, []).append(output)
        shown.append(output)
    return Shown(shown, clear_next)


def _display_id(message: dict[str, Any]) -> str | None:
    transient = message.get("transient")
    found = transient.get("display_id") if isinstance(transient, dict) else None
    return found if isinstance(found, str) else None


def _is_stream(output: dict[str, Any]) -> bool:
    return bool(output["output_type"] == "stream")


def _text(output: dict[str, Any]) -> str:
    text = output.get("text", "")
    return "".join(text) if isinstance(text, list) else str(text)
