"""A user's own code, named ``package.module:name``: when it may be imported.

Importing a module runs it. A name that only a file holds (a run directory, a --config file) is
therefore not imported until the user confirms it, and nothing is ever imported from a run
directory: a run may come from a stranger.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from distcnn.errors import InputError

TRUST_FLAG, ACCEPT_FLAG = "--trust-model", "--accept-changed-model"
CODE_FIELDS = ("model", "loss", "optimizer", "schedule")
"""The fields of a configuration that may name the user's own code."""


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
    own: Mapping[str, str], file: str | Path, given: Mapping[str, Any], trusted: bool
) -> None:
    """Refuse to import user code (see ``own_code``) that only ``file`` names.

    What the command line (``given``) repeats is confirmed; so is all if ``trusted``.
    """
    for field, name in own.items():
        if name != given.get(field) and not trusted:
            raise InputError(
                f"{file} names the {field} {name!r}, and importing it runs its code: if you trust"
                f" it, repeat it on the command line (--{field} {name!r}), or give {TRUST_FLAG}"
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
