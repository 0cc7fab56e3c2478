"""Opening a run directory: a new one, or that of a resumed run, in place or elsewhere."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack, suppress
from pathlib import Path

from distcnn.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.training.checkpointing import dataset_identity, read_snapshot
from distcnn.training.fingerprint import differences
from distcnn.training.progress import Progress
from distcnn.training.results import RESULT, SUMS
from distcnn.training.resume import ResumePoint, changed_lengths
from distcnn.training.run_directory import CHECKPOINTS, RunDirectory, create_run_directory
from distcnn.training.run_files import write_config
from distcnn.training.setup import Run
from distcnn.training.state import State


def open_directory(
    config: Config, point: ResumePoint | None, held: ExitStack, any_owner: bool = False
) -> Path:
    """The folder to write to, its configuration stored, locked until ``held`` closes.

    ``InputError`` when it cannot be written.
    """
    if point is None or not point.in_place:
        return create_run_directory(config, held, _carried(config, point), any_owner)
    path = point.directory
    try:
        write_config(path, config)
        if (path / RESULT).exists():  # from fewer epochs than the run has now, or damaged
            step = point.checkpoint.step if point.checkpoint else 0
            (path / RESULT).rename(path / f"result-until-step-{step}.json")
        (path / SUMS).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"--resume: {path} cannot be written ({error.strerror}): free some space, or name"
            " another folder with --output"
        ) from error
    return path


def _carried(config: Config, point: ResumePoint | None) -> dict[int, Checkpoint]:
    """The checkpoints that a new folder needs to be resumed: where it begins, and the best."""
    if point is None or point.checkpoint is None:
        return {}
    found = {point.checkpoint.step: point.checkpoint}
    best = read_snapshot(point.checkpoint).state.best_step
    if best is not None and best not in found:
        # If it cannot be read, the end of the run reports that it is missing.
        with suppress(CheckpointError, InputError):
            found[best] = CheckpointStore(point.directory / CHECKPOINTS).load(best)
    configuration = json.dumps(dataclasses.asdict(config))
    return {
        step: dataclasses.replace(each, texts={**each.texts, "configuration": configuration})
        for step, each in found.items()
    }


def begin_records(
    run: Run,
    state: State,
    path: Path,
    point: ResumePoint | None,
    progress: Progress,
    held: ExitStack,
) -> RunDirectory:
    """Restore the directory's files to the checkpoint, and note this start in the receipt."""
    directory = RunDirectory(path, run.config, progress.say, held)
    checkpoint = point.checkpoint if point else None
    software = read_snapshot(checkpoint).software if checkpoint else run.software
    if point:
        if not checkpoint:
            progress.say(
                f"{point.directory} has no complete checkpoint: the run starts again from its first"
                " step"
            )
        if changed := changed_lengths(point.directory, state.step, run.config):
            progress.say(changed)
        directory.metrics.restore(checkpoint.texts["metrics"] if checkpoint else "")
        directory.receipt.restore(checkpoint.texts["receipt"] if checkpoint else "")
    if changes := differences(software, run.software):
        progress.say(
            "warning: the run was started with other software or on another processor; its bits"
            f" may differ from here on: {'; '.join(changes)}"
        )
    directory.add_receipt(
        "resume" if checkpoint else "start",
        state.step,
        world_size=run.communicator.world_size,
        configuration=dataclasses.asdict(run.config),
        dataset=dataset_identity(run),
        software=run.software,
        **({"model_sources": run.model_sources} if run.model_sources else {}),
    )
    return directory
