"""Names inside texts that IPython, pandas or ``eval`` read as code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_WORD = re.compile(r"[^\W\d]\w*")
_EXPANSION = re.compile(r"\{([^{}]*)\}|\$\{?([^\W\d]\w*)")
_QUERY = re.compile(r"@([^\W\d]\w*)")
#: Methods whose text arguments read variables: pandas marks them with "@", the others take any Python.
_QUERIES = frozenset({"query", "eval"})
_EVALS = frozenset({"eval", "exec"})


def names_in_texts(node: ast.Call) -> Iterator[str]:
    """Yield the names in the text arguments of ``!``, ``eval`` and ``query``."""
    texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    for text in texts:
        if not isinstance(text, str):
            continue
        match node.func:
            case ast.Attribute(attr="system" | "getoutput" | "system_piped"):
                yield from expanded_names(text)
            case ast.Attribute(attr=method) if method in _QUERIES:
                yield from _QUERY.findall(text)
            case ast.Name(id=function) if function in _EVALS:
                yield from _WORD.findall(text)
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="pd" | "pandas"), attr="eval")):
            yield from (word for text in texts if isinstance(text, str) for word in _WORD.findall(text))


def expanded_names(text: str) -> Iterator[str]:
    """Yield the names that IPython expands in a shell line: ``{expression}``, ``$name``."""
    for expression, name in _EXPANSION.findall(text):
        if name:
            yield name
        else:
            yield from _WORD.findall(expression)


def words(text: str) -> list[str]:
    """Return all that may be a name in `text`."""
    return _WORD.findall(text)
