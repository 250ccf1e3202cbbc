"""What stays of a cell: the value of its last expression and the variables to keep, each in a file of its own."""

from __future__ import annotations

import ast
import io
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zbrain_nb.model.assigned import assigned_names, changed_names
from zbrain_nb.model.errors import NotPicklable, TooLarge, ValueNotKept, ZBrainError
from zbrain_nb.model.limits import Limits
from zbrain_nb.model.packing import Packing
from zbrain_nb.model.pickler import cell_numbers
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.model.summaries import summarize, type_name
from zbrain_nb.worker.cell.shell import Shell

VARIABLES_LIMIT = 500 * 2**20
#: A function is worth little without the data that it reads, and that data is kept under its own name.
CODE_LIMIT = 10 * 2**20
_HINT = "Keep what it is made of, such as a list of what it yields, or leave it out of --out."
_NOT_DATA = (types.ModuleType, types.GeneratorType, types.CoroutineType, io.IOBase)
_IPYTHONS = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open"})


class Keeper:
    """Finds and writes what is kept.

    Parameters
    ----------
    shell : shell
        Holds the namespace; the variables must be loaded already.
    outbox : path
        Folder for the files.
    keep : list of str, "auto" or None
        Names to keep; ``auto`` are those that the cell assigns or changes in place.
    result_cap_bytes : int
        The most that the value may take.
    """

    def __init__(
        self,
        shell: Shell,
        outbox: str | Path,
        keep: list[str] | str | None,
        result_cap_bytes: int = Limits().result_bytes,
    ) -> None:
        self._shell = shell
        self._outbox = Path(outbox)
        self._keep = keep
        self._result_cap = result_cap_bytes
        self._before = dict(shell.user_ns) if keep == "auto" else {}

    def pack_result(self, value: Any) -> Packing | None:
        """Return the value packed; nothing is kept of None.

        Raises
        ------
        ValueNotKept
            If it is too large, or cannot be pickled.
        """
        if value is None:
            return None
        try:
            return Packing({"": value}, self._shell.user_ns, self._result_cap)
        except TooLarge:
            why = f"it is over {format_kib(self._result_cap / 1024)} (limits.result_mb)"
            hint = "Save it with zbrain_nb.save_artifact, or raise the limit."
        except NotPicklable as error:
            why = error.details["reasons"].get("") or error.message.rstrip(".")
            hint = "Give back what can be pickled, or save what matters of it with zbrain_nb.save_artifact."
        raise ValueNotKept(f"The value of type {type_name(value)} was not kept: {why}.", hint)

    def write_result(self, value: Any) -> str | None:
        """Write the value; return the path.

        Raises
        ------
        ValueNotKept
            As `pack_result` does.
        """
        packing = self.pack_result(value)
        return None if packing is None else self.write_packed(packing)

    def write_packed(self, packing: Packing) -> str:
        """Write the value, packed by `pack_result`; return the path.

        Raises
        ------
        ValueNotKept
            If the disk does not take it.
        """
        try:
            return self.write("result.pickle", packing)
        except OSError as error:
            raise ValueNotKept(f"The value was not kept: it cannot be written ({error.strerror}).") from error

    def write_variables(self, code: str, *, failed: bool) -> list[dict[str, Any]]:
        """Write the variables.

        Parameters
        ----------
        code : str
            The cell, from which ``auto`` reads what it assigns.
        failed : bool
            Whether the cell failed: then names asked for are kept as far as they exist.

        Raises
        ------
        ZBrainError
            If the cell succeeded and a name asked for does not exist or cannot be kept.
        """
        if self._keep is None:
            return []
        if self._keep == "auto":
            return self._write_all(self._changed(code))
        names = list(dict.fromkeys(self._keep))
        missing = [name for name in names if name not in self._shell.user_ns]
        if missing and not failed:
            raise ZBrainError(
                f"The cell did not leave {', '.join(missing)}, which --out names.", "Assign it, or change --out."
            )
        values = {name: self._shell.user_ns[name] for name in names if name not in missing}
        if failed:
            return self._write_all(values)
        return [self._variable(place, name, value, None) for place, (name, value) in enumerate(values.items())]

    def _changed(self, code: str) -> dict[str, Any]:
        namespace = self._shell.user_ns
        touched: set[str] = set()
        for tree in _trees(self._shell, code):
            touched |= assigned_names(tree) | changed_names(tree)
        missing = object()
        return {
            name: value
            for name, value in namespace.items()
            if not name.startswith("_")
            and name not in _IPYTHONS
            and not isinstance(value, _NOT_DATA)
            and not _is_imported(value)
            and (name in touched or self._before.get(name, missing) is not value)
        }

    def _write_all(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Write as much as fits, and say once what does not."""
        left, kept, lost = VARIABLES_LIMIT, [], []
        for place, (name, value) in enumerate(values.items()):
            is_code = isinstance(value, types.FunctionType | type)
            try:
                variable = self._variable(place, name, value, min(left, CODE_LIMIT) if is_code else left)
            except TooLarge:
                lost.append(f"{name} ({type_name(value)}, over the cap of {_megabytes(VARIABLES_LIMIT)})")
            except NotPicklable:
                lost.append(f"{name} ({type_name(value)})")
            else:
                left -= variable["size"]
                kept.append(variable)
        if lost:
            sys.stderr.write(f"zbrain: not kept with the job: {', '.join(lost)}.\n")
        return kept

    def _variable(self, place: int, name: str, value: Any, limit: int | None) -> dict[str, Any]:
        try:
            packing = Packing({"": value}, self._shell.user_ns, limit)
        except NotPicklable as error:
            raise NotPicklable(f"{name} cannot be kept: {error.message}", _HINT, names=[name]) from error
        path = self.write(f"variable-{place}.pickle", packing)
        return {
            "name": name,
            "type": type_name(value),
            "summary": summarize(value),
            "path": path,
            "size": Path(path).stat().st_size,
        }

    def write(self, name: str, packing: Packing) -> str:
        """Write a file into the outbox; return its path."""
        path = self._outbox / name
        header = {"cells": cell_numbers(self._shell.compile._filename_map, packing.sources)}
        with path.open("wb") as file:
            file.writelines(packing.parts("value", header))
        return str(path)


def _is_imported(value: Any) -> bool:
    """Whether `value` is code of a module, which an import brings back."""
    is_code = isinstance(value, types.FunctionType | types.BuiltinFunctionType | type)
    return is_code and getattr(value, "__module__", "__main__") not in ("__main__", None)


def _trees(shell: Shell, code: str) -> Iterator[ast.Module]:
    """Yield the syntax trees of a cell and of the cells inside its cell magics (``%%time``)."""
    try:
        tree = ast.parse(shell.transform_cell(code))
    except (SyntaxError, ValueError):
        return
    yield tree
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="run_cell_magic"), args=[_, _, ast.Constant(value=str(body))]):
                yield from _trees(shell, body)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
