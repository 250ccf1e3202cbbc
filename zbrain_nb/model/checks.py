"""Checks of single values, each naming the field that does not hold."""

from __future__ import annotations

import math
import re
from typing import Any

from zbrain_nb.model.errors import InvalidSpec

MAX_ENTRIES = 10_000
MAX_DEPTH = 100
MAX_SAID = 300
_CONTAINERS = (dict, list, tuple)
MAX_ORG_ID = 200
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_NOT_IN_ORG = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029,/\\]")


def check_number(field: str, value: Any, *, low: float, high: float, whole: bool = False) -> None:
    """Refuse what is not a finite number from `low` to `high`."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not abs(value) < math.inf:
        raise InvalidSpec(f"{field} must be a {'whole ' if whole else ''}number.", field=field)
    if not low <= value <= high:
        raise InvalidSpec(f"{field} must lie between {low:g} and {high:g}, not {_short(value)}.", field=field)


def _short(value: float) -> str:
    text = repr(value) if abs(value) < 1e300 else "a number out of all bounds"
    return text


def is_sha256(value: Any) -> bool:
    """Whether `value` is 64 lower-case hexadecimal digits, the name of a blob."""
    return type(value) is str and _SHA256.match(value) is not None


def check_depth(field: str, value: Any, limit: int = MAX_DEPTH) -> None:
    """Refuse JSON that is nested deeper than `limit`: who can still read it may not be able to write it again."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(limit):
        if not level:
            return
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, _CONTAINERS)
        ]
    if not level:
        return
    raise InvalidSpec(f"{field} is nested deeper than {limit} levels.", field=field)


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


def check_org_id(field: str, value: Any) -> None:
    """Refuse what cannot name an org: in addresses and topics, commas and slashes stand between names."""
    check_text(field, value, MAX_ORG_ID)
    if _NOT_IN_ORG.search(value):
        raise InvalidSpec(f"{field} must not hold control characters, commas or slashes.", field=field)


def check_texts(field: str, value: Any, limit: int) -> None:
    """Refuse what is not a list of texts."""
    if type(value) is not list:
        raise InvalidSpec(f"{field} must be a list of texts.", field=field)
    if len(value) > MAX_ENTRIES:
        raise InvalidSpec(f"{field} has more than {MAX_ENTRIES:,} entries.", field=field)
    for index, item in enumerate(value):
        if type(item) is not str or len(item) > limit or not item.isascii() or "\x00" in item:
            check_text(f"{field}[{index}]", item, limit, empty=True)


def check_mapping(field: str, value: Any, limit: int) -> None:
    """Refuse what does not map texts to texts."""
    if type(value) is not dict:
        raise InvalidSpec(f"{field} must map texts to texts.", field=field)
    if len(value) > MAX_ENTRIES:
        raise InvalidSpec(f"{field} has more than {MAX_ENTRIES:,} entries.", field=field)
    for key, item in value.items():
        try:
            check_text(f"A name in {field}", key, 1000)
        except InvalidSpec as error:
            error.details["field"] = field
            raise
        check_text(f"{field}.{key}", item, limit, empty=True)


def brief(error: Exception) -> str:
    """Return what an error of a library says, cut where it repeats at length what it was given."""
    text = str(error)
    return text if len(text) <= MAX_SAID else f"{text[: MAX_SAID - 80]}\u2026{text[-80:]}"
