"""The source of a user's own code: recorded with a run, compared on resume and replay.

Recorded are the named modules, the packages that hold them, and the user's modules that they
import, also inside functions; the standard library, other installed packages and distcnn are not.
What a module reads from files, or imports by a name that it computes, is not seen.
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
    """The source of the user's modules that ``names``, imported already, are made of."""
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
    if package == "distcnn" or package in sys.stdlib_module_names:
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
    lines = before.splitlines(), now.splitlines()
    end = len(lines[0]), (None, None)  # the ends of lines alone differ
    pairs = enumerate(zip_longest(*lines))
    number, texts = next((found for found in pairs if found[1][0] != found[1][1]), end)
    was, is_now = (
        "missing" if text is None else repr(text.strip()[:LONGEST_LINE]) for text in texts
    )
    return f"line {number + 1}: was {was}, is {is_now}"
