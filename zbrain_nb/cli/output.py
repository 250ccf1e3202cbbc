"""What the commands print: tables, JSON, log lines, and what ``zbrain`` itself has to say.

What was asked for goes to stdout, all else to stderr. A table is as wide as the terminal; into a pipe it goes in
whole lines, without colours. Nothing that a job wrote can steer the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zbrain_nb.client.printing import printable, state_style
from zbrain_nb.model.events import LogEntry, LogStream
from zbrain_nb.model.job import Job, JobState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_PIPE_COLUMNS = 10_000
#: Columns that give way, and may be cut, when a terminal is narrow.
_ELASTIC = frozenset({"Name", "Reason", "Python", "Paused"})
_RIGHT = frozenset({"Elapsed", "Age", "Size", "Waiting", "Running", "Slots", "Free", "Heard"})


def say(text: str) -> None:
    """Say something of ``zbrain`` itself, on stderr."""
    sys.stderr.write(f"zbrain: {printable(text)}\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """Print one JSON document."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def console() -> Console:
    """Return rich's console on stdout; a pipe takes whole lines."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=_PIPE_COLUMNS, highlight=False)


def plain(text: str) -> Text:
    """Return a cell of a table that shows `text`, in one line, and does nothing else."""
    from rich.text import Text

    return Text(printable(text).replace("\n", " "), no_wrap=True, overflow="ellipsis")


def state_text(state: JobState) -> Text:
    """Return a job's state as a word in its colour."""
    from rich.text import Text

    return Text(state, style=state_style(state))


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table; text is shown as it is, `Text` with its style."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column,
            no_wrap=column not in _ELASTIC,  # rich narrows what may wrap first; that no cell does is said by `plain`
            justify="right" if column in _RIGHT else "left",
            min_width=8 if column in _ELASTIC else None,
        )
    for row in rows:
        made.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], empty: str) -> None:
    """Print a table on stdout, or say on stderr that there is nothing in it."""
    if not rows:
        say(empty)
        return
    console().print(table(columns, rows))


def print_line(entry: LogEntry, *, raw: bool = False) -> None:
    """Print a line of a log: what went to stdout there goes to stdout here, all else to stderr.

    On a terminal colours stay. Without `raw`, no other escape and control character goes out; with it, a pipe gets the
    line as the job wrote it.
    """
    target = sys.stdout if entry.stream is LogStream.STDOUT else sys.stderr
    terminal = target.isatty()
    target.write(f"{entry.line if raw and not terminal else printable(entry.line, colours=terminal)}\n")
    target.flush()


def print_traceback(job: Job) -> None:
    """Print the traceback of the cell or function that failed, if there is one, on stderr; coloured on a terminal."""
    text = "\n".join((job.error or {}).get("traceback") or ())
    if text:
        sys.stderr.write(f"{printable(text, colours=sys.stderr.isatty())}\n")
        sys.stderr.flush()
