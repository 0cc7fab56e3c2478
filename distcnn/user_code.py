"""A user's own code, named ``package.module:name``: when it may be imported, and its source.

Importing a module runs it. A name that only a file holds (a run directory, a --config file) is
therefore not imported until the user confirms it, and nothing is ever imported from a run
directory: a run may come from a stranger.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

from distcnn.errors import InputError

TRUST_FLAG, ACCEPT_FLAG = "--trust-model", "--accept-changed-model"
TRUST_HELP = "import and run the Python module that the run's own layers are in"
CODE_FIELDS = ("model", "loss", "optimizer", "schedule")
"""The fields of a configuration that may name the user's own code."""
INSTALLED = {"site-packages", "dist-packages"}
LONGEST_LINE = 60
"""Characters of a source line that a message shows."""

Sources = dict[str, str]
"""Source text by module name."""


def modules_of(name: str) -> list[str]:
    """The user's modules that ``name`` refers to; empty for what distcnn brings.

    ``name`` is one of distcnn's names, package.module:name (perhaps with arguments in brackets), or
    a network written out, such as ``Sequential([Flatten(), my_layers.Dropout(0.5), Dense(10)])``.
    """
    reference = name.partition("(")[0]
    if ":" in reference:
        return [reference.partition(":")[0]]
    try:
        nodes = list(ast.walk(ast.parse(name, mode="eval"))) if "(" in name else []
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    return list(dict.fromkeys(call.rpartition(".")[0] for call in calls if "." in call))


def is_own(name: str) -> bool:
    """Whether ``name`` refers to user code."""
    return bool(modules_of(name))


def own_code(values: Mapping[str, Any]) -> dict[str, str]:
    """The user's own code in the ``values`` of a configuration: ``{"model": "my_nets:small"}``."""
    return {field: values[field] for field in CODE_FIELDS if is_own(values.get(field, ""))}


def require_trust(
    own: Mapping[str, str],
    file: str | Path,
    given: Mapping[str, Any],
    trusted: bool,
    flags: Collection[str] = CODE_FIELDS,
) -> None:
    """Refuse to import user code (see ``own_code``) that only ``file`` names.

    What the command line (``given``) repeats is confirmed; so is all if ``trusted``. ``flags`` are
    the fields for which the command has a flag.
    """
    for field, name in own.items():
        if name != given.get(field) and not trusted:
            repeat = f", or name it yourself: --{field} {name!r}" if field in flags else ""
            raise InputError(
                f"{file} names the {field} {name!r}, and importing it runs its code: if you trust"
                f" it, give {TRUST_FLAG}{repeat}"
            )


def require_outside(names: Iterable[str], *run_directories: str | Path) -> None:
    """Refuse ``names`` whose import could run code from a run directory; import nothing.

    Empty ``run_directories`` are skipped.
    """
    for name in names:
        for module in modules_of(name):
            for directory in (path for path in run_directories if path):
                _require_outside(name, module, directory)


def _require_outside(name: str, module: str, directory: str | Path) -> None:
    for entry in sys.path:
        if _is_inside(entry or os.curdir, directory):
            raise InputError(
                f"the run directory {directory} is on Python's module search path"
                f" ({entry or 'the current folder'}), so {name!r} could import code from it: start"
                " in another folder, take it out of PYTHONPATH, or put the run elsewhere"
            )
    for place in _places(module):
        if _is_inside(place, directory):
            raise InputError(
                f"{name!r} is in the run directory {directory} ({place}): code there is never run;"
                " read it, and if you trust it, move it out of there"
            )


def _places(name: str) -> Iterator[str]:
    """The files and folders that an import of ``name`` would use, its parent packages' first."""
    path: list[str] | None = None
    for part in filter(None, name.split(".")):
        finders = [each for each in sys.meta_path if hasattr(each, "find_spec")]
        if path is not None:
            # Under its short name: a namespace package looks for its parent in sys.modules.
            finders = [PathFinder]
        found = (finder.find_spec(part, path) for finder in finders)
        spec = next((each for each in found if each is not None), None)
        if spec is None:
            return
        path = list(spec.submodule_search_locations or [])
        yield from ([spec.origin] if spec.has_location and spec.origin else [])
        yield from path


def _is_inside(place: str, directory: str | Path) -> bool:
    """Whether ``place`` is in ``directory``, as written or with symbolic links followed."""
    folders = Path(os.path.abspath(directory)), Path(os.path.realpath(directory))  # noqa: PTH100
    places = Path(os.path.abspath(place)), Path(os.path.realpath(place))  # noqa: PTH100
    return any(found.is_relative_to(folder) for found in places for folder in folders)


@dataclass(frozen=True)
class Changes:
    """What differs between two versions of a model's source, one text for each module."""

    code: list[str]
    layout: list[str]
    """Modules whose comments or layout alone differ."""

    def __str__(self) -> str:
        return "; ".join([*self.code, *self.layout])


def own_sources(*names: str) -> Sources:
    """The source of the modules that ``names`` refer to, imported already: a run records it.

    Also of the packages that hold them, and of the user's modules that they import, even inside
    functions; not what a module reads from files, or imports by a name that it computes.
    """
    found: Sources = {}
    pending = [(module, module.partition(".")[0]) for name in names for module in modules_of(name)]
    while pending:
        name, top = pending.pop()
        module = sys.modules.get(name)
        if module is None or name in found or not _is_users(module, top):
            continue
        found[name] = _source(module)
        more = [name.rpartition(".")[0], *_imported(found[name], module.__package__ or "")]
        pending += [(other, top) for other in more]
    return dict(sorted(found.items()))


def compare_sources(before: Sources, now: Sources) -> Changes:
    """What differs. Neither version is run."""
    changes = Changes([], [])
    for name in sorted({*before, *now}):
        if name not in now:
            changes.code.append(f"module {name} is no longer used")
        elif name not in before:
            changes.code.append(f"module {name} is new")
        elif before[name] != now[name]:
            same_code = (tree := _tree(before[name])) is not None and tree == _tree(now[name])
            what = f"module {name}, {_first_difference(before[name], now[name])}"
            (changes.layout if same_code else changes.code).append(what)
    return changes


def sha256_of(sources: Sources) -> str:
    """One hash of all modules' names and sources."""
    return hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()


def _is_users(module: ModuleType, top: str) -> bool:
    """Whether it is the user's: in the named package ``top``, or neither installed nor standard."""
    spec = module.__spec__
    if spec is None or not spec.has_location or not spec.origin:
        return False
    package = spec.name.partition(".")[0]
    if package in {"distcnn", *sys.stdlib_module_names}:
        return False
    return package == top or not INSTALLED & set(Path(spec.origin).parts)


def _source(module: ModuleType) -> str:
    """The module's text, or a hash of its file where there is none (compiled modules)."""
    spec = module.__spec__
    assert spec is not None  # _is_users made sure
    try:
        text: str | None = getattr(spec.loader, "get_source", lambda name: None)(spec.name)
        if text is not None:
            return text
        content = Path(spec.origin or "").read_bytes()
        return f"no source: SHA-256 {hashlib.sha256(content).hexdigest()}"
    except (ImportError, SyntaxError, OSError) as error:
        return f"no source: {error}"


def _imported(text: str, package: str) -> Iterator[str]:
    """The names of modules that ``text``, of a module in ``package``, may import."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                base = importlib.util.resolve_name(base, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _tree(text: str) -> str | None:
    """The syntax tree without places and comments; None when ``text`` cannot be parsed."""
    try:
        return ast.dump(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _first_difference(before: str, now: str) -> str:
    for number, lines in enumerate(zip_longest(before.splitlines(), now.splitlines()), 1):
        if lines[0] != lines[1]:
            was, is_now = (
                "missing" if line is None else repr(line.strip()[:LONGEST_LINE]) for line in lines
            )
            return f"line {number}: was {was}, is {is_now}"
    return "the ends of its lines"
