"""The source of a user's own code: recorded with a run, compared on resume and replay.

Recorded are the module of the model (loss, optimizer, schedule), the packages that hold it, and the
user's other modules that these import, also inside functions. Left out are the standard library,
installed packages (unless the named module is in one) and distcnn. What a module reads from other
files, or imports by a name that it computes, is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

from distcnn.user_code import modules_of

INSTALLED = {"site-packages", "dist-packages"}
LONGEST_LINE = 60
"""Characters of a source line that a message shows."""

Sources = dict[str, str]
"""Source text by module name."""


@dataclass(frozen=True)
class Changes:
    """What differs between two versions of a model's source, one text for each module."""

    code: list[str]
    layout: list[str]
    """Modules whose comments or layout alone differ."""

    def __str__(self) -> str:
        return "; ".join([*self.code, *self.layout])


def own_sources(*names: str) -> Sources:
    """The source of the user's modules that ``names`` (see ``modules_of``), imported already, are
    made of.
    """
    found: Sources = {}
    for start in (module for name in names for module in modules_of(name)):
        top = start.partition(".")[0]
        pending = [start]
        while pending:
            name = pending.pop()
            module = sys.modules.get(name)
            if module is None or name in found or not _is_users(module, top):
                continue
            found[name] = _source(module)
            package = module.__package__ or ""
            pending += [name.rpartition(".")[0], *_imported(found[name], package)]
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
    if package == "distcnn" or package in sys.stdlib_module_names:
        return False
    return package == top or not INSTALLED & set(Path(spec.origin).parts)


def _source(module: ModuleType) -> str:
    """The module's text, or a hash of its file where there is none (compiled modules)."""
    spec = module.__spec__
    assert spec is not None  # _is_users made sure
    try:
        text: str | None = getattr(spec.loader, "get_source", lambda name: None)(spec.name)
        if text is None:
            content = Path(spec.origin or "").read_bytes()
            text = f"no source: SHA-256 {hashlib.sha256(content).hexdigest()}"
    except (ImportError, SyntaxError, OSError) as error:
        text = f"no source: {error}"
    return text


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
    lines = list(zip_longest(before.splitlines(), now.splitlines()))
    # If none differs, it is the end of the last line.
    number = next((index for index, (was, is_now) in enumerate(lines) if was != is_now), len(lines))
    was, is_now = (
        "missing" if line is None else repr(line.strip()[:LONGEST_LINE])
        for line in [*lines, (None, None)][number]
    )
    return f"line {number + 1}: was {was}, is {is_now}"
