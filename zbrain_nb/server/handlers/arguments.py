"""Reads the query of a request as the struct that its route declares, or says which argument does not hold.

An argument that is empty counts as left out. One that the route does not know is refused: a filter that is
misspelt, or newer than the host, must not answer with everything. Names that begin with an underscore or are
digits alone pass unread: browsers' libraries send them (``_=TIME`` and JupyterLab's ``?TIME`` against caches,
``_xsrf``).
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from zbrain_nb.model.errors import Malformed

S = TypeVar("S", bound=msgspec.Struct)
MAX_SAID = 40
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,20}")
_PASSES = re.compile(r"_.*|[0-9]+")


def read_arguments(kind: type[S], given: Mapping[str, list[bytes]]) -> S:
    """Return the arguments as a `kind`.

    Parameters
    ----------
    kind : type of msgspec.Struct
        What the route takes. Fields may be texts, whole numbers, truth values, times, enumerations, any of these or
        None, and lists of texts, which commas separate.
    given : mapping of str to list of bytes
        The values of each argument, as they stand in the query, unescaped.

    Raises
    ------
    Malformed
        If an argument is unknown, stands twice, is missing or does not hold; it says which, and what it takes.
    """
    fields = _fields(kind)
    values: dict[str, Any] = {}
    for name, texts in given.items():
        field = fields.get(name)
        if field is None:
            if _PASSES.fullmatch(name):
                continue
            takes = f"It takes {', '.join(fields)}." if fields else "It takes none."
            raise Malformed(f"This address takes no argument {_said(name)}.", takes)
        if len(texts) > 1:
            raise Malformed(f"{name} stands {len(texts)} times in the query.", "Give it once.")
        try:
            text = texts[0].decode()
        except UnicodeDecodeError:
            raise Malformed(f"{name} is not text in UTF-8.") from None
        if text:
            values[field.name] = _read(name, field.type, text)
    missing = next((field for field in fields.values() if field.required and field.name not in values), None)
    if missing is not None:
        raise Malformed(f"{missing.encode_name} is missing; it must be {_takes(missing.type)}.")
    return kind(**values)


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, inspect.Field]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name: field for field in info.fields}


def _read(name: str, info: inspect.Type, text: str) -> Any:
    info = _bare(info)
    try:
        return _value(info, text)
    except ValueError:  # msgspec's errors are such
        raise Malformed(f"{name} must be {_takes(info)}, not {_said(text)}.") from None


def _value(info: inspect.Type, text: str) -> Any:
    match info:
        case inspect.IntType():
            if not _WHOLE_NUMBER.fullmatch(text):
                raise ValueError(text)
            number = int(text)
            low, high = _bounds(info)
            if not low <= number <= high:
                raise ValueError(text)
            return number
        case inspect.DateTimeType():
            time = dt.datetime.fromisoformat(text)
            return time if time.tzinfo else time.replace(tzinfo=dt.UTC)
        case inspect.ListType():
            return [part.strip() for part in text.split(",") if part.strip()]
        case inspect.BoolType():
            return msgspec.convert(text, bool, strict=False)
        case inspect.EnumType():
            return info.cls(text)
        case inspect.LiteralType():
            if text not in info.values:
                raise ValueError(text)
            return text
        case inspect.StrType():
            if info.max_length is not None and len(text) > info.max_length:
                raise ValueError(text)
            return text
    raise TypeError(f"A query cannot hold {type(info).__name__}.")


def _bare(info: inspect.Type) -> inspect.Type:
    """Return what a value is when it is given."""
    if isinstance(info, inspect.Metadata):
        return _bare(info.type)
    if isinstance(info, inspect.UnionType):
        (info,) = (each for each in info.types if not isinstance(each, inspect.NoneType))
        return _bare(info)
    return info


def _bounds(info: inspect.IntType) -> tuple[int, int]:
    low = info.ge if info.ge is not None else -(2**53)
    high = info.le if info.le is not None else 2**53
    return low, high


def _takes(info: inspect.Type) -> str:
    """Say what a value must be."""
    match info := _bare(info):
        case inspect.IntType():
            low, high = _bounds(info)
            return f"a whole number from {low} to {high}"
        case inspect.DateTimeType():
            return "a time in ISO 8601, such as 2026-01-31T08:00:00Z"
        case inspect.BoolType():
            return "0 or 1"
        case inspect.EnumType():
            return f"one of {', '.join(str(one.value) for one in info.cls)}"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, info.values))}"
        case inspect.StrType(max_length=int(most)):
            return f"text of at most {most:,} characters"
    return "text"


def _said(text: str) -> str:
    return repr(text if len(text) <= MAX_SAID else f"{text[:MAX_SAID]}\N{HORIZONTAL ELLIPSIS}")
