"""Tables that line magics print, and that stand for views in a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zbrain_nb.client.printing import age, printable, state_style
from zbrain_nb.model.job import Job

JOB_COLUMNS = ("Id", "State", "Name", "Age", "Reason")
#: So much of an id is shown.
ID_CHARS = 13


def show_table(columns: Iterable[str], rows: Sequence[tuple[str, ...]], empty: str, wraps: str = "Reason") -> None:
    """Print rows, whose texts may hold rich's markup, or `empty` if there are none; the column `wraps` may wrap."""
    if not rows:
        sys.stdout.write(f"{empty}\n")
        return
    Console().print(_table(columns, rows, wraps))


def table_text(columns: Iterable[str], rows: Sequence[tuple[str, ...]], wraps: str = "Reason") -> str:
    """Return as text, without colours, what `show_table` prints."""
    text = io.StringIO()
    Console(file=text).print(_table(columns, rows, wraps))
    return text.getvalue().rstrip("\n")


def job_row(job: Job) -> tuple[str, ...]:
    """Return the cells of `JOB_COLUMNS`."""
    state = f"[{state_style(job.state)}]{job.state}[/]"
    return (job.id[:ID_CHARS], state, plain(job.name), age(job.created_at), plain(job.reason or ""))


def _table(columns: Iterable[str], rows: Sequence[tuple[str, ...]], wraps: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != wraps)
    for row in rows:
        table.add_row(*row)
    return table


def plain(text: str) -> str:
    """Return foreign text so that it neither steers the terminal nor is markup."""
    return escape(printable(text))
