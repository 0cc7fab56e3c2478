"""What run directories record, finished or not, of this version or older ones."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.system.files import reading
from distcnn.system.wording import counted, printable
from distcnn.training.line_files import SPEED, recorded_metrics
from distcnn.training.receipt import MALFORMED, Line, Receipt, read_receipt
from distcnn.training.results import METRICS, RESULT, RunResult, read_result
from distcnn.training.run_files import read_config

RECORDED: dict[str, tuple[str, ...]] = {"step": ("loss",), "epoch": ()}
"""What each kind of line must have."""
OPTIONAL = {
    "step": ("learning_rate", SPEED),
    "epoch": (
        *("train_loss", "train_accuracy", "test_loss", "test_accuracy"),
        *("validation_loss", "validation_accuracy"),
    ),
}
LARGEST_STEP = 2**53

Curve = list[tuple[int, float]]
"""(step, value) pairs."""
History = dict[str, Curve]
"""A run's curves by the name that a line of metrics has for them."""


@dataclass(frozen=True)
class RunRecords:
    """The records of one run; what is None or empty is missing, and ``problems`` say why."""

    path: Path
    label: str
    history: History
    receipt: Receipt | None = None
    config: Config | None = None
    result: RunResult | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def starts(self) -> Sequence[Line]:
        """A line for each start and resume."""
        return self.receipt.sessions if self.receipt else []

    @property
    def last_step(self) -> int:
        """The last step that any record knows of."""
        ends = [curve[-1][0] for curve in self.history.values() if curve]
        return max([*ends, self.receipt.last_step if self.receipt else 0])

    def recorded(self, table: str, name: str, default: Any = "") -> Any:
        """A value of the latest start: of its table "software", "machine" or "dataset"."""
        return self.starts[-1].get(table, {}).get(name, default) if self.starts else default


def read_run(run: Path, label: str) -> RunRecords:
    """The records of a run. ``InputError`` if it is not one, or its metrics or result are damaged.

    Of other files, damage is only noted in ``problems``.
    """
    history, problems = read_history(run), list[str]()
    receipt, config, result = None, None, None
    try:
        receipt = read_receipt(run)
        config = receipt.configuration_at(receipt.last_step)
    except InputError as error:
        problems.append(str(error))
        with suppress(InputError):
            config = read_config(run)
    if (run / RESULT).exists():
        try:
            result = read_result(run)
        except InputError as error:
            raise InputError(f"{run}: {error}: --resume {run} writes it again") from error
    return RunRecords(run, label, history, receipt, config, result, problems)


def read_history(run: Path) -> History:
    """The metrics that a run recorded; a last line cut off by a kill does not count."""
    history: History = {
        name: [] for kind in RECORDED for name in (*RECORDED[kind], *OPTIONAL[kind])
    }
    file = run / METRICS
    with reading(file, *MALFORMED, OverflowError, remedy="name a run directory of distcnn.train"):
        for line in recorded_metrics(run):
            kind, step = line["kind"], line["step"]
            names = [*RECORDED[kind], *(name for name in OPTIONAL[kind] if name in line)]
            values = {name: line[name] for name in names}
            if type(step) is not int or not 0 <= step < LARGEST_STEP:
                raise ValueError(f"step is {step!r}")
            for name, value in values.items():
                if type(value) not in (int, float):
                    raise ValueError(f"{name} of step {step} is {value!r}")
                if math.isfinite(number := float(value)):
                    history[name].append((step, number))
    return history


def summary(run: RunRecords) -> str:
    """A line on how the run ended."""
    result = run.result
    if result is None:
        return f"{run.path}: not finished"
    return (
        f"{run.path}: {result.model}, {counted(result.world_size, 'rank')},"
        f" {counted(result.steps, 'step')}, test accuracy {result.test_accuracy:.4f},"
        f" {result.images_per_second:,.0f} images/s, weights {result.params_sha256[:16]}"
    )


def labels(runs: Sequence[Path]) -> list[str]:
    """A label for each run: its path below the folder that all runs have in common."""
    paths = [run.resolve() for run in runs]
    common = os.path.commonpath([path.parent for path in paths])
    return [printable(str(path.relative_to(common))) for path in paths]
