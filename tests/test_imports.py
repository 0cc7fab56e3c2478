"""Who may know whom: the direction of imports, read from the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "distcnn"
FILES = sorted(PACKAGE.rglob("*.py"))

# Folder or file of the package: what of the package it may import.
ALLOWED = {
    "nn": {"nn"},
    "optim": {"optim"},
    "errors.py": set(),
    "files.py": set(),
    "launcher.py": set(),
    "streams.py": set(),
    "parallel": {"parallel", "errors", "launcher"},
    "faults": {"faults", "parallel", "launcher"},
    "checkpoints": {"checkpoints", "errors", "files"},
    "datasets": {"datasets", "errors", "streams"},
    "models.py": {"nn", "errors"},
    "config.py": {"nn", "optim", "models", "datasets", "errors"},
    "training": {
        *{"training", "config", "models", "nn", "optim", "parallel", "datasets", "errors", "streams"},
        *{"checkpoints", "faults", "files", "__version__"},
    },
    "measure": {"measure", "training", "config", "models", "nn", "parallel", "datasets", "errors", "faults"},
}
# Third-party package: the only places that may import it.
OWNERS = {
    "mpi4py": {"parallel/mpi.py"},
    "h5py": {"datasets/hdf5.py", "datasets/writer.py", "checkpoints/format.py", "training/run_directory.py"},
    "matplotlib": {"report.py", "measure/picture.py"},
    "torch": {"measure/torch_peer.py"},
    "PIL": {"datasets/folders.py"},
    "threadpoolctl": {"parallel/threads.py"},
}


def imports_of(file: Path) -> set[str]:
    """Dotted names of all modules that ``file`` imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "distcnn" else {node.module or ""}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: Path) -> None:
    place = file.relative_to(PACKAGE).parts[0]
    inner = {name.split(".")[1] for name in imports_of(file) if name.startswith("distcnn.")}
    if place in ALLOWED:
        assert inner <= ALLOWED[place], f"{place} may not know {inner - ALLOWED[place]}"
    assert "measure" not in inner or place in ("measure", "benchmark.py"), f"{place} may not know what only the benchmark needs"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_each_library_has_one_owner(file: Path) -> None:
    outer = {name.split(".")[0] for name in imports_of(file)} - set(sys.stdlib_module_names) - {"distcnn"}
    place = file.relative_to(PACKAGE)
    for library in outer & set(OWNERS):
        assert str(place) in OWNERS[library], f"{place} may not import {library}"
    if place.parts[0] in ("nn", "optim"):
        assert outer <= {"numpy"}


def test_every_folder_has_its_rule() -> None:
    folders = {file.relative_to(PACKAGE).parts[0] for file in FILES if len(file.relative_to(PACKAGE).parts) > 1}
    assert folders <= set(ALLOWED)
