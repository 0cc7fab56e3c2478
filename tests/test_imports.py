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

PACKAGE = Path(__file__).parent.parent / "distcnn"
FILES = sorted(PACKAGE.rglob("*.py"))

# Folder or file of the package: what of the package it may import.
ALLOWED = {
    "nn": {"signatures", "nn"},
    "optim": {"signatures", "optim"},
    "signatures.py": set(),
    "errors.py": set(),
    "files.py": {"errors"},
    "launcher.py": {"wording"},
    "cores.py": {"wording"},
    "root.py": {"launcher"},
    "streams.py": set(),
    "parallel": {"console", "cores", "errors", "launcher", "parallel", "wording"},
    "faults": {"console", "faults", "launcher", "mistakes", "parallel"},
    "checkpoints": {"checkpoints", "errors", "files"},
    "datasets": {
        "command_line",
        "console",
        "datasets",
        "errors",
        "files",
        "locked_calls",
        "mistakes",
        "streams",
        "wording",
    },
    "own_model.py": {"errors"},
    "environment.py": set(),
    "models.py": {"signatures", "errors", "mistakes", "nn", "own_model", "wording"},
    "config.py": {
        "command_line",
        "console",
        "datasets",
        "errors",
        "files",
        "models",
        "nn",
        "optim",
        "own_model",
        "wording",
    },
    "training": {
        *{
            "__version__",
            "checkpoints",
            "command_line",
            "config",
            "console",
            "cores",
            "datasets",
            "environment",
            "errors",
        },
        *{
            "faults",
            "files",
            "host_memory",
            "launcher",
            "model_source",
            "models",
            "nn",
            "optim",
            "own_model",
            "parallel",
            "streams",
            "terminal",
            "training",
            "wording",
        },
    },
    "checkup": {
        *{
            "__version__",
            "checkup",
            "command_line",
            "console",
            "cores",
            "datasets",
            "environment",
            "errors",
            "faults",
        },
        *{
            "files",
            "host_memory",
            "launcher",
            "parallel",
            "same_flags",
            "streams",
            "training",
            "wording",
        },
    },
    "trace": {
        "__version__",
        "checkpoints",
        "errors",
        "faults",
        "files",
        "parallel",
        "trace",
        "training",
    },
    "measure": {
        *{
            "command_line",
            "config",
            "console",
            "datasets",
            "errors",
            "faults",
            "files",
            "measure",
            "models",
        },
        *{"nn", "own_model", "parallel", "training", "wording"},
    },
    "sweep": {
        *{
            "command",
            "command_line",
            "config",
            "console",
            "cores",
            "datasets",
            "errors",
            "faults",
            "files",
        },
        *{"measure", "models", "own_model", "parallel", "sweep", "training", "wording"},
    },
    "projection": {
        *{
            "command_line",
            "config",
            "console",
            "datasets",
            "errors",
            "files",
            "measure",
            "models",
            "parallel",
            "projection",
        },
        *{"sweep", "training", "wording"},
    },
    "wording.py": set(),
    "mistakes.py": set(),
    "console.py": {"wording"},
    "command_line.py": {"errors"},
    "terminal.py": {"launcher"},
    "same_flags.py": set(),
    "model_source.py": {"own_model"},
    "host_memory.py": {"cores"},
    "locked_calls.py": set(),
}
# Third-party package: the only places that may import it.
OWNERS = {
    "mpi4py": {"parallel/mpi.py"},
    "h5py": {
        "checkpoints/format.py",
        "checkup/software.py",
        "datasets/hdf5.py",
        "datasets/opening.py",
        "datasets/storage.py",
        "datasets/writer.py",
        "training/results.py",
    },
    "matplotlib": {"measure/picture.py", "report.py", "sweep/picture.py", "trace/picture.py"},
    "torch": {"measure/torch_peer.py"},
    "PIL": {"datasets/pictures.py"},
    "threadpoolctl": {"parallel/threads.py"},
}

# What measures, which training must never need: folder, and the only files outside of it that may
# know it.
MEASURING = {
    "measure": {"benchmark.py", "sweep/ranks.py", "projection/calibration.py"},
    "sweep": {
        "scaling.py",
        *(f"projection/{file.name}" for file in (PACKAGE / "projection").iterdir()),
    },
    "projection": {"scaling.py", "network.py"},
}
# What is started with python -m: all of the top level, and what runs on the ranks of a sweep's
# point.
COMMANDS = {"train.py", "verify.py", "benchmark.py", "scaling.py", "network.py", "sweep/ranks.py"}

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
def test_imports_go_one_way(file: Path) -> None:
    place = file.relative_to(PACKAGE).parts[0]
    inner = {name.split(".")[1] for name in imports_of(file) if name.startswith("distcnn.")}
    if place in ALLOWED:
        assert inner <= ALLOWED[place], f"{place} may not know {inner - ALLOWED[place]}"
    where = file.relative_to(PACKAGE).as_posix()
    for folder, users in MEASURING.items():
        assert folder not in inner or place == folder or where in users, (
            f"{where} may not know what only measuring needs"
        )
    assert "command" not in inner or where in COMMANDS, f"{where} is no command"


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


def test_every_folder_has_its_rule() -> None:
    folders = {
        file.relative_to(PACKAGE).parts[0]
        for file in FILES
        if len(file.relative_to(PACKAGE).parts) > 1
    }
    assert folders <= set(ALLOWED)


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
