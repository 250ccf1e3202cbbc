"""``--cache``: what makes two cells the same, so that the second may take what the first gave.

Same are two cells of one owner whose text, inputs, interpreter, environment, folder, kept names and files, limits,
worker, parents and secrets (by name) are the same, for which the same packages are installed, and whose modules are
the same: the user's own, in the notebook's folder or on its path, by their text, and that of those which they import.
A cell's modules are those that it imports, or what it takes along does, inside functions and methods too. Labels,
priority, resources and how often it is tried make no difference. What a cell reads by itself (files, a database, the
time, a secret's value) is not looked at, nor what it imports by a name that it computes.

Called by the magic. Nothing here asks a server.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import util
from pathlib import Path

import msgspec

from zbrain_nb.model.job import JobSpec
from zbrain_nb.notebook.shipping import Shipment

#: Fields of a spec that decide what the job gives.
_DECISIVE = ("org_id", "cmd", "code", "input", "keep", "artifacts", "cwd", "worker", "kernel", "after", "limits")
#: Variables of a login or a terminal: another one is no other environment for a cell.
_OF_SESSIONS = re.compile(
    r"_$|SHLVL$|PWD$|OLDPWD$|DISPLAY$|WAYLAND_DISPLAY$|XAUTHORITY$|WINDOWID$|COLUMNS$|LINES$|STY$|INVOCATION_ID$"
    r"|JOURNAL_STREAM$|SYSTEMD_EXEC_PID$|GPG_TTY$|SSH_|TERM|TMUX|XDG_SESSION|DBUS_|VSCODE_|PYTEST_"
)
_INSTALLED = ("site-packages", "dist-packages")


def cache_key(spec: JobSpec, shipment: Shipment | None, imported: Iterable[str] = ()) -> str:
    """Return what is equal for cells that give the same.

    Parameters
    ----------
    spec : JobSpec
        As it will be submitted; its `inputs` are not looked at.
    shipment : Shipment or None
        What the cell takes along.
    imported : iterable of str
        Modules that the cell imports itself.

    Returns
    -------
    str
        A SHA-256, for `JobSpec.cache_key`.
    """
    env = {name: value for name, value in spec.env.items() if not _OF_SESSIONS.match(name)}
    modules = [*(shipment.modules if shipment else ()), *imported]
    if shipment:
        modules += imports_of(ast.parse("\n".join(shipment.imports)))
    said = {
        "spec": {name: getattr(spec, name) for name in _DECISIVE},
        "secrets": sorted(spec.secrets),
        "env": env,
        "inputs": shipment.fingerprint if shipment else "",
        "modules": sorted(_states(modules)),
        "installed": _installed(),
    }
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()


def imports_of(tree: ast.AST) -> set[str]:
    """Return the packages that a syntax tree imports, by the first part of their names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _installed() -> list[str]:
    """Return what changes when any package is installed, upgraded or removed.

    Not the needed packages alone: they need others. A distribution's folder bears its name and version, and is made
    anew even if both are the same. Listing them takes a millisecond, reading what is in them much longer.
    """
    found = []
    for folder in map(Path, dict.fromkeys(sys.path)):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:  # an archive, or not there
            found += [
                f"{entry.path} {entry.stat().st_mtime_ns}"
                for entry in entries
                if entry.name.endswith((".dist-info", ".egg-info"))
            ]
    return sorted(found)


def _states(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each package that is needed, and what changes when it does; those that own modules import too."""
    waiting = {name.partition(".")[0] for name in modules} - {"__main__"}
    seen = set(sys.stdlib_module_names)
    while waiting - seen:
        name = (waiting - seen).pop()
        seen.add(name)
        files = _files_of(name)
        if not files:
            yield name, ""
        elif any(part in _INSTALLED for part in files[0].parts) or files[0].suffix != ".py":
            found = files[0].stat()
            yield name, f"{files[0]} {found.st_mtime_ns} {found.st_size}"
        else:
            digest = hashlib.sha256()
            for file in files:
                text = file.read_bytes()
                digest.update(text)
                waiting |= _imports_of_file(text)
            yield name, digest.hexdigest()


def _files_of(name: str) -> list[Path]:
    """Return the file of a module, or of an installed package; of another package all its sources."""
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):  # a module that was made by hand
        return []
    if spec is None:
        return []
    origin = Path(spec.origin) if spec.origin and Path(spec.origin).is_file() else None
    folders = spec.submodule_search_locations
    if folders is None or (origin is not None and any(part in _INSTALLED for part in origin.parts)):
        return [origin] if origin else []
    return sorted(file for folder in folders for file in Path(folder).rglob("*.py"))


def _imports_of_file(text: bytes) -> set[str]:
    try:
        return imports_of(ast.parse(text))
    except (SyntaxError, ValueError):
        return set()  # the cell will say so, if it ever imports that
