"""A variable in a few words, for people: ``list of 3``. Imports nothing heavy, runs no code of the value."""

from __future__ import annotations

import types
from typing import Any

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_SIZED = (list, tuple, dict, set, frozenset)
_TIMES = " \N{MULTIPLICATION SIGN} "
MAX_LENGTH = 60


def type_name(value: Any) -> str:
    """Return the bare name of the value's class."""
    return type(value).__name__


def summarize(value: Any) -> str:
    """Describe `value` in at most `MAX_LENGTH` characters."""
    return _shorten(_describe(value))


def _describe(value: Any) -> str:
    name = type_name(value)
    if type(value) in _SCALARS:
        return repr(value[: MAX_LENGTH + 1]) if isinstance(value, str | bytes) else repr(value)
    if type(value) in _SIZED:
        return f"{name} of {len(value):,}"
    if isinstance(value, type):
        return f"class {value.__name__}"
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return f"function {value.__name__}"
    shape = _shape(value)
    if shape is None:
        return name
    if type(value).__module__.partition(".")[0] in ("pandas", "polars", "geopandas"):
        return f"{name}, {_TIMES.join(f'{size:,}' for size in shape)}"
    if not shape:
        return f"{name} {value!r}"
    dtype = getattr(value, "dtype", None)
    return f"{name} {shape}" if dtype is None else f"{name} {shape} {dtype}"


def _shape(value: Any) -> tuple[int, ...] | None:
    if type(value).__module__ in ("__main__", "builtins"):
        return None
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape):
        return tuple(shape)
    return None


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"
