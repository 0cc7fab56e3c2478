"""Finds operations in a user's own code whose bits differ between machines, by reading its source.

Nothing is run. Names are looked up in the modules that the code has imported, so NumPy is found
under any name.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from distcnn.training.nonportable import FORMS, OF_ARRAYS, OF_GENERATORS, nonportable
from distcnn.user_code import INSTALLED

UNREADABLE = OSError, TypeError, SyntaxError, ValueError, RecursionError, MemoryError
Scope = Mapping[str, Any]
LOCAL = object()
"""What a name means that the code itself assigns."""


@dataclass(frozen=True)
class Operation:
    """An operation, where it is, and what of ``distcnn.nn.portable`` takes its place, if known."""

    name: str
    file: str
    line: int
    form: str | None


@dataclass
class Search:
    """Reads one part of a user's code with the functions it calls.

    Attributes:
        found: the operations, each once.
        unread: names of functions and classes whose source cannot be read.
    """

    found: dict[str, Operation] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)
    _package: str = ""

    def read(self, item: Any) -> None:
        """Read a function, a class with its bases, or the class of any other object."""
        while isinstance(item, functools.partial | MethodType):
            item = item.func if isinstance(item, functools.partial) else item.__func__
        if operation := nonportable(item):
            self.found[operation[0]] = Operation(operation[0], "", 0, operation[1])
            return
        item = inspect.unwrap(item) if callable(item) else item
        if isinstance(item, FunctionType):
            self.read_source(item)
        else:
            for kind in (item if isinstance(item, type) else type(item)).__mro__:
                self.read_source(kind)

    def read_source(self, item: FunctionType | type) -> None:
        """Read one function or class of the user's."""
        self._package = self._package or _package_of(item)
        if id(item) in self._seen or not self._is_users(item):
            return
        self._seen.add(id(item))
        try:
            lines, first = inspect.findsource(item)
            nodes = _nodes_of(item, ast.parse("".join(lines)), first + 1)
            file = Path(inspect.getsourcefile(item) or inspect.getfile(item)).name
        except UNREADABLE:
            nodes, file = [], ""
        if not nodes:
            self.unread.append(item.__name__)
        for node in nodes:
            self.read_tree(node, file, _scope_of(item))

    def read_tree(self, tree: ast.AST, file: str, scope: Scope) -> None:
        """Read a syntax tree whose global names ``scope`` has."""
        _Reader(self, file, scope).visit(tree)

    def _is_users(self, item: FunctionType | type) -> bool:
        """Whether it is of the package of the first, or neither installed nor Python's."""
        package = _package_of(item)
        if package in {"distcnn", "numpy", *sys.stdlib_module_names}:
            return False
        file = getattr(sys.modules.get(item.__module__), "__file__", None) or ""
        return package == self._package or not INSTALLED & set(Path(file).parts)


class _Reader(ast.NodeVisitor):
    """Reads the syntax tree of a function or class whose global names ``scope`` has."""

    def __init__(self, search: Search, file: str, scope: Scope) -> None:
        self._search, self._file, self._scopes = search, file, [scope]

    def visit_FunctionDef(self, node: Any) -> None:
        self._scopes.append(_locals_of(node))
        self.generic_visit(node)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_BinOp(self, node: Any) -> None:
        parts = [getattr(node, name, None) for name in ("left", "right", "target", "value")]
        constant = not any(part and _has_names(part) for part in parts)
        if isinstance(node.op, ast.MatMult):
            self._add("@", node, "matmul")
        elif isinstance(node.op, ast.Pow) and not constant:
            self._add("**", node, "power")
        self.generic_visit(node)

    visit_AugAssign = visit_BinOp

    def visit_Name(self, node: ast.Name) -> None:
        self._look_at(node, self._meaning(node))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        meaning = self._meaning(node)
        if meaning is not LOCAL:
            self._look_at(node, meaning)
            return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method and not _is_self(node.func) and self._meaning(node.func) is LOCAL:
            if method in OF_ARRAYS.split():
                self._add(f".{method}()", node, FORMS.get(method))
            elif method in OF_GENERATORS.split():
                self._add(f".{method}()", node, None)
        is_sorted = any(keyword.arg in ("kind", "stable") for keyword in node.keywords)
        name = method or getattr(node.func, "id", "")
        if name == "argsort" and not is_sorted:
            self._add('argsort without kind="stable"', node, None)
        self.generic_visit(node)

    def _look_at(self, node: ast.expr, meaning: Any) -> None:
        if operation := nonportable(meaning):
            self._add(operation[0], node, operation[1])
        elif isinstance(meaning, FunctionType | type):
            self._search.read_source(meaning)

    def _meaning(self, node: ast.expr) -> Any:
        """The object that a name or a dotted name stands for; ``LOCAL`` if only a run can tell."""
        if isinstance(node, ast.Attribute):
            owner, name = self._meaning(node.value), node.attr
            if isinstance(owner, ModuleType):  # not getattr, which may import
                return vars(owner).get(name, sys.modules.get(f"{owner.__name__}.{name}", LOCAL))
            if isinstance(owner, np.ufunc):
                return getattr(owner, name, LOCAL)
            is_class = isinstance(owner, type)
            return inspect.getattr_static(owner, name, LOCAL) if is_class else LOCAL
        if isinstance(node, ast.Name):
            for scope in (*reversed(self._scopes), vars(builtins)):
                if node.id in scope:
                    return scope[node.id]
        return LOCAL

    def _add(self, name: str, node: ast.expr | ast.stmt, form: str | None) -> None:
        self._search.found.setdefault(name, Operation(name, self._file, node.lineno, form))


def _package_of(item: Any) -> str:
    return (getattr(item, "__module__", None) or "").partition(".")[0]


def _nodes_of(item: Any, tree: ast.Module, first: int) -> list[ast.AST]:
    """The syntax tree of a function or class that begins in line ``first``."""
    code = getattr(item, "__code__", None)
    wanted = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda) if code else ast.ClassDef
    nodes: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, wanted):
            name = getattr(node, "name", "<lambda>")
            decorators = getattr(node, "decorator_list", [])
            starts = min([node.lineno, *(each.lineno for each in decorators)])
            place = code.co_firstlineno if code else first
            if name == item.__name__ and place in (starts, node.lineno):
                nodes.append(node)
    return nodes


def _scope_of(item: Any) -> Scope:
    """The names that a function or class finds outside of itself."""
    if isinstance(item, type):
        functions = [each for each in vars(item).values() if isinstance(each, FunctionType)]
        of_module = vars(sys.modules[item.__module__]) if item.__module__ in sys.modules else {}
        return {**of_module, **{k: v for each in functions for k, v in _scope_of(each).items()}}
    cells: dict[str, Any] = {}
    for name, cell in zip(item.__code__.co_freevars, item.__closure__ or (), strict=True):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            cells[name] = LOCAL
    return {**item.__globals__, **cells}


def _locals_of(function: ast.FunctionDef | ast.Lambda) -> Scope:
    """The names that a function assigns, its arguments among them; what it imports is known."""
    found: dict[str, Any] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            found[node.arg] = LOCAL
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = LOCAL
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or name] = sys.modules.get(name, LOCAL)
        elif isinstance(node, ast.ImportFrom):
            module = sys.modules.get(node.module or "")
            for alias in node.names:
                found[alias.asname or alias.name] = getattr(module, alias.name, LOCAL)
    return found


def _is_self(node: ast.expr) -> bool:
    """Whether it is a method of the class that is read."""
    owner = node.value if isinstance(node, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


def _has_names(node: ast.AST) -> bool:
    """Whether it is more than a constant."""
    return any(isinstance(each, ast.Name | ast.Attribute | ast.Call) for each in ast.walk(node))
