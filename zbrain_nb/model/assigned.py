"""Which names a cell's code assigns or changes in place, read off its syntax tree (plain Python only)."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def assigned_names(tree: ast.Module) -> set[str]:
    """Return the names that the cell's own level stores.

    Assignments, ``for``, ``with``, ``import``, ``def``, ``class``, ``except ... as``, patterns, walruses (those
    in comprehensions too), and what functions of the cell declare ``global``.
    """
    names: set[str] = set()
    for node in _own_level(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Import(names=aliases):
                names.update((alias.asname or alias.name).partition(".")[0] for alias in aliases)
            case ast.ImportFrom(names=aliases):
                names.update(alias.asname or alias.name for alias in aliases if alias.name != "*")
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                names.add(name)
    for found in ast.walk(tree):
        if isinstance(found, ast.Global):
            names.update(found.names)
    return names


def changed_names(tree: ast.Module) -> set[str]:
    """Return the names whose values the cell may change in place.

    Targets of attribute and subscript stores and deletes (``df["x"] = 1``), and objects of a bare method call
    (``rows.append(1)``, ``model.fit(x)``): such changes are no assignments.
    """
    names: set[str | None] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                names.add(_root(node))
            case ast.Expr(value=ast.Call(func=ast.Attribute() as target)):
                names.add(_root(target))
            case ast.Expr(value=ast.Await(value=ast.Call(func=ast.Attribute() as target))):
                names.add(_root(target))
    return {name for name in names if name and name != "get_ipython"}  # which magics become calls of


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _own_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run in the cell's own scope."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [*node.decorator_list, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
        elif isinstance(node, ast.ClassDef):
            waiting += [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            waiting += [inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)]
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
