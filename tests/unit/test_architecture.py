"""The import rules of the house: who may know whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "zbrain_nb"
ROOMS = {
    "model": set(),
    "store": {"model"},
    "queue": {"model", "store"},
    "server": {"model", "store", "queue"},
    "client": {"model"},
    "worker": {"model", "client"},
    "notebook": {"model", "client"},
    "cli": {"model", "client", "server", "worker"},
}
#: The entry points that the command line may call.
CLI_MAY_CALL = {"zbrain_nb.server.serving", "zbrain_nb.worker.service"}
FOREIGN = {
    "duckdb": {"store", "client"},
    "jupyter_server": {"server"},
    "ipywidgets": {"notebook"},
    "anywidget": {"notebook"},
    "IPython": {"notebook", "worker"},
    "ipykernel": {"notebook", "worker"},
}


def imports_of(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_imports_only_rooms_below(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "zbrain_nb" and len(parts) > 1 and parts[1] in ROOMS and parts[1] != room:
            assert parts[1] in ROOMS[room], f"{room}/ may not import {name}"
            if room == "cli" and parts[1] in ("server", "worker"):
                assert name.startswith(tuple(CLI_MAY_CALL)), f"cli/ may call only the entry points, not {name}"
        elif parts[0] in FOREIGN:
            assert room in FOREIGN[parts[0]], f"{room}/ may not import {parts[0]}"
            if room == "worker":
                assert "cell" in path.parts, f"only the cell runner imports {parts[0]}"
            if room == "client":  # the caller's SQL, in the caller's process
                assert path.name == "history.py", f"only client/history.py imports {parts[0]}"


def test_tornado_web_stays_in_server() -> None:
    for path in files():
        if path.relative_to(PACKAGE).parts[0] != "server":
            assert not any(name.startswith("tornado") for name in imports_of(path)), f"{path} imports tornado"


def test_every_package_folder_is_a_room() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)
