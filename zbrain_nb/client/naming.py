"""What an SQL query names: tables and columns of the history, and the one job whose log it wants.

It looks at the tree that DuckDB's own parser gives, and errs towards too much: a column too many costs a moment.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zbrain_nb.model.history import TABLES

Params = Sequence[Any] | Mapping[str, Any] | None
_WORD = re.compile(r"\w+")


def tables_named(tree: dict[str, Any], text: str) -> dict[str, tuple[str, ...]]:
    """Return the tables that a query names, each with the columns that it may read.

    Parameters
    ----------
    tree : dict
        As ``json_serialize_sql`` gives it.
    text : str
        The query.
    """
    nodes = list(_nodes(tree))
    base = [node for node in nodes if node.get("type") == "BASE_TABLE"]
    named = {node["table_name"].lower() for node in base}
    whole = named | {node["alias"].lower() for node in base if node["alias"]}
    reads_all = any(
        node.get("type") in ("STAR", "SHOW_REF", "PIVOT")
        or node.get("ref_type") == "NATURAL"
        or (node.get("type") == "COLUMN_REF" and [name.lower() for name in node["column_names"]][-1] in whole)
        for node in nodes
    )
    words = {word.lower() for word in _WORD.findall(text)}
    return {
        name: tuple(table.columns if reads_all else [column for column in table.columns if column in words])
        for name, table in TABLES.items()
        if name in named
    }


def job_wanted(tree: dict[str, Any], params: Params) -> str | None:
    """Return the id of the only job whose lines a query reads from ``logs``, or None if it may read others.

    That is so if it names ``logs`` once, on its own, where ``job_id = ...``.
    """
    selects = [node for node in _nodes(tree) if node.get("type") == "SELECT_NODE"]
    mine = [node for node in selects if _is_logs(node.get("from_table"))]
    if len(mine) != 1 or sum(map(_is_logs, _nodes(tree))) != 1:
        return None
    for condition in _conjuncts(mine[0].get("where_clause")):
        if condition.get("type") != "COMPARE_EQUAL":
            continue
        sides: list[dict[str, Any]] = [condition["left"], condition["right"]]
        for column, value in (sides, sides[::-1]):
            if column["type"] == "COLUMN_REF" and column["column_names"][-1].lower() == "job_id":
                return _job_id(_value(value, params))
    return None


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for child in tree.values():
            yield from _nodes(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from _nodes(child)


def _is_logs(node: Any) -> bool:
    return isinstance(node, dict) and node.get("type") == "BASE_TABLE" and node["table_name"].lower() == "logs"


def _conjuncts(condition: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(condition, dict):
        return
    if condition.get("type") == "CONJUNCTION_AND":
        for child in condition["children"]:
            yield from _conjuncts(child)
    else:
        yield condition


def _value(node: dict[str, Any], params: Params) -> Any:
    if node["type"] == "VALUE_CONSTANT":
        constant = node.get("literal") or node.get("value") or {}  # as DuckDB 2 says it, and as DuckDB 1 did
        return constant.get("text", constant.get("value"))
    if node["type"] != "VALUE_PARAMETER" or params is None:
        return None
    name = node.get("identifier", "")
    if isinstance(params, Mapping):
        return params.get(name)
    return params[int(name) - 1] if name.isdecimal() and 0 < int(name) <= len(params) else None


def _job_id(value: Any) -> str | None:
    try:
        return str(uuid.UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None
