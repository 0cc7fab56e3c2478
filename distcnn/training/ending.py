"""How a run ends: its result, or the command that continues or replays it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from distcnn.architecture import describe
from distcnn.config import as_flag
from distcnn.errors import InputError
from distcnn.nn import NATIVE
from distcnn.system.launcher import starting_words
from distcnn.system.wording import shell_command
from distcnn.training.consistency import params_sha256
from distcnn.training.results import RunResult
from distcnn.training.setup import Run
from distcnn.training.state import State


def checkpoint_found(newest: int, step: int) -> str:
    """The state on the disk as text; ``newest``: step of the latest checkpoint, -1 for none."""
    if newest == step:
        return "checkpoint saved"
    if newest < 0:
        return "no checkpoint could be written"
    return f"the latest checkpoint is of step {newest}"


def stopped_by(requests: Sequence[str | None]) -> str:
    """Why the run stops, and where, if not on rank 0; ``requests`` are the ranks' stop requests."""
    reasons = dict.fromkeys("Ctrl-C" if name == "SIGINT" else name for name in requests if name)
    ranks = [str(rank) for rank, name in enumerate(requests) if name]
    where = "" if "0" in ranks else f" on rank {', '.join(ranks)}"
    return f"{' and '.join(reasons)}{where}"


def resume_command(run: Run, location: str, world_size: int = 1) -> str:
    """The command that continues the run in ``location``: the same bits on any number of ranks."""
    own = run.config.own_code
    confirmed = [word for field, name in own.items() for word in (as_flag(field), name)]
    command = ["python", "-m", "distcnn.train", "--resume", location, *confirmed]
    return shell_command([*starting_words(world_size, os.environ), *command])


def verify_command(run: Run, location: str) -> str:
    """The command that replays the run in ``location`` and compares."""
    trusted = ["--trust-model"] if run.config.own_code else []
    return shell_command(["python", "-m", "distcnn.verify", location, *trusted])


def make_result(run: Run, state: State) -> RunResult:
    """The result of a finished run."""
    config, test, architecture = run.config, state.test, ""
    assert test is not None  # the last step is always tested
    best_step = state.step if state.best_step is None else state.best_step
    best_test = test.correct if best_step == state.step else state.best_correct
    validated: dict[str, Any] = {}
    if validation := state.validation:
        if best_step != state.step:
            best_test = state.best_test.correct if state.best_test else 0
        validated = {
            "validation_examples": validation.examples,
            "validation_loss": validation.loss,
            "validation_accuracy": validation.correct / validation.examples,
            "best_validation_accuracy": state.best_correct / validation.examples,
        }
    if config.patience:
        is_cut = state.step < run.schedule.total_steps
        validated["stopped_early"] = is_cut and state.exhausts(config.patience)
    if config.spot_check or state.spot_checks:
        validated["spot_checks"] = state.spot_checks
    reached = state.reaches(config.target_accuracy)
    with suppress(InputError):  # a network that cannot be written as text
        architecture = describe(run.model, initialisers=False)
    return RunResult(
        model=config.model,
        architecture=architecture,
        parameters=run.parameters.values.size,
        test_accuracy=test.correct / test.examples,
        test_correct=test.correct,
        test_examples=test.examples,
        test_loss=test.loss,
        train_loss=state.epoch.loss,
        params_sha256=params_sha256(run.parameters),
        epochs=state.step // run.schedule.steps_an_epoch,
        steps=state.step,
        best_step=best_step,
        best_test_accuracy=best_test / test.examples,
        target_accuracy=config.target_accuracy or None,
        target_reached=reached if config.target_accuracy else None,
        seconds_to_target=round(state.run_seconds, 3) if reached else None,
        world_size=state.world_size,
        num_shards=config.num_shards,
        microbatch_size=config.microbatch_size,
        seed=config.seed,
        reduction=config.reduction,
        arithmetic=None if config.arithmetic == NATIVE else config.arithmetic,
        images_per_second=round(state.whole.images_per_second, 1),
        train_seconds=round(state.whole.seconds, 3),
        test_seconds=round(state.test_seconds, 3),
        bookkeeping_seconds=round(state.safety_seconds, 3),
        dataset=run.dataset_record,
        **validated,
    )
