"""Who may know whom: the direction of imports, read from the source; and what no rank reads from
the disk for nothing as it starts.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet

PACKAGE = Path(__file__).parents[2] / "distcnn"
FILES = sorted(PACKAGE.rglob("*.py"))

# The rooms of the package (folders and files), from the ground up. A room imports only itself and
# rooms of earlier rows; rooms in one row do not import each other.
LAYERS = [
    {"errors.py", "spans.py"},
    {"system", "random_streams.py", "nn", "optim", "user_code.py"},
    {"distributed", "user_source.py", "checkpoints"},
    {"fault_tolerance"},
    {"cli", "registry.py"},
    {"models.py", "datasets"},
    {"config.py"},
    {"config_parsing.py"},
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
        "training/results.py",
    },
    "matplotlib": {"benchmark/plot.py", "report.py", "scaling/plot.py", "profiling/plot.py"},
    "torch": {"benchmark/torch_peer.py"},
    "PIL": {"datasets/pictures.py"},
    "threadpoolctl": {"distributed/blas_threads.py"},
}
# What is started with python -m: all of the top level, and what runs on the ranks of a sweep's
# point.
COMMANDS = {
    *("train.py", "verify.py", "benchmark/__main__.py", "scaling/__main__.py"),
    *("scaling/interconnect_test.py", "scaling/worker.py"),
}

# Needed by root alone, or seldom. On a shared file system every rank would ask for each of their
# files at the same moment.
SELDOM = {
    *{
        "ssl",
        "http.client",
        "urllib.request",
        "email",
        "zipfile",
        "gzip",
        "tempfile",
    },  # MNIST that must be had first
    *{"tqdm", "multiprocessing", "importlib.metadata"},  # a progress bar
    "distcnn.profiling",
    *{"pdb", "distcnn.training.debug", "distcnn.training.replay"},  # debugging and replays
    *{"tomllib", "tomli_w"},  # root's files
    *{"concurrent.futures", "distcnn.datasets.prefetch"},  # data larger than memory
    *{"matplotlib", "PIL"},
}
LOADED = f"import json, sys; print(json.dumps(sorted({SELDOM!r} & set(sys.modules))))"
TRAINED = """
import os, sys
from distcnn.system import launcher
from distcnn import train
code = train.main(sys.argv[1:])
if launcher.declared_rank(os.environ):
    exec({loaded!r})
sys.exit(code)
"""


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


def test_no_rank_but_root_imports_what_only_some_need() -> None:
    done = SERIAL.run(1, "-c", f"import distcnn.train; {LOADED}", PMI_SIZE="2", PMI_RANK="1")
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr


@pytest.mark.mpi
def test_a_whole_run_does_not_either_but_on_root(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    flags = [
        "--data",
        str(image_set()),
        "--output",
        str(tmp_path / "run"),
        "--model",
        "tutorial",
        "--epochs",
        "1",
    ]
    done = mpirun.run(2, "-c", TRAINED.format(loaded=LOADED), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[]" in done.stdout, done.stdout  # a launcher may join the lines of two ranks
