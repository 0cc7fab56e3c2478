"""The direction of imports, read from the source: the package is layered from bottom to top."""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "distcnn"
FILES = sorted(PACKAGE.rglob("*.py"))
# The rooms of the package (folders and files), from the ground up. A room imports only itself and
# rooms of earlier rows; rooms in one row do not import each other.
LAYERS = [
    {"errors.py", "spans.py", "portable"},
    {"system", "random_streams.py", "nn", "optim", "user_code.py"},
    {"plotting.py", "distributed", "checkpoints"},
    {"fault_tolerance"},
    {"cli", "registry.py", "architecture.py"},
    {"models.py", "datasets"},
    {"config.py", "score.py", "predictions.py"},
    {"config_parsing.py", "network.py"},
    {"loading.py"},
    {"interop"},
    {"training"},
    {"profiling"},
    {
        *("train.py", "verify.py", "convert.py", "evaluate", "predict", "export.py"),
        *("report", "doctor", "benchmark"),
    },
    {"scaling"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
# Stricter than their row: the maths knows nothing of ranks, files or flags, and ranks know nothing
# of layers.
ONLY = {
    "portable": {"portable"},
    "nn": {"errors", "spans", "portable", "nn"},
    "optim": {"errors", "portable", "optim"},
    "distributed": {"errors", "spans", "system", "distributed"},
}
# Third-party package: the only places that may import it.
OWNERS = {
    "mpi4py": {"distributed/mpi.py"},
    "h5py": {
        "checkpoints/format.py",
        "datasets/hdf5.py",
        "datasets/importers/hdf5_arrays.py",
        "datasets/opening.py",
        "datasets/storage.py",
        "datasets/writer.py",
        "checkpoints/weights.py",
        "interop/hdf5.py",
    },
    "matplotlib": {"plotting.py"},
    "scipy": {"datasets/strokes.py"},
    "pyarrow": {"datasets/importers/parquet.py"},
    "torch": {"interop/pytorch.py"},
    "onnx": {"interop/onnx_reading.py", "interop/onnx_writing.py"},
    "safetensors": {"interop/safetensors_files.py"},
    "PIL": {"datasets/pictures.py", "report/pictures.py"},
    "jinja2": {"report/page.py"},
    "tensorboardX": {"training/tensorboard.py"},
    "threadpoolctl": {"distributed/blas_threads.py"},
}


def room_of(file: Path) -> str:
    """The folder or file of the package that ``file`` belongs to."""
    return file.relative_to(PACKAGE).parts[0]


@functools.cache
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


def test_imports_point_downward() -> None:
    wrong = []
    for file in FILES:
        where, room = file.relative_to(PACKAGE), room_of(file)
        if room not in LEVEL:  # the public face, which may show everything
            continue
        imported = {name.split(".")[1] for name in imports_of(file) if name.startswith("distcnn.")}
        for other in imported - {"__version__", room.removesuffix(".py")}:
            level = LEVEL.get(other, LEVEL.get(f"{other}.py", 0))
            if level >= LEVEL[room]:
                wrong.append(f"{where} may not import {other}, above or beside it")
        if room in ONLY and imported - ONLY[room]:
            wrong.append(f"{where} may not import {imported - ONLY[room]}")
    assert not wrong, "\n".join(wrong)


def test_each_library_has_one_owner() -> None:
    wrong = []
    for file in FILES:
        where = file.relative_to(PACKAGE)
        outer = {name.split(".")[0] for name in imports_of(file)} - sys.stdlib_module_names
        for library in outer - {"distcnn"}:
            if str(where) not in OWNERS.get(library, {str(where)}):
                wrong.append(f"{where} may not import {library}")
            if room_of(file) in ("nn", "optim") and library != "numpy":
                wrong.append(f"{where} may import NumPy only, not {library}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_place() -> None:
    rooms = {room_of(file) for file in FILES} - {"__init__.py", "__main__.py"}
    assert rooms == set(LEVEL)
