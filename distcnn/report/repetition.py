"""The commands that train a run again, with the same bits."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from distcnn.checkpoints.weights import INITIAL_WEIGHTS
from distcnn.config import Config, as_flag
from distcnn.config_parsing import TARGET_DEFAULTS
from distcnn.errors import InputError
from distcnn.report.records import RunRecords
from distcnn.system.files import read_bytes
from distcnn.system.wording import shell_command
from distcnn.training.receipt import MALFORMED
from distcnn.training.schedule import RunSchedule
from distcnn.user_code import TRUST_FLAG

NOT_OF_THE_RUN = {"output", "source", "expect_ranks", "trace", "trace_from", "tensorboard"}
"""Settings of a start that a repetition does not need."""
OF_THE_BITS = ("epochs", "max_steps", "target_accuracy", "patience", "eval_every_epochs")
"""Settings that a resume may change and on which rates, the last step or the best one depend."""
NEW = "NEW"
"""Stands for the folder of the repetition."""


class NotRepeatable(Exception):
    """Why no commands repeat a run, as a clause."""


@dataclass(frozen=True)
class Stretch:
    """A part of a run: its first step and its configuration."""

    step: int
    config: Config


def repetition(run: RunRecords) -> str:
    """The commands, one a line: the first start, then each resume that changed the bits.

    ``NotRepeatable`` when there are none.
    """
    assert run.config
    first, *resumes = stretches(run) or [Stretch(0, run.config)]
    config = replace(from_copy(first.config, run.path), data=run.config.data)
    commands = [[*changed_flags(config), "--output", NEW]]
    own = [TRUST_FLAG] if run.config.own_code else []
    before = first.config
    for stretch in resumes:
        flags = [
            word
            for name in OF_THE_BITS
            if (value := getattr(stretch.config, name)) != getattr(before, name)
            for word in (as_flag(name), _written(value))
        ]
        commands.append(["--resume", NEW, *flags, *own])
        before = stretch.config
    return "\n".join(shell_command(["python", "-m", "distcnn.train", *each]) for each in commands)


def stretches(run: RunRecords) -> list[Stretch]:
    """The parts of a run that different commands must train; empty if they are not on record.

    A part that was interrupted is continued by the same command, or ended by ``max_steps``.
    """
    starts = run.receipt.starts if run.receipt else []
    if len(starts) < 2:
        return []
    if any(start.get("model_sources") != starts[0].get("model_sources") for start in starts):
        raise NotRepeatable("the source of its own code was edited between its starts")
    examples = starts[0].get("dataset", {}).get("train_examples")
    if type(examples) is not int or examples < 1:
        raise NotRepeatable("its receipt does not record the number of training examples")
    found: list[Stretch] = []
    for start in starts:
        config, step = Config.from_record(start["configuration"]), start["step"]
        if found and has_ended(run.path, RunSchedule(found[-1].config, examples), step):
            found.append(Stretch(step, config))
        elif not found or not _differs(found[-1].config, config):
            found = found or [Stretch(step, config)]
        elif may_end_early(found[-1].config) or may_end_early(config):
            raise NotRepeatable(
                f"it was interrupted and, at step {step:,}, resumed with other flags"
            )
        elif RunSchedule(found[-1].config, examples).has_rates_of(RunSchedule(config, examples)):
            found[-1] = replace(found[-1], config=config)
        else:
            found[-1] = replace(found[-1], config=replace(found[-1].config, max_steps=step))
            found.append(Stretch(step, config))
    return found


def has_ended(path: Path, schedule: RunSchedule, step: int) -> bool:
    """Whether the run in ``path`` ended at ``step`` by itself, before it was resumed there."""
    if schedule.total_steps == step:
        return True
    if may_end_early(schedule.config):
        with suppress(InputError, *MALFORMED):
            result = json.loads(read_bytes(path / f"result-until-step-{step}.json"))
            return bool(result["steps"] == step)
    return False


def may_end_early(config: Config) -> bool:
    """Whether evaluations can end a run of ``config``."""
    return bool(config.target_accuracy or config.patience)


def from_copy(config: Config, path: Path) -> Config:
    """``config`` with the run's own copy of its initial weights, which nothing has changed since.

    The copy has all parameters under the network's names, so nothing is mapped.
    """
    copy = path / INITIAL_WEIGHTS
    if not config.initial_weights or not copy.exists():
        return config
    return replace(config, initial_weights=str(copy), map="")


def changed_flags(config: Config) -> list[str]:
    """The flags that make ``config`` from the defaults, without those of one start only."""
    defaults = vars(Config(arithmetic=config.arithmetic)) | {"arithmetic": Config.arithmetic}
    if config.target_accuracy:
        defaults |= TARGET_DEFAULTS
    return [
        word
        for name, default in defaults.items()
        if name not in NOT_OF_THE_RUN and (value := getattr(config, name)) != default
        for word in (as_flag(name), _written(value))
    ]


def _differs(one: Config, other: Config) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in OF_THE_BITS)


def _written(value: object) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
