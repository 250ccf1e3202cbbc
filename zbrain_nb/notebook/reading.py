"""Walks a cell's syntax tree in running order and collects the names that it reads from outside."""

from __future__ import annotations

import ast
import dis
import types
from collections.abc import Callable, Iterable, Iterator

from zbrain_nb.notebook.texts import expanded_names, names_in_texts, words

_GLOBAL_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "DELETE_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
#: Line magics whose text runs in the notebook's namespace.
_RUNNING = frozenset({"time", "prun", "memit", "lprun", "mprun"})
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Walker(ast.NodeVisitor):
    """Finds reads with ordered definite assignment.

    What the body of a function or of a class's method reads counts when the name is used that it is bound to,
    for then it may be called; at once if it is decorated or a lambda.

    Parameters
    ----------
    parse : callable
        Parses the text of a cell magic's body, or returns None if it is no Python.

    Attributes
    ----------
    reads : dict of str to None
        Names read before they are surely assigned, in order.
    chains : list of tuple of str
        Dotted names used: ``("np", "random", "rand")``.
    magics : set of str
        Names of the magics called.
    inner_cells : list of ast.Module
        Bodies of cell magics that are Python.
    """

    def __init__(self, parse: Callable[[str], ast.Module | None]) -> None:
        self._parse = parse
        self.reads: dict[str, None] = {}
        self.chains: list[tuple[str, ...]] = []
        self.magics: set[str] = set()
        self.inner_cells: list[ast.Module] = []
        self._defined: set[str] = set()
        self._deferred: dict[str, set[str]] = {}

    def walk_cell(self, tree: ast.Module) -> None:
        """Walk a whole cell."""
        self._chains_of(tree)
        self._block(tree.body)

    def _block(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def _read(self, name: str) -> None:
        waiting = [name]
        while waiting:
            one = waiting.pop()
            if one not in self._defined:
                self.reads[one] = None
            waiting += self._deferred.pop(one, ())

    def _assign(self, name: str) -> None:
        self._defined.add(name)
        self._deferred.pop(name, None)

    def _either(self, *branches: Iterable[ast.stmt] | None) -> None:
        """Walk branches of which one runs: after them is assigned what all of them assign and do not leave."""
        before = set(self._defined)
        after: set[str] | None = None
        for branch in branches:
            self._defined = set(before)
            statements = list(branch or ())
            self._block(statements)
            if not (statements and isinstance(statements[-1], ast.Raise | ast.Continue | ast.Break | ast.Return)):
                after = self._defined if after is None else after & self._defined
        self._defined = before if after is None else after

    def _maybe(self, statements: Iterable[ast.stmt]) -> None:
        before = set(self._defined)
        self._block(statements)
        self._defined = before

    # ------------------------------------------------------------------ names

    def visit_Name(self, node: ast.Name) -> None:
        """Read, assign or delete a name."""
        if isinstance(node.ctx, ast.Store):
            self._assign(node.id)
        else:
            self._read(node.id)
            if isinstance(node.ctx, ast.Del):
                self._defined.discard(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        """Walk the value before the targets."""
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Read the target, then assign it."""
        if isinstance(node.target, ast.Name):
            self._read(node.target.id)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Walk annotation and value before the target."""
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """Walk the value before the target."""
        self.visit(node.value)
        self.visit(node.target)

    def visit_Import(self, node: ast.Import) -> None:
        """Assign what is imported."""
        for alias in node.names:
            self._assign((alias.asname or alias.name).partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Assign what is imported."""
        for alias in node.names:
            self._assign(alias.asname or alias.name)

    # ------------------------------------------------------------------ branches

    def visit_If(self, node: ast.If) -> None:
        """Walk both branches."""
        self.visit(node.test)
        self._either(node.body, node.orelse)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """Walk the body, which may not run."""
        self.visit(node.iter)
        before = set(self._defined)
        self.visit(node.target)
        self._block(node.body)
        self._defined = before
        self._maybe(node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        """Walk the body, which may not run."""
        self.visit(node.test)
        forever = isinstance(node.test, ast.Constant) and bool(node.test.value)
        if forever and not any(isinstance(inner, ast.Break) for inner in ast.walk(node)):
            self._block(node.body)
        else:
            self._maybe(node.body)
        self._maybe(node.orelse)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        """Walk the body, which may end anywhere, and the handlers."""
        before = set(self._defined)
        self._block(node.body)
        self._block(node.orelse)
        ends = [self._defined]
        for handler in node.handlers:
            self._defined = set(before)
            if handler.type is not None:
                self.visit(handler.type)
            if handler.name:
                self._assign(handler.name)
            self._block(handler.body)
            if not isinstance(handler.body[-1], ast.Raise | ast.Continue | ast.Break | ast.Return):
                ends.append(self._defined)
        after = set.intersection(*ends)
        self._defined = set(before) if node.handlers or node.finalbody else after
        self._block(node.finalbody)
        self._defined |= after

    visit_TryStar = visit_Try

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        """Walk the items in order, then the body."""
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
        self._block(node.body)

    visit_AsyncWith = visit_With

    def visit_Match(self, node: ast.Match) -> None:
        """Walk the cases, of which none may run."""
        self.visit(node.subject)
        before = set(self._defined)
        for case in node.cases:
            self._defined = set(before)
            for inner in ast.walk(case.pattern):
                match inner:
                    case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                        self._assign(name)
                    case ast.Name():
                        self.visit(inner)
            if case.guard is not None:
                self.visit(case.guard)
            self._block(case.body)
        self._defined = before

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Walk the first part; the others may not run."""
        first, *others = node.values
        self.visit(first)
        before = set(self._defined)
        for value in others:
            self.visit(value)
        self._defined = before

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Walk both branches, of which one runs."""
        self.visit(node.test)
        before = set(self._defined)
        for branch in (node.body, node.orelse):
            self._defined = set(before)
            self.visit(branch)
        self._defined = before

    # ------------------------------------------------------------------ scopes

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Walk what is evaluated at the definition; the body counts when the name is used."""
        for outside in _evaluated_at_definition(node):
            self.visit(outside)
        self._assign(node.name)
        self._defer(node.name, _inner_reads(node), at_once=bool(node.decorator_list))

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Walk the body, which runs at once; the methods count when the name is used."""
        for outside in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(outside)
        methods: set[str] = set()
        outer = set(self._defined)
        for statement in node.body:  # its names hide the notebook's in the body, not in the methods
            if isinstance(statement, _FUNCTIONS):
                for outside in _evaluated_at_definition(statement):
                    self.visit(outside)
                self._assign(statement.name)
                methods |= _inner_reads(statement)
            else:
                self.visit(statement)
                if isinstance(statement, ast.ClassDef):
                    methods |= self._deferred.pop(statement.name, set())
        self._defined = outer
        self._assign(node.name)
        self._defer(node.name, methods, at_once=bool(node.decorator_list))

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Count what a lambda reads at once."""
        for name in sorted(_inner_reads(node)):
            self._read(name)

    def generic_visit(self, node: ast.AST) -> None:
        """Walk any other node; comprehensions are scopes of their own."""
        if isinstance(node, _COMPREHENSIONS):
            for name in sorted(_inner_reads(node)):
                self._read(name)
            for inner in ast.walk(node):
                if isinstance(inner, ast.NamedExpr):
                    self._assign(inner.target.id)
        else:
            super().generic_visit(node)

    def _defer(self, name: str, reads: set[str], *, at_once: bool) -> None:
        self._deferred[name] = reads
        if at_once:
            self._read(name)

    # ------------------------------------------------------------------ names in texts

    def visit_Call(self, node: ast.Call) -> None:
        """Find names in texts, and follow magics."""
        for name in names_in_texts(node):
            self._read(name)
        match node:
            case ast.Call(
                func=ast.Attribute(attr="run_cell_magic" | "run_line_magic" as kind),
                args=[ast.Constant(value=str(magic)), ast.Constant(value=str(line)), *rest],
            ):
                self.magics.add(magic)
                self._line(line, runs=magic in _RUNNING)
                match rest:
                    case [ast.Constant(value=str(body))] if kind == "run_cell_magic":
                        self._body(body)
        self.generic_visit(node)

    def _line(self, line: str, *, runs: bool) -> None:
        tree = self._parse(line)
        if tree is not None and not line.lstrip().startswith("-"):
            if runs:
                self.inner_cells.append(tree)
                self.walk_cell(tree)
            else:
                self._maybe(tree.body)
        else:
            for name in words(line):
                self._read(name)

    def _body(self, body: str) -> None:
        tree = self._parse(body)
        if tree is None:
            for name in expanded_names(body):
                self._read(name)
            return
        self.inner_cells.append(tree)
        self.walk_cell(tree)

    def _chains_of(self, tree: ast.AST) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and (chain := _chain(node)):
                self.chains.append(chain)


def code_reads(code: types.CodeType) -> set[str]:
    """Return the global names that a code object reads, with those of the scopes inside it."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in _GLOBAL_READS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= code_reads(constant)
    return names


def _inner_reads(node: ast.expr | ast.stmt) -> set[str]:
    """Return the global names that a function, lambda or comprehension reads when it runs, names in texts too."""
    if isinstance(node, ast.expr):
        code = compile(ast.Expression(node), "<cell>", "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        names = code_reads(code)
    else:
        module = compile(ast.Module([node], []), "<cell>", "exec", dont_inherit=True)
        names = set().union(*(code_reads(c) for c in module.co_consts if isinstance(c, types.CodeType)))
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            names.update(names_in_texts(inner))
    return names


def _evaluated_at_definition(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.expr]:
    yield from node.decorator_list
    yield from node.args.defaults
    yield from (default for default in node.args.kw_defaults if default is not None)
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    yield from (argument.annotation for argument in arguments if argument and argument.annotation)
    if node.returns is not None:
        yield node.returns


def _chain(node: ast.expr) -> tuple[str, ...] | None:
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    return (node.id, *reversed(attributes)) if isinstance(node, ast.Name) else None
