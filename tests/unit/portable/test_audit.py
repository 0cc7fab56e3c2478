"""The package's own code: where it uses operations whose bits differ between machines, and why that
changes no portable run. docs/portable.md retells it.

Kernels are not read: their products are on grids, and other tests prove them.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from distcnn.training.operations import Search

PACKAGE = Path(__file__).parents[3] / "distcnn"
ROOMS = ("nn", "optim", "portable", "distributed", "checkpoints", "training", "datasets")
FILES = [
    *("score.py", "network.py", "random_streams.py", "models.py", "config.py", "predictions.py"),
    *sorted(
        str(file.relative_to(PACKAGE)) for room in ROOMS for file in (PACKAGE / room).rglob("*.py")
    ),
]
OTHERS = ("nn/kernels/", "nn/reference.py", "datasets/importers/", "distributed/mpi.py")
"""Kernels; the textbook, which nothing imports; what makes image sets, whose hash a run records; a
module that would start MPI.
"""

COUNTS = "adds integers"
NATIVE = "in native arithmetic only"
POWERS_OF_2 = "powers of two are exact"
PICTURES = "in predictions from pictures, which have to be fitted (SciPy, Pillow)"
ALLOWED: dict[str, dict[str, str]] = {
    "score.py": {
        **{"numpy.exp": NATIVE, "numpy.log": NATIVE, "math.exp": NATIVE},
        **{".sum()": COUNTS, ".trace()": COUNTS},
        **{"**": "squares an integer", "distcnn.nn.softmax_cross_entropy": NATIVE},
    },
    "network.py": {"numpy.exp": NATIVE, ".sum()": NATIVE, "sum": PICTURES},
    "random_streams.py": {"numpy.prod": COUNTS},
    "nn/activations.py": {"numpy.tanh": NATIVE},
    "nn/losses.py": {
        **dict.fromkeys(("numpy.exp", "numpy.log1p", "numpy.add.reduce", ".sum()"), NATIVE),
        **dict.fromkeys(
            ("distcnn.nn.softmax_cross_entropy", "distcnn.nn.squared_error"), "names them only"
        ),
        "math.log": "the threshold of a warning",
    },
    "nn/gradient_check.py": dict.fromkeys(("numpy.sum", "numpy.vdot", "@"), "a check"),
    "nn/portable.py": {"numpy.matmul": "on grids"},
    "optim/optimizers.py": {"**": NATIVE},
    "optim/schedules.py": {"math.cos": NATIVE},
    "portable/grids.py": {"**": POWERS_OF_2},
    "portable/self_test.py": {"**": POWERS_OF_2, "numpy.matmul": "on grids", "@": "on integers"},
    "portable/trigonometry.py": {"**": "of -1"},
    "distributed/exact_sum.py": {
        "numpy.vdot": "chooses between two ways to the same bits",
        "**": POWERS_OF_2,
    },
    "distributed/shared_memory_reduction.py": {"sum": "chooses between two ways to the same bits"},
    "training/advice.py": {".sum()": COUNTS},
    "training/data.py": {"sum": COUNTS},
    "training/debug.py": {"numpy.random.default_rng": "a check"},
    "training/details.py": {"sum": COUNTS},
    "training/fingerprint.py": dict.fromkeys(
        (
            *("math.cos", "**", "numpy.matmul", "numpy.exp", "numpy.log", "numpy.tanh", ".sum()"),
            *("@", "sum"),
        ),
        "tells machines apart",
    ),
    "training/ledger.py": {"sum": COUNTS},
    "training/nonportable.py": dict.fromkeys(
        ("numpy.add.reduce", "numpy.add.reduceat", "numpy.multiply.reduce"), "names them only"
    ),
    "training/operations.py": {"sum": "names it only"},
    "training/records.py": {"sum": COUNTS},
    "training/run_comparison.py": {"sum": COUNTS},
    "training/sampling.py": {"sum": COUNTS},
    "training/time_left.py": {"math.exp": "the time that is left"},
    "datasets/dataset.py": {"sum": COUNTS},
    "datasets/fitting.py": {".mean()": PICTURES},
    "datasets/hashing.py": {"sum": COUNTS},
    "datasets/pictures.py": {"numpy.vdot": PICTURES},
    "datasets/streaming.py": {"sum": COUNTS},
    "datasets/strokes.py": {"**": PICTURES, ".sum()": PICTURES},
    "datasets/survey.py": {"@": "adds integers: mean and std come from them", ".sum()": COUNTS},
    "datasets/writer.py": {"sum": COUNTS},
}


@pytest.mark.parametrize("name", [file for file in FILES if not file.startswith(OTHERS)])
def test_operations_that_are_not_portable_are_known(name: str) -> None:
    file = PACKAGE / name
    if file.name == "__main__.py":
        return
    module = ".".join(("distcnn", *Path(name).with_suffix("").parts)).removesuffix(".__init__")
    search = Search()
    tree = ast.parse(file.read_text())
    search.read_tree(tree, file.name, vars(importlib.import_module(module)))
    new = [each for each in search.found.values() if each.name not in ALLOWED.get(name, {})]
    assert not new, f"{name}: say in ALLOWED why portable runs keep their bits: {new}"
