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
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from distcnn.training.nonportable import FORMS, OF_ARRAYS, OF_GENERATORS, nonportable
from distcnn.training.syntax import (
    LOCAL,
    Scope,
    has_names,
    imported_from,
    is_self,
    is_size,
    locals_of,
    nodes_of,
    parsed,
    scope_of,
    statements,
)
from distcnn.user_code import INSTALLED

UNREADABLE = OSError, TypeError, SyntaxError, ValueError, RecursionError, MemoryError
MOST_WRAPPERS = 50
KNOWN = {"distcnn", "numpy", *sys.stdlib_module_names}
"""Packages whose operations are known by name (``nonportable.py``)."""


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
        unread: names of functions and classes whose source is not read: it cannot be, or they are
            of other packages.
    """

    found: dict[str, Operation] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    _seen: set[int | tuple[str, str]] = field(default_factory=set)
    _package: str = ""

    def read(self, item: Any) -> None:
        """Read a function, a class with its bases, or the class of any other object."""
        try:
            self._read(item)
        except Exception:  # code of others, which may do anything when it is looked at
            name = inspect.getattr_static(item, "__name__", "")
            self.unread.append(name if isinstance(name, str) and name else type(item).__name__)

    def _read(self, item: Any) -> None:
        item = _unwrapped(item)
        if operation := nonportable(item):
            self.found[operation[0]] = Operation(operation[0], "", 0, operation[1])
            return
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
            nodes = nodes_of(item, parsed("".join(lines)), first + 1)
            file = Path(inspect.getsourcefile(item) or inspect.getfile(item)).name
        except UNREADABLE:
            nodes, file = [], ""
        if not nodes:
            self.unread.append(item.__name__)
        for node in nodes:
            self.read_tree(node, file, scope_of(item), item if isinstance(item, type) else None)

    def read_constant(self, module: ModuleType, name: str) -> None:
        """Read what a module of the user's assigns to ``name``, outside of its functions."""
        if (module.__name__, name) in self._seen or not self._is_users(module):
            return
        self._seen.add((module.__name__, name))
        try:
            tree, file = parsed(inspect.getsource(module)).tree, str(module.__file__)
        except UNREADABLE:
            return
        for node in statements(tree):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            if any(getattr(each, "id", None) == name for each in targets):
                self.read_tree(node, Path(file).name, vars(module))
            if isinstance(node, ast.ImportFrom):
                source = imported_from(node, vars(module))
                originals = [each.name for each in node.names if name in (each.asname, each.name)]
                if source:
                    for original in originals:
                        self.read_constant(source, original)

    def read_tree(self, tree: ast.AST, file: str, scope: Scope, owner: type | None = None) -> None:
        """Read a syntax tree whose global names ``scope`` has, of the class ``owner`` if any."""
        _Reader(self, file, scope, owner).visit(tree)

    def note_installed(self, item: Any) -> None:
        """Note a function of an installed package, which may do anything."""
        package = _package_of(item)
        if package and package not in KNOWN and not self._is_users(item):
            name = f"{package}.{getattr(item, '__name__', type(item).__name__)}"
            if name not in self.unread:
                self.unread.append(name)

    def _is_users(self, item: Any) -> bool:
        """Whether it is of the package of the first, or neither installed nor Python's."""
        package = _package_of(item)
        if package in KNOWN:
            return False
        module = item if isinstance(item, ModuleType) else sys.modules.get(str(item.__module__))
        file = getattr(module, "__file__", None) or ""
        return package == self._package or not INSTALLED & set(Path(file).parts)


class _Reader(ast.NodeVisitor):
    """Reads the syntax tree of a function or class whose global names ``scope`` has."""

    def __init__(self, search: Search, file: str, scope: Scope, owner: type | None) -> None:
        self._search, self._file, self._scopes, self._owner = search, file, [scope], owner

    def visit_FunctionDef(self, node: Any) -> None:
        self._scopes.append(locals_of(node, self._scopes[0]))
        self.generic_visit(node)
        self._scopes.pop()

    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef

    def visit_BinOp(self, node: Any) -> None:
        parts = [getattr(node, name, None) for name in ("left", "right", "target", "value")]
        constant = not any(part and has_names(part) for part in parts)
        if isinstance(node.op, ast.MatMult):
            self._add("@", node, "matmul")
        elif isinstance(node.op, ast.Pow) and not constant and not is_size(node):
            self._add("**", node, "power")
        self.generic_visit(node)

    visit_AugAssign = visit_BinOp

    def visit_Name(self, node: ast.Name) -> None:
        meaning = self._meaning(node)
        self._look_at(node, meaning)
        module = sys.modules.get(str(self._scopes[0].get("__name__")))
        if module and vars(module).get(node.id, LOCAL) is meaning:
            self._search.read_constant(module, node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        meaning = self._meaning(node)
        if meaning is LOCAL:
            self.generic_visit(node)
            return
        self._look_at(node, meaning)
        owner = self._meaning(node.value)
        if isinstance(owner, ModuleType):
            self._search.read_constant(owner, node.attr)

    def visit_Call(self, node: ast.Call) -> None:
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if method and not is_self(node.func) and self._meaning(node.func) is LOCAL:
            owner = getattr(node.func, "value", None)
            if method in OF_ARRAYS.split() and not isinstance(owner, ast.Compare):
                self._add(f".{method}()", node, FORMS.get(method))
            elif method in OF_GENERATORS.split():
                self._add(f".{method}()", node, None)
        arguments = [each.value for each in node.args if isinstance(each, ast.Constant)]
        meaning = self._meaning(node.func)
        if meaning is getattr and arguments:
            self.visit(ast.copy_location(ast.Attribute(node.args[0], str(arguments[0])), node))
        elif meaning is eval or meaning is exec:
            self._search.unread.append(meaning.__name__)
        elif meaning is sum and node.args and is_size(node.args[0]):
            return
        is_sorted = any(keyword.arg in ("kind", "stable") for keyword in node.keywords)
        name = method or getattr(node.func, "id", "")
        if name == "argsort" and not is_sorted:
            self._add('argsort without kind="stable"', node, None)
        self.generic_visit(node)

    def _look_at(self, node: ast.expr, meaning: Any) -> None:
        meaning = _unwrapped(meaning)
        if operation := nonportable(meaning):
            self._add(operation[0], node, operation[1])
        elif isinstance(meaning, FunctionType | type):
            self._search.read_source(meaning)
        if callable(meaning) and meaning is not LOCAL:
            self._search.note_installed(meaning)

    def _meaning(self, node: ast.expr) -> Any:
        """The object that a name or a dotted name stands for; ``LOCAL`` if only a run can tell."""
        if isinstance(node, ast.Attribute):
            owner, name = self._meaning(node.value), node.attr
            if isinstance(owner, ModuleType):  # not getattr, which may import
                return vars(owner).get(name, sys.modules.get(f"{owner.__name__}.{name}", LOCAL))
            if isinstance(owner, np.ufunc):
                return owner if nonportable(owner) else getattr(owner, name, LOCAL)
            is_class = isinstance(owner, type)
            return inspect.getattr_static(owner, name, LOCAL) if is_class else LOCAL
        if isinstance(node, ast.Call):  # super() and an object made on the spot
            kind = self._meaning(node.func)
            if kind is super and self._owner:
                return self._owner.__mro__[1]
            return kind if isinstance(kind, type) else LOCAL
        if isinstance(node, ast.Name):
            for scope in (*reversed(self._scopes), vars(builtins)):
                if node.id in scope:
                    return scope[node.id]
        return LOCAL

    def _add(self, name: str, node: ast.expr | ast.stmt, form: str | None) -> None:
        self._search.found.setdefault(name, Operation(name, self._file, node.lineno, form))


def _unwrapped(item: Any) -> Any:
    """The function in a partial, a method or a decorator such as ``functools.cache``."""
    for _ in range(MOST_WRAPPERS):
        if nonportable(item):  # NumPy's functions are decorated, too
            break
        if isinstance(item, functools.partial):
            item = item.func
        elif isinstance(item, MethodType):
            item = item.__func__
        elif isinstance(item, type):
            break
        else:
            inner = inspect.getattr_static(item, "__wrapped__", LOCAL)
            if inner is LOCAL:
                break
            item = inner
    return item


def _package_of(item: Any) -> str:
    name = item.__name__ if isinstance(item, ModuleType) else getattr(item, "__module__", None)
    return (name or "").partition(".")[0]
