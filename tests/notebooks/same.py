"""Runs a notebook twice, in its own kernel and with every cell as a job, and makes the outputs comparable.

A notebook is a list of texts of code cells. What is evened out before comparing is listed at `ALLOWED`: nothing
else may differ.
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from zbrain_nb.model.assigned import assigned_names

LOAD = "%load_ext zbrain_nb"
HERE = "# in the kernel\n"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
Output = dict[str, Any]

#: What may differ in a text, by why: a pattern and what is put in its place.
ALLOWED: dict[str, tuple[str, str]] = {
    "where an object lies in memory": (r"\b0x[0-9a-f]{6,}\b", "0x"),
    "how long it took": (r"\d+(\.\d+)?(e[+-]\d+)? (ns|[uμµ]s|ms|s)\b", "0 s"),
    "the name of a cell's file, which holds a process id": (r"(/tmp/ipykernel_\w+/\w+|\b\d+)\.py\b", "cell.py"),
    "what zbrain itself says of the job": (r"zbrain: [^\n]*\n?", ""),
    "what IPython says of an exit, which a job may have": (
        r"[^\n]*UserWarning: To exit: use 'exit'[^\n]*\n[^\n]*stacklevel=1\)\n?",
        "",
    ),
    "the line ends of a terminal, which `!command` has": (r"\r\n", "\n"),
    "a line of a log is its last state, as on a terminal": (r"(?m)^[^\n]*\r(?!\n)", ""),
}


def evened(text: str) -> str:
    """Return a text without what may differ."""
    for pattern, place in ALLOWED.values():
        text = re.sub(pattern, place, text)
    return text


def comparable(outputs: Sequence[Output]) -> list[Any]:
    """Return the outputs of a cell in a form that compares equal if a reader would see the same.

    A kernel does not keep the order of stdout and stderr between two displays, so each is one text there. A log
    is made of lines: whether the last one before a display has ended is not kept.
    """
    found: list[Any] = []
    texts: dict[str, str] = {}

    def end_of_text() -> None:
        even = [(name, evened(texts[name]).rstrip("\n")) for name in sorted(texts)]
        found.extend((name, text) for name, text in even if text)
        texts.clear()

    for output in outputs:
        kind = output["output_type"]
        if kind == "stream":
            texts[output["name"]] = texts.get(output["name"], "") + output["text"]
            continue
        end_of_text()
        if kind == "error":
            frames = evened("\n".join(output["traceback"])).split("\n\n")
            trace = [frame for frame, _ in groupby(frames)]  # how deep a recursion gets depends on who began it
            found.append((kind, output["ename"], evened(output["evalue"]), trace))
        else:
            data = {mime: _even(value) for mime, value in output["data"].items() if mime != WIDGET_VIEW}
            found.append((kind, data, output.get("metadata"), output.get("execution_count")))
    end_of_text()
    return found


def _even(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _even(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_even(inner) for inner in value]
    return evened(value) if isinstance(value, str) else value


def as_job(cell: str) -> str:
    """Return a cell as a user would send it away: with the names that it assigns in ``--out``.

    A cell that begins with `HERE` stays in the kernel. A comment ``# out: a,b`` at its end names what the user
    would: what the cell changes through a function, or not what cannot travel.
    """
    if cell.startswith(HERE):
        return cell
    said = re.search(r"# out: (\S*)$", cell)
    names = list(filter(None, said[1].split(","))) if said else sorted(_assigned(cell))
    return f"%%zbrain --wait{' --out ' + ','.join(names) if names else ''}\n{cell}"


def _assigned(cell: str) -> set[str]:
    try:
        tree = ast.parse(TransformerManager().transform_cell(cell))
    except SyntaxError:
        return set()
    inner = (
        node.args[2].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "run_cell_magic"
        if node.args[0].value in ("time", "timeit", "prun")
    )
    return assigned_names(tree).union(*map(_assigned, inner))


async def outputs_of(cells: Sequence[str], folder: Path) -> list[list[Any]]:
    """Run cells in a fresh kernel; return what each has put out."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook, kernel_name="python3", allow_errors=True, timeout=60, resources={"metadata": {"path": str(folder)}}
    )
    for left in (2, 1, 0):
        try:
            await client.async_execute()
            break
        except RuntimeError as error:
            # the kernel's ports were chosen before it took them, and one is another process's by now
            if not left or "Kernel died before replying" not in str(error):
                raise
    return [comparable(cell.outputs) for cell in notebook.cells]


async def run_both(
    cells: Sequence[str], folder: Path, change: Callable[[str], str] = as_job
) -> tuple[list[list[Any]], list[list[Any]]]:
    """Return the outputs of a notebook in its own kernel, and with every cell as a job."""
    here, away = folder / "here", folder / "away"
    here.mkdir()
    away.mkdir()
    ours = [LOAD, *map(change, cells)]
    first, second = await asyncio.gather(outputs_of([LOAD, *cells], here), outputs_of(ours, away))
    return first[1:], second[1:]
