"""Ships a cell: its variables, the imports to repeat and the options to set, as one payload.

The payload is the job's input ``cell``; `worker.cell.runtime` reads it. Called by the magic.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from zbrain_nb.model.errors import TooLarge, UsageError
from zbrain_nb.model.packing import Packing, Parcel
from zbrain_nb.model.pickler import cell_numbers
from zbrain_nb.model.summaries import summarize, type_name
from zbrain_nb.notebook.capture import Capture, capture, import_of
from zbrain_nb.notebook.options import set_options, warning_filters

LIMIT_BYTES = 500 * 2**20
#: Names in the payload that are no variables.
OPTIONS = "@options"
#: Extensions that IPython loads by itself, and ours.
_OWN_EXTENSIONS = frozenset({"storemagic", "zbrain_nb"})
#: Packages that pickles name for their own sake, and the notebook itself.
_OWN_PACKAGES = frozenset({"cloudpickle", "zbrain_nb", "__main__"})


@dataclass(frozen=True)
class ShippedVariable:
    """A variable that travels: its name, type, a few words on it, and its pickled size in bytes."""

    name: str
    type: str
    summary: str
    size: int


@dataclass(frozen=True)
class Shipment:
    """What a cell takes along.

    Attributes
    ----------
    parcel : Parcel
        The payload; upload it and name it in the spec's ``inputs`` as ``cell``, beside the buffers apart.
    variables : list of ShippedVariable
        The cell's own names first, then what its functions and classes read.
    imports : list of str
        Import statements that the job repeats.
    modules : list of str
        The packages that the job needs for what it gets, and that functions and classes among it import.
    fingerprint : str
        SHA-256 of what decides the cell's result besides its text: equal for equal variables, imports and
        options, whatever the cell's number. `parcel` itself differs with that number.
    capture : Capture
        What the cell reads and assigns.
    """

    parcel: Parcel
    variables: list[ShippedVariable]
    imports: list[str]
    modules: list[str]
    fingerprint: str
    capture: Capture

    @property
    def said(self) -> str:
        """The variables and their sizes, in words for a person."""
        return ", ".join(f"{variable.name} {_size(variable.size)}" for variable in self.variables)


def ship_cell(
    shell: InteractiveShell, code: str, names: list[str] | str = "auto", *, limit_bytes: int = LIMIT_BYTES
) -> Shipment:
    """Pack what `code` needs from the notebook.

    Parameters
    ----------
    shell : InteractiveShell
        The notebook's.
    code : str
        Text of the cell, without its ``%%zbrain`` line.
    names : list of str, "auto" or "none"
        Variables to ship; ``auto`` are those that the cell reads. Imports are repeated in any case.
    limit_bytes : int
        The most that ``auto`` ships; names given have no limit.

    Raises
    ------
    SyntaxError
        If the cell cannot be compiled.
    UsageError
        If a name given does not exist.
    NotPicklable
        Naming all variables that cannot travel.
    TooLarge
        If ``auto`` would ship more than `limit_bytes`.
    """
    found = capture(shell, code)
    namespace = shell.user_ns
    values = {name: namespace[name] for name in (*found.imports, *_chosen(names, found, namespace))}
    options = set_options(shell)
    limit = limit_bytes if names == "auto" else None
    try:
        packing = Packing({**values, OPTIONS: options}, namespace, limit)
    except TooLarge as error:
        raise _too_large(error.details["sizes"], namespace, limit_bytes) from None
    shipped = [name for name in packing.sizes if name != OPTIONS]
    imports = {name: text for name in shipped if (text := import_of(name, namespace[name]))}
    path = [entry or os.getcwd() for entry in sys.path]
    steady = {
        "imports": [name for name in found.modules if name != "__main__"],
        "sys_path": path,
        "prefix": sys.prefix,
        "extensions": _extensions(shell, found),
    }
    fingerprint = hashlib.sha256(json.dumps(steady).encode())
    for part in packing.parts("cell", whole=False):
        fingerprint.update(part)
    parcel = packing.parcel(
        "cell",
        {
            **steady,
            "execution_count": max(1, shell.execution_count - 1),  # IPython counts on before the cell runs
            "cells": cell_numbers(shell.compile._filename_map, packing.sources),
            "warnings": warning_filters(),
            "modules": _installed_modules(namespace),
        },
    )
    return Shipment(
        parcel=parcel,
        variables=[
            ShippedVariable(name, type_name(namespace[name]), summarize(namespace[name]), packing.sizes[name])
            for name in shipped
            if name not in imports
        ],
        imports=list(dict.fromkeys(imports.values())),
        modules=sorted({name.partition(".")[0] for name in (*steady["imports"], *packing.modules)} - _OWN_PACKAGES),
        fingerprint=fingerprint.hexdigest(),
        capture=found,
    )


def _installed_modules(namespace: Mapping[str, Any]) -> list[str]:
    """Return the modules of installed packages that the notebook has imported, or something from."""
    names = {
        value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
        for name, value in namespace.items()
        if not name.startswith("_")
    }
    return sorted(name for name in names if isinstance(name, str) and _is_installed(sys.modules.get(name)))


def _is_installed(module: types.ModuleType | None) -> bool:
    path = getattr(module, "__file__", None) or ""
    return "site-packages" in path or "dist-packages" in path


def _chosen(names: list[str] | str, found: Capture, namespace: Mapping[str, Any]) -> list[str]:
    if names == "auto":
        return found.variables
    if names == "none":
        return []
    chosen = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    missing = [name for name in chosen if name not in namespace]
    if missing:
        raise UsageError(
            f"The notebook has no {' and no '.join(missing)}, which --in names.", "Assign it first, or change --in."
        )
    return chosen


def _too_large(sizes: Mapping[str, int], namespace: Mapping[str, Any], limit: int) -> TooLarge:
    biggest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    listed = ", ".join(
        f"{name} ({type_name(namespace[name])}, {_size(sizes[name])})" for name in biggest if sizes[name]
    )
    return TooLarge(
        f"The cell reads more than {_size(limit)} of the notebook's variables; the biggest are {listed}.",
        "Name what shall travel with --in, or load the data inside the cell.",
        names=biggest,
    )


def _size(size: int) -> str:
    for unit, factor in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"


def _extensions(shell: InteractiveShell, found: Capture) -> list[str]:
    """Return the loaded extensions if the cell calls a magic that may come from one of them."""
    manager, extensions = shell.magics_manager.magics, shell.extension_manager
    if extensions is None:
        return []
    foreign = [
        magic
        for magic in found.magics
        for table in manager.values()
        if magic in table and not _is_ipythons(table[magic])
    ]
    return sorted(set(extensions.loaded) - _OWN_EXTENSIONS) if foreign else []


def _is_ipythons(magic: Any) -> bool:
    return str(getattr(magic, "__module__", "")).partition(".")[0] in ("IPython", "ipykernel")
