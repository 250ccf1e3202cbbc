"""What a cell reads and assigns, found without running it.

The cell is transformed as IPython would (magics become calls), and its syntax tree is walked in the order in
which it runs, with the names that are surely assigned so far: a name read before that is one of the notebook's.
What the notebook's own functions and classes read beyond is found when they are pickled (`model.payload`).
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell

from zbrain_nb.model.assigned import assigned_names, changed_names
from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook.lookalikes import lookalike
from zbrain_nb.notebook.reading import Walker

#: IPython's own names; the job's IPython has them too.
IPYTHONS = frozenset({"In", "Out", "_ih", "_oh", "_dh", "exit", "quit", "get_ipython", "open"})


@dataclass(frozen=True)
class Capture:
    """What a cell takes from the notebook and leaves in it.

    Attributes
    ----------
    variables : list of str
        Names of the notebook that the cell reads and that have to be shipped.
    imports : dict of str to str
        Names that stand for modules, or for classes and functions of modules, by the text of their import.
    modules : list of str
        Full names of the modules to import again, submodules that the cell uses through their package too.
    assigned : set of str
        Names that the cell assigns.
    changed : set of str
        Names whose values it may change in place.
    magics : set of str
        Magics that it calls.
    """

    variables: list[str]
    imports: dict[str, str]
    modules: list[str]
    assigned: set[str]
    changed: set[str]
    magics: set[str] = field(default_factory=set)


def capture(shell: InteractiveShell, code: str) -> Capture:
    """Find what `code` reads of the namespace of `shell`, and what it assigns.

    Parameters
    ----------
    shell : InteractiveShell
        The notebook's; nothing is run in it.
    code : str
        Text of the cell.

    Returns
    -------
    Capture
        Names in the order of first use.

    Raises
    ------
    SyntaxError
        If the cell cannot be compiled; as IPython itself would show it.
    """
    tree = parse_cell(shell, code)
    walker = Walker(lambda body: _parse_or_none(shell, body))
    walker.walk_cell(tree)
    namespace = shell.user_ns
    found = [name for name in walker.reads if name in namespace and name not in IPYTHONS]
    imports = {name: text for name in found if (text := import_of(name, namespace[name]))}
    modules = dict.fromkeys(value.__name__ for name in found if isinstance(value := namespace[name], types.ModuleType))
    modules.update(dict.fromkeys(_submodules(walker.chains, namespace)))
    trees = [tree, *walker.inner_cells]
    return Capture(
        variables=[name for name in found if name not in imports],
        imports=imports,
        modules=list(modules),
        assigned=set().union(*map(assigned_names, trees)),
        changed=set().union(*map(changed_names, trees)),
        magics=walker.magics,
    )


def parse_cell(shell: InteractiveShell, code: str) -> ast.Module:
    """Return the syntax tree of a cell as IPython runs it.

    Raises
    ------
    SyntaxError
        If it cannot be compiled.
    """
    text = shell.transform_cell(code)
    tree: ast.Module = ast.parse(text, "<cell>")
    # what the parser lets pass: "return" at the top, "nonlocal", a starred target alone
    compile(text, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return tree


def check_syntax(shell: InteractiveShell, code: str) -> None:
    """Compile a cell as the kernel would, and no more.

    Raises
    ------
    UsageError
        If that fails: as the kernel itself would show it.
    """
    number = max(1, shell.execution_count - 1)
    try:
        text = shell.transform_cell(code)
        name = shell.compile.cache(text, number, raw_code=code)
        # as IPython does it: its parser says of some cells that they are incomplete, where Python's says more
        tree: Any = shell.compile.ast_parse(text, name)
        compile(tree, name, "exec", shell.compile.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError) as error:
        show: Any = shell.SyntaxTB.structured_traceback
        trace = show(type(error), error, [])
        where = f"Line {error.lineno} of the cell: {error.msg}." if isinstance(error, SyntaxError) else f"{error}."
        refused = UsageError(where, "Nothing was submitted.")
        raise lookalike(refused, type(error).__name__, str(error), trace) from None


def assigned_by(code: str) -> set[str]:
    """Return the names that the top level of a cell assigns; none of a cell that cannot be compiled."""
    try:
        return assigned_names(ast.parse(TransformerManager().transform_cell(code)))
    except (SyntaxError, ValueError):
        return set()


def import_of(name: str, value: Any) -> str | None:
    """Return the import statement that binds `name` to `value`, or None if it is the notebook's own."""
    if isinstance(value, types.ModuleType):
        if value.__name__ not in sys.modules or value.__name__ == "__main__":
            return None
        module = value.__name__
        return f"import {module}" if name == module.partition(".")[0] else f"import {module} as {name}"
    if not isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return None
    module = getattr(value, "__module__", None) or "__main__"
    qualname = value.__qualname__
    if module == "__main__" or "." in qualname:
        return None
    if getattr(sys.modules.get(module), qualname, None) is not value:
        return None
    return f"from {module} import {qualname}" + (f" as {name}" if name != qualname else "")


def _parse_or_none(shell: InteractiveShell, code: str) -> ast.Module | None:
    try:
        return parse_cell(shell, code)
    except (SyntaxError, ValueError):
        return None


def _submodules(chains: list[tuple[str, ...]], namespace: Mapping[str, Any]) -> list[str]:
    """Return the imported submodules that are used through their package: ``concurrent.futures.wait``."""
    found = []
    for root, *attributes in chains:
        value = namespace.get(root)
        if not isinstance(value, types.ModuleType):
            continue
        name = value.__name__
        for attribute in attributes:
            name = f"{name}.{attribute}"
            if not isinstance(sys.modules.get(name), types.ModuleType):
                break
            found.append(name)
    return found
