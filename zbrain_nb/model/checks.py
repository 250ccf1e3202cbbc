"""Checks of single values, each naming the field that does not hold."""

from __future__ import annotations

import math
from typing import Any

from zbrain_nb.model.errors import InvalidSpec

MAX_ENTRIES = 10_000


def check_number(field: str, value: Any, *, low: float, high: float, whole: bool = False) -> None:
    """Refuse what is not a finite number from `low` to `high`."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise InvalidSpec(f"{field} must be a {'whole ' if whole else ''}number.", field=field)
    if not low <= value <= high:
        raise InvalidSpec(f"{field} must lie between {low:g} and {high:g}, not {value!r}.", field=field)


def check_text(field: str, value: Any, limit: int, *, empty: bool = False) -> None:
    """Refuse what is not text of at most `limit` characters, without NUL and encodable as UTF-8."""
    if type(value) is not str:
        raise InvalidSpec(f"{field} must be text, not {type(value).__name__}.", field=field)
    if len(value) > limit:
        raise InvalidSpec(f"{field} is longer than {limit:,} characters.", field=field)
    if not value and not empty:
        raise InvalidSpec(f"{field} must not be empty.", field=field)
    if "\x00" in value:
        raise InvalidSpec(f"{field} holds a NUL byte.", field=field)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidSpec(f"{field} holds a lone surrogate, which is no text.", field=field) from error


def check_texts(field: str, value: Any, limit: int) -> None:
    """Refuse what is not a list of texts."""
    if type(value) is not list:
        raise InvalidSpec(f"{field} must be a list of texts.", field=field)
    if len(value) > MAX_ENTRIES:
        raise InvalidSpec(f"{field} has more than {MAX_ENTRIES:,} entries.", field=field)
    for index, item in enumerate(value):
        check_text(f"{field}[{index}]", item, limit, empty=True)


def check_mapping(field: str, value: Any, limit: int) -> None:
    """Refuse what does not map texts to texts."""
    if type(value) is not dict:
        raise InvalidSpec(f"{field} must map texts to texts.", field=field)
    if len(value) > MAX_ENTRIES:
        raise InvalidSpec(f"{field} has more than {MAX_ENTRIES:,} entries.", field=field)
    for key, item in value.items():
        check_text(f"{field} key", key, 1000)
        check_text(f"{field}.{key}", item, limit, empty=True)
