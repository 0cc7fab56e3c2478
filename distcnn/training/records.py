"""Opening a run directory: a new one, one that is resumed in place, or a new one that a resumed run goes on in."""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.training.fingerprint import differences
from distcnn.training.progress import Progress
from distcnn.training.resume import ResumePoint
from distcnn.training.run_directory import RESULT, RunDirectory, create_run_directory, locked, write_config
from distcnn.training.setup import Run
from distcnn.training.snapshot import dataset_identity
from distcnn.training.state import State


def open_directory(config: Config, point: ResumePoint | None, held: ExitStack) -> Path:
    """The folder to write to, its configuration stored, locked until ``held`` closes. ``InputError`` when it cannot be written."""
    if point is None or not point.in_place:
        path = create_run_directory(config)
        held.enter_context(locked(path))
        return path
    path = point.directory
    try:
        write_config(path, config)
        if (path / RESULT).exists():  # of fewer epochs than the run has now, or damaged
            (path / RESULT).rename(path / f"result-until-step-{point.checkpoint.attributes['step'] if point.checkpoint else 0}.json")
    except OSError as error:
        raise InputError(
            f"--resume: {path} cannot be written ({error.strerror}): make room, or give another folder with --output"
        ) from error
    return path


def begin_records(run: Run, state: State, path: Path, point: ResumePoint | None, progress: Progress) -> RunDirectory:
    """The directory's files as they were at the checkpoint, and a line in the receipt on this start."""
    directory = RunDirectory(path, progress.say)
    checkpoint = point.checkpoint if point else None
    if checkpoint:
        directory.metrics.restore(checkpoint.texts["metrics"])
        directory.receipt.restore(checkpoint.texts["receipt"])
        changed = differences(json.loads(checkpoint.texts["software"]), run.software)
        if changed:
            progress.say(
                f"warning: the run began on other software or another processor; its bits may differ from here on: {'; '.join(changed)}"
            )
    elif point:
        directory.metrics.restore("")
        directory.receipt.restore("")
        progress.say(f"{point.directory} has no checkpoint that is whole: the run begins again from its first step")
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
