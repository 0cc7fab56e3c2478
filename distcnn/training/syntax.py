"""Syntax trees of functions, classes and modules, and what their names mean."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

NAMING = ast.FunctionDef, ast.ClassDef, ast.MatchAs, ast.MatchStar, ast.ExceptHandler
"""Statements and patterns that assign their ``name``."""
Scope = Mapping[str, Any]
LOCAL = object()
"""What a name means that the code itself assigns."""


@dataclass(frozen=True)
class Parsed:
    """The syntax tree of a file, and the definitions in it by name."""

    tree: ast.Module
    definitions: Mapping[str, list[ast.AST]]


@lru_cache(maxsize=64)
def parsed(source: str) -> Parsed:
    """The syntax tree of ``source``; ``SyntaxError`` and others as ``ast.parse``."""
    tree = ast.parse(source)
    definitions: dict[str, list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            definitions.setdefault(getattr(node, "name", "<lambda>"), []).append(node)
    return Parsed(tree, definitions)


def imported_from(node: ast.ImportFrom, scope: Scope) -> ModuleType | None:
    """The module from which a statement in a module of this scope imports."""
    name = node.module or ""
    if node.level:
        package = str(scope.get("__package__") or "").rsplit(".", node.level - 1)[0]
        name = f"{package}.{name}".removesuffix(".")
    return sys.modules.get(name)


def nodes_of(item: Any, source: Parsed, first: int) -> list[ast.AST]:
    """The syntax tree of a function or class that begins in line ``first``."""
    code = getattr(item, "__code__", None)
    wanted = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda) if code else ast.ClassDef
    nodes: list[ast.AST] = []
    for node in source.definitions.get(item.__name__, []):
        if isinstance(node, wanted):
            decorators = getattr(node, "decorator_list", [])
            starts = min([node.lineno, *(each.lineno for each in decorators)])
            place = code.co_firstlineno if code else first
            if place in (starts, node.lineno):
                nodes.append(node)
    return nodes


def scope_of(item: Any) -> Scope:
    """The names that a function or class finds outside of itself."""
    if isinstance(item, type):
        functions = [each for each in vars(item).values() if isinstance(each, FunctionType)]
        of_module = vars(sys.modules[item.__module__]) if item.__module__ in sys.modules else {}
        return {**of_module, **{k: v for each in functions for k, v in scope_of(each).items()}}
    cells: dict[str, Any] = {}
    for name, cell in zip(item.__code__.co_freevars, item.__closure__ or (), strict=True):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            cells[name] = LOCAL
    return {**item.__globals__, **cells}


def locals_of(function: ast.FunctionDef | ast.Lambda, scope: Scope) -> Scope:
    """The names that a function in a module of this scope assigns, its arguments among them; what
    it imports is known.
    """
    found: dict[str, Any] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            found[node.arg] = LOCAL
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = LOCAL
        elif isinstance(node, NAMING) and node is not function and node.name:
            found[node.name] = LOCAL
    for node in ast.walk(function):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or name] = sys.modules.get(name, LOCAL)
        elif isinstance(node, ast.ImportFrom):
            module = imported_from(node, scope)
            for alias in node.names:
                found[alias.asname or alias.name] = getattr(module, alias.name, LOCAL)
    return found


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements outside of functions and classes."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            yield node
            yield from statements(node)


def is_size(node: ast.AST) -> bool:
    """Whether it consists of integers only: constants, lengths and shapes."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int)
    if isinstance(node, ast.BinOp | ast.UnaryOp):
        parts = [getattr(node, name, None) for name in ("left", "right", "operand")]
        return all(is_size(part) for part in parts if part)
    if isinstance(node, ast.Tuple | ast.List):
        return all(map(is_size, node.elts))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("len", "range")
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return is_size(node.elt)
    if isinstance(node, ast.Subscript):
        return is_size(node.value)
    return isinstance(node, ast.Attribute) and node.attr in ("shape", "size", "ndim")


def is_self(node: ast.expr) -> bool:
    """Whether it is a method of the class that is read."""
    owner = node.value if isinstance(node, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


def has_names(node: ast.AST) -> bool:
    """Whether it is more than a constant."""
    return any(isinstance(each, ast.Name | ast.Attribute | ast.Call) for each in ast.walk(node))
