"""What a run leaves behind; what its checkpoints hold, and how it is restored from one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import distcnn
from distcnn.checkpoints import Checkpoint
from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.nn import Parameters
from distcnn.system.json_values import from_json
from distcnn.system.wording import counted
from distcnn.training.ledger import Entry, all_entries
from distcnn.training.receipt import MALFORMED, Receipt, parse_receipt, whole_lines
from distcnn.training.results import DatasetRecord, RunResult
from distcnn.training.setup import Run
from distcnn.training.state import State

EXAMPLES_USED = "shards/examples_used"
CHECKPOINT_TEXTS = ("configuration", "dataset", "software", "state", "orders_sha256")
"""The texts in JSON; ``metrics``, ``receipt`` and ``timings`` have the lines of these files."""


class RunRecorder:
    """Records what a run leaves behind. This base class, for non-root ranks, keeps nothing."""

    location: Path | None = None
    """The run directory, where there is one."""

    def add_metrics(self, kind: str, **values: Any) -> None:
        """Take a line for people and plots, of the ``kind`` "step" or "epoch"."""

    def add_receipt(self, kind: str, step: int, **values: Any) -> None:
        """Take a line on the state after ``step`` steps, which a replay must reproduce."""

    @property
    def receipt_sha256(self) -> str:
        """The hash of the receipt so far; empty where there is none."""
        return ""

    def save(self, run: Run, state: State, entries: Sequence[Entry]) -> None:
        """Copy the state, and the ledger's ``entries``, and begin to write a checkpoint."""

    def wait(self) -> int:
        """Wait until all is written; the step of the latest checkpoint, -1 for none."""
        return -1

    def finish(self, parameters: Parameters, result: RunResult) -> None:
        """The run is over."""


def make_checkpoint(
    run: Run, state: State, entries: Sequence[Entry], lines: Mapping[str, str]
) -> Checkpoint:
    """A checkpoint with a copy of the state of the run, and the ``lines`` of its files so far."""
    epoch, step_of_epoch = run.schedule.position(state.step)
    arrays: dict[str, NDArray[np.generic]] = {
        f"{folder}/{name}": view.copy()
        for folder, vector in _vectors(run).items()
        for name, view in run.parameters.named(vector).items()
    }
    arrays[EXAMPLES_USED] = np.array([entry.used for entry in entries], np.int64)
    attributes: dict[str, int | str] = {
        "distcnn": distcnn.__version__,
        "model": run.config.model,
        "seed": str(run.config.seed),
        "step": state.step,
        "epoch": epoch,
        "step_of_epoch": step_of_epoch,
        "optimizer_steps": run.training_step.updater.steps_taken,
    }
    values = {
        "configuration": dataclasses.asdict(run.config),
        "dataset": run.dataset_record.identity,
        "software": run.software,
        "state": state.to_json(),
        "orders_sha256": [entry.order_sha256 for entry in entries],
    }
    texts = {name: json.dumps(value) for name, value in values.items()}
    return Checkpoint(attributes, {**texts, **lines}, arrays)


def _vectors(run: Run) -> dict[str, NDArray[np.float32]]:
    """The flat vectors that a checkpoint holds, by the folder of their named parts."""
    state = run.training_step.updater.state
    optimizer = {f"optimizer/{name}": vector for name, vector in state.items()}
    return {"weights": run.parameters.values, **optimizer}


@dataclass(frozen=True)
class ParsedCheckpoint:
    """The texts of a checkpoint, read."""

    config: Config
    state: State
    dataset: DatasetRecord
    software: dict[str, str]
    orders_sha256: list[str]
    receipt: Receipt


def parse_checkpoint(checkpoint: Checkpoint) -> ParsedCheckpoint:
    """The texts of a checkpoint, if they are as in ``make_checkpoint``: a SHA-256 can be forged."""
    try:
        read = {name: json.loads(checkpoint.texts[name]) for name in CHECKPOINT_TEXTS}
        config = Config.from_record(read["configuration"])
        state = State.from_json(read["state"])
        dataset = from_json(DatasetRecord, read["dataset"])
        software, orders = read["software"], read["orders_sha256"]
        used, lines = checkpoint.arrays[EXAMPLES_USED], checkpoint.texts["receipt"]
        receipt = parse_receipt(lines) if lines else Receipt([])
        sound = {
            "state": state.is_sound and state.step == checkpoint.step,
            "dataset": dataset.train_examples > 0,
            "software": isinstance(software, dict),
            "orders_sha256": isinstance(orders, list) and len(orders) == config.num_shards,
            "examples_used": used.shape == (config.num_shards,) and used.dtype.kind == "i",
            "optimizer_steps": isinstance(checkpoint.attributes["optimizer_steps"], int),
            "receipt": not receipt.problem,
            "metrics": all(
                isinstance(line, dict) for line in whole_lines(checkpoint.texts["metrics"])
            ),
        }
        if wrong := [name for name, is_right in sound.items() if not is_right]:
            raise ValueError(wrong[0])
    except MALFORMED as error:
        raise InputError(
            f"the checkpoint of step {checkpoint.attributes.get('step')} has unexpected content"
            f" ({type(error).__name__}: {error}): move it away to continue from the one before"
        ) from error
    return ParsedCheckpoint(config, state, dataset, software, orders, receipt)


def restore_checkpoint(run: Run, checkpoint: Checkpoint) -> State:
    """Put the checkpoint into the run, on every rank, and prove that it belongs there."""
    parsed = parse_checkpoint(checkpoint)
    check_dataset(parsed.dataset, run)
    updater, ledger = run.training_step.updater, run.training_step.ledger
    vectors = {folder: stored_vector(run, checkpoint, folder) for folder in _vectors(run)}
    run.parameters.assign(vectors["weights"])
    updater.restore(
        {name: vectors[f"optimizer/{name}"] for name in updater.state},
        int(checkpoint.attributes["optimizer_steps"]),
    )
    ledger.replay(*run.schedule.position(parsed.state.step), run.config.microbatch_size)
    used = checkpoint.arrays[EXAMPLES_USED].tolist()
    for entry in all_entries(ledger, run.communicator, run.config.num_shards):
        before = used[entry.shard]
        if (entry.used, entry.order_sha256) != (before, parsed.orders_sha256[entry.shard]):
            chunks = ", and with a file of the same chunks (--data-memory)"
            raise InputError(
                f"checkpoint of step {parsed.state.step}: shard {entry.shard} had used"
                f" {counted(before, 'example')}, in an order that this distcnn does not draw"
                f" ({entry.used} used): resume with the software that began the run, distcnn"
                f" {checkpoint.attributes['distcnn']}{chunks if run.config.data_memory else ''}"
            )
    return parsed.state


def check_dataset(recorded: DatasetRecord, run: Run) -> None:
    """``InputError`` unless the run's examples are the recorded ones."""
    now, before = run.dataset_record.content_sha256, recorded.content_sha256
    if now != before:
        raise InputError(
            f"--data: {run.dataset.path} is not the image set the run was started with (SHA-256 of"
            f" its examples {now}, not {before}): name the set {recorded.name!r} of"
            f" {counted(recorded.train_examples, 'training example')}"
        )


def stored_vector(run: Run, checkpoint: Checkpoint, folder: str) -> NDArray[np.float32]:
    """The flat vector whose named parts are in ``folder``, if they are those of the network."""
    vector = np.empty_like(run.parameters.values)
    views, stored = run.parameters.named(vector), checkpoint.folder(folder)
    ours, theirs = (
        {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
        for arrays in (views, stored)
    )
    if ours != theirs:
        raise InputError(
            f"the checkpoint's {folder} are {theirs}, but the network's are {ours}: the model's"
            " code has changed since the run"
        )
    for name, view in views.items():
        view[...] = stored[name]
    return vector
