"""``--grid``: one job for each combination of values."""

from __future__ import annotations

import ast
import itertools
from typing import Any

from zbrain_nb.model.errors import UsageError

MAX_RUNS = 10_000


def parse_grid(texts: list[str]) -> dict[str, list[Any]]:
    """Return the values of each name of ``name=value,value`` texts.

    Values are Python literals, as in ``lr=0.1,0.01`` or ``shape=(1,2),(3,4)``; what is none is text.

    Raises
    ------
    UsageError
        If a text is of another form, a name comes twice, or there are too many combinations.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, given, values = text.partition("=")
        name = name.strip()
        if not given or not name.isidentifier() or not values.strip():
            raise UsageError(f"%%zbrain: --grid takes name=value,value, not {text!r}.", "Such as --grid lr=0.1,0.01.")
        if name in grid:
            raise UsageError(f"%%zbrain: --grid names {name!r} twice.", "Put all its values behind one name.")
        grid[name] = _values(values)
    runs = 1
    for values_of in grid.values():
        runs *= len(values_of)
    if runs > MAX_RUNS:
        raise UsageError(f"%%zbrain: --grid makes {runs:,} runs, more than {MAX_RUNS:,}.", "Take fewer values.")
    return grid


def combinations(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return a dict for each combination, the last name changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def label(value: Any) -> str:
    """Return a value as its tag says it."""
    return value if isinstance(value, str) else repr(value)


def _values(text: str) -> list[Any]:
    try:
        return list(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        return [_value(part.strip()) for part in text.split(",") if part.strip()]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
