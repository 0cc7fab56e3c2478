"""The files of a finished run: its result, last and best weights, and sums as of sha256sum."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distcnn.checkpoints.weights import BEST_WEIGHTS, INITIAL_WEIGHTS, WEIGHTS
from distcnn.errors import InputError
from distcnn.network import Network
from distcnn.system.files import read_bytes, reading, write_atomically
from distcnn.system.json_values import from_json, to_json

RESULT, SHA256SUMS = "result.json", "SHA256SUMS"
CONFIG, METRICS, RECEIPT = "config.toml", "metrics.jsonl", "receipt.jsonl"
METRICS_TABLE = "metrics.csv"
TIMINGS, ENVIRONMENT = "timings.jsonl", "environment.jsonl"
"""Of a portable run: what depends on the machine, and so is not in metrics and receipt."""
ALL_FILES = (
    CONFIG,
    METRICS,
    METRICS_TABLE,
    RECEIPT,
    TIMINGS,
    ENVIRONMENT,
    RESULT,
    WEIGHTS,
    BEST_WEIGHTS,
    INITIAL_WEIGHTS,
)
"""Those of which ``SHA256SUMS`` has the hashes."""
IDENTITY = ("name", "source", "sha256", "content_sha256", "train_examples", "test_examples")


OPTIONAL = (
    "validation_examples",
    "validation_loss",
    "validation_accuracy",
    "best_validation_accuracy",
    "stopped_early",
    "arithmetic",
    "spot_checks",
)
"""What ``result.json`` has only where it is not None."""


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """The image set of a run, as its result records it.

    ``mean`` and ``std`` are per channel, of inputs (pixel / 255 - mean) / std; ``image_shape`` is
    (channels, height, width).
    """

    name: str
    path: str = ""
    source: str = ""
    sha256: str = ""
    content_sha256: str
    classes: int = 0
    class_names: tuple[str, ...] = ()
    image_shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    train_examples: int
    """Without those that are held out for validation."""
    test_examples: int = 0
    validation_examples: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What does not change when the file moves, for checkpoints and the receipt."""
        values = {name: getattr(self, name) for name in IDENTITY}
        if self.validation_examples is not None:
            values["validation_examples"] = self.validation_examples
        return values


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a finished run. Accuracies are fractions, losses means over examples.

    Attributes:
        model: the network's name, or the user's own as package.module:function.
        architecture: the network as text (``distcnn.architecture``); empty where text cannot tell
            it.
        parameters: the number of parameters.
        test_accuracy, test_correct, test_loss: after the last step.
        test_examples: in the test set.
        train_loss: over the last epoch, or the part of it that was trained.
        params_sha256: the hash of the last weights, equal for equal bits.
        receipt_sha256: the hash of the receipt's last line, which stands for all lines; empty where
            nothing was written.
        epochs: complete ones; a last partial epoch is not counted.
        steps: all that were taken.
        best_step: the step after which the accuracy on the validation set was best, or without one
            on the test set: the first of equals.
        best_test_accuracy: after ``best_step``; 0 if the weights were lost before they were tested.
        validation_examples: in the validation set; this and the next three are None without one.
        validation_loss, validation_accuracy: after the last step.
        best_validation_accuracy: after ``best_step``.
        stopped_early: whether ``patience`` ended the run; None without it.
        spot_checks: shards that another rank has repeated, all with the same result; None without
            ``spot_check``.
        target_accuracy, target_reached: None without a target.
        seconds_to_target: from the start of the first step, tests included; None if not reached.
        world_size: the ranks that the run began on.
        num_shards, microbatch_size, seed, reduction: as configured.
        arithmetic: "portable", or None for native.
        images_per_second: of all ranks together, over ``train_seconds``.
        train_seconds: that the steps took, without tests and checkpoints.
        test_seconds: that the tests took.
        bookkeeping_seconds: that hashes, ledger and checkpoints took beside the steps.
        dataset: the image set.
        output: the run directory; empty where nothing was written.
        network: the trained network, for prediction: of a result that ``Trainer.fit`` returned.
    """

    model: str = ""
    architecture: str = ""
    parameters: int = 0
    test_accuracy: float
    test_correct: int
    test_examples: int
    test_loss: float
    train_loss: float
    params_sha256: str
    receipt_sha256: str = ""
    epochs: int = 0
    steps: int
    best_step: int
    best_test_accuracy: float = 0.0
    validation_examples: int | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    best_validation_accuracy: float | None = None
    stopped_early: bool | None = None
    spot_checks: int | None = None
    target_accuracy: float | None = None
    target_reached: bool | None = None
    seconds_to_target: float | None = None
    world_size: int = 1
    num_shards: int = 0
    microbatch_size: int = 0
    seed: int = 0
    reduction: str = ""
    arithmetic: str | None = None
    images_per_second: float = 0.0
    train_seconds: float = 0.0
    test_seconds: float = 0.0
    bookkeeping_seconds: float = 0.0
    dataset: DatasetRecord
    output: str = ""
    network: Network | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        left_out = {"network", "output"}  # of this process, not of the run
        left_out |= {name for name in ("architecture", "receipt_sha256") if not getattr(self, name)}
        if self.target_accuracy is None:
            left_out |= {"target_accuracy", "target_reached", "seconds_to_target"}
        left_out |= {name for name in OPTIONAL if getattr(self, name) is None}
        values = to_json(dataclasses.replace(self, network=None))
        if self.dataset.validation_examples is None:
            del values["dataset"]["validation_examples"]
        return {name: value for name, value in values.items() if name not in left_out}

    @property
    def choosing_accuracy(self) -> float:
        """After the last step, on the set that chooses: ``choosing_split``."""
        return self.test_accuracy if self.validation_accuracy is None else self.validation_accuracy

    @property
    def best_choosing_accuracy(self) -> float:
        """After ``best_step``, on the set that chooses."""
        best = self.best_validation_accuracy
        return self.best_test_accuracy if best is None else best

    @property
    def choosing_split(self) -> str:
        """The set that chooses the best weights and ends runs: "validation", else "test"."""
        return "test" if self.validation_accuracy is None else "validation"

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunResult:
        """The result in ``result.json``; an older one has defaults where it lacks a value."""
        return from_json(cls, {**values, "output": "", "network": None})


def weights_attributes(result: RunResult, best: bool = False) -> dict[str, Any]:
    """The attributes of the file with the last weights, or with the ``best``."""
    dataset, validation_accuracy = to_json(result.dataset), result.validation_accuracy
    step, test_accuracy = result.steps, result.test_accuracy
    if best:
        step, test_accuracy = result.best_step, result.best_test_accuracy
        validation_accuracy = result.best_validation_accuracy
    return {
        "model": result.model,
        "step": step,
        "test_accuracy": test_accuracy,
        **({} if validation_accuracy is None else {"validation_accuracy": validation_accuracy}),
        **{name: dataset[name] for name in ("image_shape", "mean", "std", "class_names")},
        "microbatch_size": result.microbatch_size,
        **({"arithmetic": result.arithmetic} if result.arithmetic else {}),
        **({"architecture": result.architecture} if result.architecture else {}),
    }


def write_results(folder: Path, result: RunResult, weights: bytes, best: bytes | None) -> None:
    """Write weights, checksums (of the files written before, too) and the summary."""
    files = {WEIGHTS: weights, **({} if best is None else {BEST_WEIGHTS: best})}
    for name, content in files.items():
        write_atomically(folder / name, content)
    if best is None:
        (folder / BEST_WEIGHTS).unlink(missing_ok=True)  # of an earlier, shorter run
    names = [CONFIG, METRICS, METRICS_TABLE, RECEIPT]
    optional = TIMINGS, ENVIRONMENT, INITIAL_WEIGHTS
    names += [name for name in optional if os.path.lexists(folder / name)]
    files |= {name: read_bytes(folder / name) for name in names}
    files[RESULT] = (json.dumps(result.to_json(), indent=2) + "\n").encode()
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
    write_atomically(folder / SHA256SUMS, "".join(sums).encode())
    write_atomically(folder / RESULT, files[RESULT])  # the last: where it is, the run is over


def read_result(folder: Path) -> RunResult:
    """The result of the finished run in ``folder``. ``InputError`` if there is none, or damage."""
    with reading(RESULT, TypeError, ValueError, RecursionError):
        return RunResult.from_json(json.loads(read_bytes(folder / RESULT)))


def damage_of(folder: Path, may_lack: Collection[str] = ()) -> str | None:
    """The first file that does not match ``SHA256SUMS``, as text; None if there are no sums.

    Those that it ``may_lack`` may be missing.
    """
    if not os.path.lexists(folder / SHA256SUMS):
        return None
    try:
        with reading(SHA256SUMS, ValueError):
            lines = read_bytes(folder / SHA256SUMS).decode().splitlines()
            listed = {name: sha256 for sha256, name in (line.split("  ") for line in lines)}
        for name in ALL_FILES:
            is_there = os.path.lexists(folder / name)
            if name in listed and not is_there and name not in may_lack:
                return f"{name} is missing, although {SHA256SUMS} lists it"
            if is_there:
                with reading(name):
                    sha256 = hashlib.sha256(read_bytes(folder / name)).hexdigest()
                if sha256 != listed.get(name):
                    what = f"its SHA-256 does not match {SHA256SUMS}"
                    return f"{name} is damaged or was edited: {what}"
    except InputError as error:
        return str(error)
    return None
