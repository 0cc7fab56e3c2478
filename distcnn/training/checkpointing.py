"""Checkpoints of a run: when they are taken, what they hold, and how a run is restored.

Taking one is collective on all ranks; root writes it in the background.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import distcnn
from distcnn.checkpoints import Checkpoint, CheckpointStore, CheckpointWriter
from distcnn.checkpoints.weights import Arrays
from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.spans import CHECKPOINT, WAIT_FOR_CHECKPOINT, Span
from distcnn.system.json_values import from_json
from distcnn.system.wording import counted
from distcnn.training.ledger import Entry, all_entries
from distcnn.training.progress import Progress
from distcnn.training.results import DatasetRecord
from distcnn.training.run_directory import CHECKPOINTS, RunDirectory
from distcnn.training.setup import Run
from distcnn.training.state import State

EXAMPLES_USED = "shards/examples_used"
IDENTITY = ("name", "source", "sha256", "content_sha256", "train_examples", "test_examples")


class Saving:
    """Saves ``run``; ``directory`` is root's, None on the other ranks."""

    def __init__(self, run: Run, directory: RunDirectory | None, progress: Progress) -> None:
        self._run, self._directory = run, directory
        self.every = run.config.checkpoint_every
        if directory is not None:
            self._writer = CheckpointWriter(
                CheckpointStore(directory.path / CHECKPOINTS), run.config.keep, progress.say
            )

    @property
    def location(self) -> str:
        """The run directory, on root; elsewhere empty."""
        return str(self._directory.path) if self._directory else ""

    def save(self, state: State) -> None:
        """Copy the state on root and begin to write it. Collective."""
        run, directory = self._run, self._directory
        with Span(CHECKPOINT, step=state.step):
            entries = all_entries(run.step.ledger, run.communicator, run.config.num_shards)
            if directory is not None:
                lines = directory.metrics.text, directory.receipt.text
                snapshot = take_snapshot(run, state, entries, *lines)
                if state.best_step == state.step:
                    directory.best = state.step, snapshot.folder("weights")
                self._follow(directory)
                self._writer.submit(state.step, snapshot, state.best_step)

    def poll(self) -> None:
        """Report the outcome of the last save, if it is done."""
        if self._directory is not None:
            self._writer.poll()

    def wait(self) -> int:
        """Wait until all is written; the latest step on the disk, -1 for none. Collective."""
        newest = -1
        with Span(WAIT_FOR_CHECKPOINT):
            if self._directory is not None:
                self._writer.wait()
                self._follow(self._directory)
                newest = self._writer.last_step
            return self._run.communicator.broadcast(newest)

    def _follow(self, directory: RunDirectory) -> None:
        # If it is gone, the writer reports that it cannot write.
        with suppress(OSError, InputError):
            self._writer.move_to(CheckpointStore(directory.locate() / CHECKPOINTS))


class NoSaving:
    """For a replay, which writes nothing."""

    every, location = 0, ""

    def save(self, state: State) -> None: ...

    def poll(self) -> None: ...

    def wait(self) -> int:
        return -1


def take_snapshot(
    run: Run, state: State, entries: Sequence[Entry], metrics: str, receipt: str
) -> Checkpoint:
    """A copy of the state of the run, with the lines of its files so far."""
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
        "optimizer_steps": run.step.optimizer.steps,
    }
    records = {
        "configuration": dataclasses.asdict(run.config),
        "dataset": dataset_identity(run),
        "software": run.software,
        "state": state.to_json(),
        "orders_sha256": [entry.order_sha256 for entry in entries],
    }
    texts = {name: json.dumps(record) for name, record in records.items()}
    return Checkpoint(attributes, {**texts, "metrics": metrics, "receipt": receipt}, arrays)


def _vectors(run: Run) -> dict[str, NDArray[np.float32]]:
    """The flat vectors that a checkpoint holds, by the folder of their named parts."""
    optimizer = {f"optimizer/{name}": vector for name, vector in run.step.optimizer.state.items()}
    return {"weights": run.parameters.values, **optimizer}


@dataclass(frozen=True)
class Snapshot:
    """The texts of a checkpoint, read."""

    config: Config
    state: State
    dataset: DatasetRecord
    software: dict[str, str]
    orders_sha256: list[str]


def read_snapshot(checkpoint: Checkpoint) -> Snapshot:
    """The texts of a checkpoint. ``InputError`` unless all that ``take_snapshot`` puts in is there
    and of the right type: a SHA-256 can be forged.
    """
    try:
        records = {
            name: json.loads(text)
            for name, text in checkpoint.texts.items()
            if name not in ("metrics", "receipt")
        }
        config = Config.from_record(records["configuration"])
        state = State.from_json(records["state"])
        dataset = from_json(DatasetRecord, records["dataset"])
        software, orders = records["software"], records["orders_sha256"]
        used = checkpoint.arrays[EXAMPLES_USED]
        sound = {
            "state": state.is_sound and state.step == checkpoint.step,
            "dataset": dataset.train_examples > 0,
            "software": isinstance(software, dict),
            "orders_sha256": isinstance(orders, list) and len(orders) == config.num_shards,
            "examples_used": used.shape == (config.num_shards,) and used.dtype.kind == "i",
            "optimizer_steps": isinstance(checkpoint.attributes["optimizer_steps"], int),
            "metrics and receipt": {"metrics", "receipt"} <= checkpoint.texts.keys(),
        }
        if wrong := [name for name, is_right in sound.items() if not is_right]:
            raise ValueError(wrong[0])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"the checkpoint of step {checkpoint.attributes.get('step')} has unexpected content"
            f" ({type(error).__name__}: {error}): move it away to continue from the one before"
        ) from error
    return Snapshot(config, state, dataset, software, orders)


def restore_snapshot(run: Run, checkpoint: Checkpoint) -> State:
    """Put the checkpoint into the run, on every rank, and prove that it belongs there.

    ``InputError`` if the image set or the network is another one, or the examples used so far are
    not those that this run would have used.
    """
    read = read_snapshot(checkpoint)
    check_dataset(read.dataset, run)
    for folder, vector in _vectors(run).items():
        _fill(run.parameters.named(vector), checkpoint.folder(folder), folder)
    optimizer, ledger = run.step.optimizer, run.step.ledger
    optimizer.steps = int(checkpoint.attributes["optimizer_steps"])
    ledger.replay(*run.schedule.position(read.state.step), run.config.microbatch_size)
    used = checkpoint.arrays[EXAMPLES_USED].tolist()
    for entry in all_entries(ledger, run.communicator, run.config.num_shards):
        before = used[entry.shard]
        if (entry.used, entry.order_sha256) != (before, read.orders_sha256[entry.shard]):
            chunks = ", and with a file of the same chunks (--data-memory)"
            raise InputError(
                f"checkpoint of step {read.state.step}: shard {entry.shard} had used"
                f" {counted(before, 'example')}, in an order that this distcnn does not draw"
                f" ({entry.used} used): resume with the software that began the run, distcnn"
                f" {checkpoint.attributes['distcnn']}{chunks if run.config.data_memory else ''}"
            )
    return read.state


def dataset_identity(run: Run) -> dict[str, Any]:
    """The identity of the image set, without paths."""
    return {name: getattr(run.record, name) for name in IDENTITY}


def check_dataset(recorded: DatasetRecord, run: Run) -> None:
    """``InputError`` unless the run's examples are the recorded ones."""
    now, before = run.record.content_sha256, recorded.content_sha256
    if now != before:
        raise InputError(
            f"--data: {run.dataset.path} is not the image set the run was started with (SHA-256 of"
            f" its examples {now}, not {before}): name the set {recorded.name!r} of"
            f" {counted(recorded.train_examples, 'training example')}"
        )


def _fill(views: Arrays, stored: Arrays, folder: str) -> None:
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
