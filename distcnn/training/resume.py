"""Where a run is resumed: its configuration and its latest intact checkpoint.

Root reads them, and sends them to all ranks.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint, CheckpointStore
from distcnn.config import FREE, Config, as_flag
from distcnn.config_parsing import Request
from distcnn.errors import InputError
from distcnn.system.files import read_bytes
from distcnn.system.wording import counted
from distcnn.training.checkpointing import read_snapshot
from distcnn.training.receipt import read_receipt, readable_lines, sources_in_force
from distcnn.training.results import CONFIG, RECEIPT, RESULT, RunResult, damage_of, read_result
from distcnn.training.run_directory import CHECKPOINTS
from distcnn.training.run_files import read_config
from distcnn.training.schedule import RunSchedule
from distcnn.user_code import ACCEPT_FLAG, require_trust
from distcnn.user_source import Sources, compare_sources

Report = Callable[[str], None]


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues: at ``checkpoint``, or at its first step if none is intact.

    ``result`` is that of a finished run.
    """

    directory: Path
    in_place: bool
    """Whether the run continues in ``directory``, not in another --output."""
    config: Config
    checkpoint: Checkpoint | None
    result: RunResult | None


def find_resume_point(request: Request, report: Report) -> ResumePoint:
    """What ``--resume`` finds. ``InputError`` when there is no run, or when flags contradict it."""
    directory, in_place = existing_run(request.resume), is_in_place(request)
    stored, checkpoint = read_stored(directory, lambda text: None, set_aside=False)
    config = merged_config(stored, request, directory)
    result = finished_result(directory, config, report, checkpoint)
    if result is None or "data" in request.given:  # otherwise nothing is imported
        require_trust(config.own_code, directory, request.given, request.trust_model)
    if checkpoint and result is None:
        done, dataset = checkpoint.step, read_snapshot(checkpoint).dataset
        if RunSchedule(config, dataset.train_examples).total_steps < done:
            raise InputError(
                f"--resume: {directory} has already taken {counted(done, 'step')}, more than"
                " --epochs and --max-steps allow now: raise them"
            )
    # What is refused above has changed nothing; now damaged checkpoints are set aside.
    _, checkpoint = read_stored(directory, report, set_aside=in_place)
    return ResumePoint(directory, in_place, config, checkpoint, result)


def existing_run(path: str) -> Path:
    """``path`` as a run directory. ``InputError`` when it holds no run."""
    directory = Path(path)
    if os.path.isfile(directory):  # noqa: PTH113
        problem = "is a file"
        remedy = f"name the run directory that holds it{_run_around(directory)}"
    elif os.path.lexists(directory) and not os.access(directory, os.R_OK | os.X_OK):
        problem, remedy = "may not be read", "check its permissions"
    elif not os.path.isdir(directory):  # noqa: PTH112
        problem = "is not a folder"
        remedy = "name a run directory (--output, else runs/<model>-<time>)"
    elif (directory / CONFIG).exists() or CheckpointStore(directory / CHECKPOINTS).steps():
        return directory
    else:
        problem = f"holds no run (neither {CONFIG} nor checkpoints)"
        remedy = "name the directory of a run"
    raise InputError(f"--resume: {directory} {problem}: {remedy}")


def _run_around(file: Path) -> str:
    """A remark on the nearest folder above ``file`` that holds a run; empty where none does."""
    run = next((each for each in list(file.parents)[:2] if os.path.exists(each / CONFIG)), None)  # noqa: PTH110
    return f", {run}" if run else ""


def is_in_place(request: Request) -> bool:
    """Whether the resumed run writes where it did before."""
    output = request.given.get("output")
    return not output or Path(output).resolve() == Path(request.resume).resolve()


def read_stored(
    directory: Path, report: Report, at_most: int | None = None, set_aside: bool = True
) -> tuple[Config, Checkpoint | None]:
    """The run's configuration and its latest intact checkpoint (of a step up to ``at_most``).

    The configuration is that of ``config.toml``, which has the flags of the last resume; where it
    cannot be read, the checkpoint's.
    """
    checkpoint = CheckpointStore(directory / CHECKPOINTS).newest(report, at_most, set_aside)
    saved = read_snapshot(checkpoint).config if checkpoint else None
    try:
        stored = read_config(directory)
    except InputError as error:
        if saved is None:
            raise InputError(
                f"{error}; and there is no complete checkpoint with the configuration: start a"
                " new run"
            ) from error
        report(f"warning: {error}: using the configuration in the checkpoint")
        return saved, checkpoint
    if saved and (changed := contradictions(saved, dataclasses.asdict(stored))):
        raise InputError(
            f"{directory / CONFIG} was changed since the checkpoint was made: {'; '.join(changed)}:"
            " undo that"
        )
    return stored, checkpoint


def merged_config(stored: Config, request: Request, directory: Path) -> Config:
    """The stored configuration with the flags given now.

    ``InputError`` names all that contradict it.
    """
    if contradicting := contradictions(stored, request.given):
        raise InputError(
            f"--resume: the run in {directory} has other settings: {'; '.join(contradicting)}:"
            " leave them out, or start a new run (only these may change: epochs, output, how often"
            " to log, test and save, time-outs, tracing, and the path of the same data)"
        )
    here = {"expect_ranks": 0, "source": ""}  # settings of another start, not of the run
    return dataclasses.replace(stored, **{**here, **request.given})


def contradictions(stored: Config, given: dict[str, Any]) -> list[str]:
    """The fixed fields with another value in ``given``, as text."""
    return [
        f"{as_flag(name)} {value} (the run has {getattr(stored, name)})"
        for name, value in given.items()
        if name not in FREE.split() and value != getattr(stored, name)
    ]


def finished_result(
    directory: Path, config: Config, report: Report, checkpoint: Checkpoint | None
) -> RunResult | None:
    """The result of a run that is finished under ``config`` and has intact files; else None.

    Raises:
        InputError: there is a result, but the run must continue or be written again, and there is
            no checkpoint to do so from.
    """
    if not os.path.lexists(directory / RESULT):
        return None
    damage = damage_of(directory)
    if damage is None:
        result = read_result(directory)
        total_steps = RunSchedule(config, result.dataset.train_examples).total_steps
        reached = 0 < config.target_accuracy <= result.test_accuracy and result.steps < total_steps
        if reached or result.steps == total_steps:
            return result
    if checkpoint is None:
        raise InputError(
            f"--resume: {directory} holds a finished run{f', but {damage}' if damage else ''};"
            " there is no complete checkpoint to continue from: start a new run"
        )
    if damage:
        report(
            f"warning: {directory}: {damage}: writing the results again from the latest checkpoint"
        )
    return None


def changed_lengths(directory: Path, step: int, config: Config) -> str:
    """A warning when steps after ``step`` were taken before at other learning rates, because
    --epochs was changed by a resume whose checkpoints are lost; else an empty text.
    """
    try:
        receipt = read_receipt(directory)
        schedule = RunSchedule(config, receipt.lines[0]["dataset"]["train_examples"])
        later = (line["step"] for line in receipt.starts if line["step"] > step)
        configs = [receipt.configuration_at(start) for start in (step, *later)]
        schedules = [RunSchedule(each, schedule.train_examples) for each in configs]
        others = {each.config.epochs for each in schedules if not each.has_rates_of(schedule)}
    except (InputError, LookupError, TypeError, ArithmeticError):
        return ""  # those steps are unknown, or their lines cannot be read
    if step >= receipt.last_step or not others:
        return ""
    return (
        f"warning: steps {step + 1} to {receipt.last_step} were taken before with --epochs"
        f" {', '.join(map(str, sorted(others)))}, and are taken again with --epochs"
        f" {config.epochs}: learning rates and weights differ from those before"
    )


def check_model(point: ResumePoint, now: Sources, accepted: bool, report: Report) -> None:
    """Compare the source of the user's own code with what the run was trained with.

    Comments and layout may differ, which is reported.

    Raises:
        InputError: the code differs, and that is not ``accepted``.
    """
    recorded = sources_in_force(readable_lines(_receipt_text(point)))
    if recorded is None or not now:
        return
    changes = compare_sources(recorded, now)
    source = f"source of model {point.config.model!r}"
    if changes.code and not accepted:
        raise InputError(
            f"--resume: the {source} was edited since the run in {point.directory} used it:"
            f' {changes}: undo that ({RECEIPT} has the whole source, under "model_sources"), or'
            f" continue with the new code: {ACCEPT_FLAG}"
        )
    if changes.code:
        report(f"warning: the {source} was edited, so bits differ from here on: {changes}")
    elif changes.layout:
        report(f"warning: comments or layout in the {source} were edited: {changes}")


def _receipt_text(point: ResumePoint) -> str:
    """The receipt as of the checkpoint, else of the file."""
    if point.checkpoint:
        return point.checkpoint.texts["receipt"]
    with suppress(OSError):
        return read_bytes(point.directory / RECEIPT).decode(errors="replace")
    return ""
