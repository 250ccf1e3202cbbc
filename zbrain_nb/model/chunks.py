"""Several calls as one: what a job of ``Executor.map(..., chunksize=n)`` runs. Imports nothing, for jobs import it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def run_chunk(function: Callable[..., Any], chunk: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call `function` with each tuple of arguments; return what it returned, in order."""
    return [function(*args) for args in chunk]
