"""Where a run is resumed, its configuration and latest intact checkpoint, and its new records."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn.checkpoints import Checkpoint, CheckpointError, CheckpointStore
from distcnn.checkpoints.weights import INITIAL_WEIGHTS
from distcnn.config import Config, as_flag
from distcnn.config_parsing import Request
from distcnn.errors import InputError
from distcnn.system.files import explaining
from distcnn.system.wording import counted
from distcnn.training import results
from distcnn.training.checkpointing import parse_checkpoint
from distcnn.training.initial import InitialWeights
from distcnn.training.receipt import MALFORMED, parse_receipt, read_receipt
from distcnn.training.results import CONFIG, RECEIPT, RunResult
from distcnn.training.run_directory import CHECKPOINTS, create_run_directory
from distcnn.training.run_files import Report, read_config, write_config
from distcnn.training.schedule import RunSchedule
from distcnn.user_code import ACCEPT_FLAG, Sources, compare_sources, require_trust


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues: at ``checkpoint``, or at its first step if none is intact."""

    directory: Path
    in_place: bool
    """Whether the run continues in ``directory``, not in another --output."""
    config: Config
    checkpoint: Checkpoint | None
    result: RunResult | None
    """Of a finished run."""


def find_resume_point(request: Request, report: Report) -> ResumePoint:
    """What ``--resume`` finds. ``InputError`` when there is no run, or when flags contradict it."""
    directory, in_place = existing_run(request.resume), is_in_place(request)
    stored, checkpoint = read_stored(directory, lambda text: None, set_aside=False)
    config = merged_config(stored, request, directory)
    result = _finished_result(directory, stored, config, report, checkpoint)
    if result is None or "data" in request.given:  # otherwise nothing is imported
        require_trust(config.own_code, directory, request.given, request.trust_model)
    if checkpoint and result is None:
        done, dataset = checkpoint.step, parse_checkpoint(checkpoint).dataset
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
        problem = "is a file: name the run directory that holds it"
    elif not os.path.isdir(directory):  # noqa: PTH112
        problem = "is not a folder: name a run directory (--output, else runs/<model>-<time>)"
    elif os.path.lexists(directory / CONFIG) or CheckpointStore(directory / CHECKPOINTS).steps():
        return directory
    else:
        problem = f"holds no run (neither {CONFIG} nor checkpoints): name the directory of a run"
    raise InputError(f"--resume: {directory} {problem}")


def is_in_place(request: Request) -> bool:
    """Whether the resumed run writes where it did before."""
    output = request.given.get("output")
    return not output or Path(output).resolve() == Path(request.resume).resolve()


def read_stored(
    directory: Path, report: Report, at_most: int | None = None, set_aside: bool = True
) -> tuple[Config, Checkpoint | None]:
    """The run's configuration and its latest intact checkpoint (of a step up to ``at_most``)."""
    checkpoint = CheckpointStore(directory / CHECKPOINTS).newest(report, at_most, set_aside)
    saved = parse_checkpoint(checkpoint).config if checkpoint else None
    try:
        stored = read_config(directory)
    except InputError as error:
        if saved is None:
            raise InputError(
                f"{error}; and no complete checkpoint holds the configuration either: start a"
                " new run"
            ) from error
        report(f"warning: {error}: using the configuration in the checkpoint")
        return saved, checkpoint
    if saved and (changed := _contradictions(saved, dataclasses.asdict(stored))):
        raise InputError(
            f"{directory / CONFIG} was changed since the checkpoint was made: {changed}: undo that"
        )
    return stored, checkpoint


def merged_config(stored: Config, request: Request, directory: Path) -> Config:
    """The stored configuration with the flags given now, which must not contradict it."""
    if contradicting := _contradictions(stored, request.given):
        may_change = (field.name for field in dataclasses.fields(stored))
        flags = ", ".join(as_flag(name) for name in may_change if name in stored.free)
        raise InputError(
            f"--resume {directory}: you gave {contradicting}: leave that out, or start a new run"
            f" (only these may change: {flags})"
        )
    here = {"expect_ranks": 0, "source": ""}  # settings of another start, not of the run
    return dataclasses.replace(stored, **{**here, **request.given})


def _contradictions(stored: Config, given: dict[str, Any]) -> str:
    """The fixed fields with another value in ``given``, as text."""
    return "; ".join(
        f"{as_flag(name)} {value} (the run has {getattr(stored, name)})"
        for name, value in given.items()
        if name not in stored.free and value != getattr(stored, name)
    )


def _finished_result(
    directory: Path, stored: Config, config: Config, report: Report, checkpoint: Checkpoint | None
) -> RunResult | None:
    """The result of a run that is finished under ``config`` and has intact files; else None."""
    if not os.path.lexists(directory / results.RESULT):
        return None
    try:
        result, damage = results.read_result(directory), results.damage_of(directory)
    except InputError as error:
        damage = str(error)
    if not damage:
        total_steps = RunSchedule(config, result.dataset.train_examples).total_steps
        reached = 0 < config.target_accuracy <= result.choosing_accuracy
        stopped = result.stopped_early and config.patience == stored.patience
        if result.steps == total_steps or (result.steps < total_steps and (reached or stopped)):
            return result
    if checkpoint is None:
        raise InputError(
            f"--resume: {directory} holds a finished run{f', but {damage}' if damage else ''};"
            " no complete checkpoint to continue from was found: start a new run"
        )
    if damage:
        report(
            f"warning: {directory}: {damage}: writing the results again from the latest checkpoint"
        )
    return None


def changed_lengths(directory: Path, step: int, config: Config) -> str:
    """A warning if steps after ``step`` were taken before with other --epochs; else empty."""
    with suppress(*MALFORMED, ArithmeticError):  # of unreadable lines
        receipt = read_receipt(directory)
        schedule = RunSchedule(config, receipt.lines[0]["dataset"]["train_examples"])
        starts = [step, *(line["step"] for line in receipt.starts if line["step"] > step)]
        configs = map(receipt.configuration_at, starts)
        before = [RunSchedule(each, schedule.train_examples) for each in configs]
        others = {each.config.epochs for each in before if not each.has_rates_of(schedule)}
        if step < receipt.last_step and others:
            return (
                f"warning: steps {step + 1} to {receipt.last_step} were taken before with --epochs"
                f" {', '.join(map(str, sorted(others)))}, and are taken again with --epochs"
                f" {config.epochs}: learning rates and weights differ from those before"
            )
    return ""


def check_model(point: ResumePoint, now: Sources, accepted: bool, report: Report) -> None:
    """``InputError`` if the user's own code was edited since, unless that is ``accepted``."""
    recorded: Sources = _last_start(point).get("model_sources", {})
    if not recorded or not now:
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


def check_initial_weights(point: ResumePoint, initial: InitialWeights | None) -> None:
    """``InputError`` if the run's initial weights are not those that it began with."""
    before = _last_start(point).get("initial_weights", {}).get("params_sha256")
    if initial and before and before != initial.record["params_sha256"]:
        raise InputError(
            f"--resume: the run in {point.directory} began with other initial weights:"
            f" {INITIAL_WEIGHTS} there, or {initial.record['file']}, was changed; restore it"
        )


def _last_start(point: ResumePoint) -> dict[str, Any]:
    """The receipt's line on the last start; empty where it cannot be read."""
    with suppress(*MALFORMED):
        texts = point.checkpoint.texts if point.checkpoint else None
        receipt = parse_receipt(texts["receipt"]) if texts else read_receipt(point.directory)
        return receipt.starts[-1]
    return {}


def open_directory(
    config: Config, point: ResumePoint | None, held: ExitStack, any_owner: bool = False
) -> Path:
    """The folder to write to, its configuration stored, locked until ``held`` closes."""
    if point is None or not point.in_place:
        return create_run_directory(config, held, _carried(config, point), any_owner)
    path = point.directory
    remedy = "free some space, or name another folder with --output"
    with explaining(f"--resume: {path} cannot be written", remedy):
        write_config(path, config)
        if (path / results.RESULT).exists():  # from fewer epochs than the run has now, or damaged
            step = point.checkpoint.step if point.checkpoint else 0
            (path / results.RESULT).rename(path / f"result-until-step-{step}.json")
        (path / results.SHA256SUMS).unlink(missing_ok=True)
    return path


def _carried(config: Config, point: ResumePoint | None) -> list[Checkpoint]:
    """The checkpoints that a new folder needs to be resumed: where it begins, and the best."""
    if point is None or point.checkpoint is None:
        return []
    found = [point.checkpoint]
    best = parse_checkpoint(point.checkpoint).state.best_step
    if best not in (None, point.checkpoint.step):
        # If it cannot be read, the end of the run reports that it is missing.
        with suppress(CheckpointError, InputError):
            found.append(CheckpointStore(point.directory / CHECKPOINTS).load(best))
    configuration = json.dumps(dataclasses.asdict(config))
    return [
        dataclasses.replace(each, texts={**each.texts, "configuration": configuration})
        for each in found
    ]
