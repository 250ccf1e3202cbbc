"""``%zbrain sql``: asks the history, or shows what can be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zbrain_nb.client.client import Client
from zbrain_nb.model.history import TABLES
from zbrain_nb.notebook.tables import plain, show_table


def run_sql(connect: Callable[[], Client], query: str) -> Any:
    """Return the answer, to be shown; without a query, print the tables and their columns."""
    if query:
        return connect().sql(query)
    rows = [
        (f"{name}.{column}", one.type, plain(one.text))
        for name, table in TABLES.items()
        for column, one in table.columns.items()
    ]
    show_table(("Column", "Type", "Says"), rows, "", wraps="Says")
    return None
