"""Tables that line magics print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zbrain_nb.client.printing import printable


def show_table(columns: Iterable[str], rows: Sequence[tuple[str, ...]], empty: str, wraps: str = "Reason") -> None:
    """Print rows, whose texts may hold rich's markup, or `empty` if there are none; the column `wraps` may wrap."""
    if not rows:
        sys.stdout.write(f"{empty}\n")
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != wraps)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def plain(text: str) -> str:
    """Return foreign text so that it neither steers the terminal nor is markup."""
    return escape(printable(text))
