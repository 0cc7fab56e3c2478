"""A small run that has finished, and records made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distcnn as dc
from distcnn.report.records import RunRecords, read_run
from distcnn.training.receipt import Receipt
from tests.conftest import MakeImageSet

CURVES = (
    *("loss", "learning_rate", "images_per_second", "train_loss", "train_accuracy"),
    *("test_loss", "test_accuracy", "validation_loss", "validation_accuracy"),
)
MakeRecords = Callable[..., RunRecords]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, image_set: MakeImageSet) -> Path:
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    dc.Trainer("tutorial").fit(image_set(), epochs=2, output=folder, log_every=1, check_every=1)
    return folder


@pytest.fixture
def records(run: Path) -> RunRecords:
    return read_run(run, "run")


@pytest.fixture(scope="session")
def make_records() -> MakeRecords:
    """A function that makes records of curves, and of lines of a receipt after its start."""

    def make(
        label: str, lines: list[dict[str, Any]] | None = None, ranks: int = 1, **curves: Any
    ) -> RunRecords:
        start = {"kind": "start", "step": 0, "world_size": ranks, "dataset": {"train_examples": 8}}
        history = {name: [] for name in CURVES} | curves
        receipt = None if lines is None else Receipt([start, *lines])
        return RunRecords(Path(label), label, history, receipt)

    return make
