"""Who may know whom: the direction of imports, read from the source; and what no rank reads from
the disk for nothing as it starts.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "distcnn"
FILES = sorted(PACKAGE.rglob("*.py"))
# The rooms of the package (folders and files), from the ground up. A room imports only itself and
# rooms of earlier rows; rooms in one row do not import each other.
LAYERS = [
    {"errors.py", "spans.py"},
    {"system", "plotting.py", "random_streams.py", "nn", "optim", "user_code.py"},
    {"distributed", "user_source.py", "checkpoints"},
    {"fault_tolerance"},
    {"cli", "registry.py", "architecture.py"},
    {"models.py", "datasets"},
    {"config.py"},
    {"config_parsing.py", "network.py"},
    {"training"},
    {"profiling"},
    {"train.py", "verify.py", "report.py", "doctor", "benchmark"},
    {"scaling"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# Stricter than their row: the maths knows nothing of ranks, files or flags, and ranks know nothing
# of layers.
ONLY = {
    "nn": {"errors", "spans", "nn"},
    "optim": {"errors", "optim"},
    "distributed": {"errors", "spans", "system", "distributed"},
}
# Third-party package: the only places that may import it.
OWNERS = {
    "mpi4py": {"distributed/mpi.py"},
    "h5py": {
        "checkpoints/format.py",
        "datasets/hdf5.py",
        "datasets/opening.py",
        "datasets/storage.py",
        "datasets/writer.py",
        "doctor/software.py",
        "checkpoints/weights.py",
    },
    "matplotlib": {"plotting.py", "scaling/plot.py"},
    "torch": set(),
    "PIL": {"datasets/pictures.py"},
    "threadpoolctl": {"distributed/blas_threads.py"},
}


def imports_of(file: Path) -> set[str]:
    """Dotted names of all modules that ``file`` imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "distcnn"
                else {node.module or ""}
            )
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downward(file: Path) -> None:
    where = file.relative_to(PACKAGE)
    room = where.parts[0]
    if room in ("__init__.py", "__main__.py"):  # the public face: it may show everything
        return
    imported = {name.split(".")[1] for name in imports_of(file) if name.startswith("distcnn.")}
    for other in imported - {"__version__", room.removesuffix(".py")}:
        level = LEVEL.get(other, LEVEL.get(f"{other}.py"))
        assert level is not None, f"{where} imports {other}, which has no place in LAYERS"
        assert level < LEVEL[room], f"{where} may not import {other}, above or beside it"
    if room in ONLY:
        assert imported <= ONLY[room], f"{where} may not import {imported - ONLY[room]}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_each_library_has_one_owner(file: Path) -> None:
    outer = (
        {name.split(".")[0] for name in imports_of(file)}
        - set(sys.stdlib_module_names)
        - {"distcnn"}
    )
    place = file.relative_to(PACKAGE)
    for library in outer & set(OWNERS):
        assert str(place) in OWNERS[library], f"{place} may not import {library}"
    if place.parts[0] in ("nn", "optim"):
        assert outer <= {"numpy"}


def test_every_room_has_its_place() -> None:
    rooms = {file.relative_to(PACKAGE).parts[0] for file in FILES} - {"__init__.py", "__main__.py"}
    assert rooms <= set(LEVEL)
