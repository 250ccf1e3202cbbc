"""Joins the view's modules into one: a widget's source is loaded from a blob, where relative imports find nothing.

Each module becomes a function that returns its exports, so that names in different modules do not meet.
"""

from __future__ import annotations

import re
from pathlib import Path

VIEW = Path(__file__).parent / "view"
_IMPORT = re.compile(r"^import (\{[^}]*\}) from '([^']+)';\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:const|function|class) (\w+))", re.MULTILINE)


def join_modules(entry: str) -> str:
    """Return the source of one module that does what `entry` does, and exports its default.

    Parameters
    ----------
    entry : str
        Name of the module in `VIEW`, with its suffix.
    """
    parts: dict[Path, str] = {}
    source = _add(VIEW / entry, parts)
    return "\n".join(["const modules = {};", *parts.values(), source])


def _add(path: Path, parts: dict[Path, str]) -> str:
    """Add to `parts` what the module imports, before it; return its source with the imports taken from there."""

    def taken(match: re.Match[str]) -> str:
        names, where = match.groups()
        module = (path.parent / where).resolve()
        if module not in parts:
            source = _add(module, parts)
            exports = ", ".join(_EXPORT.findall(source))
            body = _EXPORT.sub("", source)
            parts[module] = f"modules['{_name(module)}'] = (() => {{\n{body}\nreturn {{ {exports} }};\n}})();"
        return f"const {names.replace(' as ', ': ')} = modules['{_name(module)}'];\n"

    return _IMPORT.sub(taken, path.read_text("utf-8"))


def _name(module: Path) -> str:
    return module.relative_to(VIEW.resolve()).as_posix()
