"""A user's own model, ``package.module:function``: when it may be imported, and the source that it
was built from.

Importing a module runs it. So a name that only a file holds (a run directory, a --config file) is
not imported until the user confirms it, and nothing is ever imported from a run directory: a run
may come from a stranger.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from distcnn.errors import InputError

TRUST_FLAG, ACCEPT_FLAG = "--trust-model", "--accept-changed-model"


def is_own(model: str) -> bool:
    """Whether ``model`` names code of the user's, not one of distcnn's networks."""
    return ":" in model


def require_trust(model: str, file: str | Path, given: str | None, trusted: bool) -> None:
    """``InputError`` unless ``model``, which ``file`` names, is distcnn's own, or the user confirms
    it.

    Args:
        model: the name in the file.
        file: the run directory or configuration file, for the message.
        given: the model that the user named on the command line, if any.
        trusted: whether the user gave ``--trust-model``.
    """
    if is_own(model) and model != given and not trusted:
        raise InputError(
            f"{file} names the model {model!r}, and importing it runs its code: if you trust it, "
            f"repeat it on the command line (--model {model!r}), or give {TRUST_FLAG}"
        )


def require_outside(model: str, *run_directories: str | Path) -> None:
    """``InputError`` when importing ``model`` could run code from one of ``run_directories``.
    Nothing is imported.

    Empty names in ``run_directories`` are skipped.
    """
    if not is_own(model):
        return
    name = model.partition(":")[0]
    for directory in (each for each in run_directories if each):
        for entry in sys.path:
            if _is_inside(entry or os.curdir, directory):
                raise InputError(
                    f"the run directory {directory} is on Python's module search path"
                    f" ({entry or 'the current folder'}), so model {model!r} could import code from"
                    " it: start outside it, without it in PYTHONPATH, or put the run elsewhere"
                )
        for place in _places(name):
            if _is_inside(place, directory):
                raise InputError(
                    f"model {model!r} is in the run directory {directory} ({place}): code there is"
                    " never run; read it, and if you trust it, move it out of there"
                )


def _places(name: str) -> Iterator[str]:
    """The files and folders that an import of ``name`` would use, its parent packages' first.

    Nothing is imported.
    """
    path: list[str] | None = None
    for part in name.split("."):
        spec = _find_spec(part, path) if part else None
        if spec is None:
            return
        path = list(spec.submodule_search_locations or [])
        yield from ([spec.origin] if spec.has_location and spec.origin else [])
        yield from path


def _find_spec(part: str, path: list[str] | None) -> ModuleSpec | None:
    """The last ``part`` of a module's name, in the folders of its parent package (None: at the
    top).
    """
    if path is not None:
        return PathFinder.find_spec(
            part, path
        )  # under its short name: a namespace package looks for its parent in sys.modules
    found = (
        finder.find_spec(part, None) for finder in sys.meta_path if hasattr(finder, "find_spec")
    )
    return next((spec for spec in found if spec is not None), None)


def _is_inside(place: str, directory: str | Path) -> bool:
    """Whether ``place`` is in ``directory``, as written or with symbolic links followed."""
    folders = Path(os.path.abspath(directory)), Path(os.path.realpath(directory))  # noqa: PTH100
    places = Path(os.path.abspath(place)), Path(os.path.realpath(place))  # noqa: PTH100
    return any(each.is_relative_to(folder) for each in places for folder in folders)
