"""Warnings: settings that a user may not have meant, and signs that a network learns nothing.

They are the same on every rank. Impossible sizes are refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.nn.losses import GUESSING
from distcnn.system.wording import counted
from distcnn.training.schedule import RunSchedule

FEWEST_STEPS = 100
"""Fewer steps learn little: with the defaults, 24 give an accuracy of 0.31, 48 of 0.90."""
ENOUGH_STEPS = 400
"""The warm-up then keeps its default length."""
MOST_PADDING = 1 / 3
"""Share of the computation that may be padding without a warning."""
HARDLY_BETTER = 0.99
"""An epoch's mean loss above this share of the loss of guessing is no better than guessing."""
MOST_NAMED = 6
"""Parameters named in a warning."""


def require_enough_examples(config: Config, train_examples: int) -> None:
    """``InputError`` when there are more shards than training examples: some would hold none."""
    if config.num_shards > train_examples:
        raise InputError(
            f"--num-shards is {config.num_shards}, but the training set has only"
            f" {counted(train_examples, 'example')}: give --num-shards {train_examples} or less"
        )


def warnings_of(schedule: RunSchedule) -> Iterator[str]:
    """A line for each setting that the user may not have meant, without "warning: "."""
    yield from _too_few_steps(schedule)
    yield from _padding(schedule)
    yield from _without_effect(schedule.config)


def _too_few_steps(schedule: RunSchedule) -> Iterator[str]:
    config, steps = schedule.config, schedule.config.epochs * schedule.steps_an_epoch
    if steps >= FEWEST_STEPS:
        return
    fewer = "a smaller --microbatch-size" if config.microbatch_size > 1 else "fewer --num-shards"
    cut = ""
    if schedule.warmup_steps < config.warmup_steps:
        cut = f", and the warm-up is cut to {schedule.warmup_steps}"
    yield (
        f"the whole run is {counted(steps, 'step')} ({schedule.steps_an_epoch} an epoch){cut}:"
        f" too few to learn much; give more --epochs ({-(-ENOUGH_STEPS // schedule.steps_an_epoch)}"
        f" make {ENOUGH_STEPS} steps) or {fewer}"
    )


def _padding(schedule: RunSchedule) -> Iterator[str]:
    config, longest = schedule.config, -(-schedule.train_examples // schedule.config.num_shards)
    padding = 1 - schedule.train_examples / (schedule.steps_an_epoch * config.global_batch_size)
    enough = -(-longest // schedule.steps_an_epoch)
    if enough < config.microbatch_size and (
        longest < config.microbatch_size or padding > MOST_PADDING
    ):
        yield (
            f"{padding:.0%} of the computation is padding: --microbatch-size is"
            f" {config.microbatch_size}, and the longest shard has {counted(longest, 'example')};"
            f" --microbatch-size {enough} takes the same number of steps without padding"
        )


def _without_effect(config: Config) -> Iterator[str]:
    optimizer = f"--optimizer {config.optimizer}"
    if config.optimizer == "adamw" and config.weight_decay == 0:
        yield (
            f"{optimizer} without --weight-decay is the same as adam: give --weight-decay, such as"
            " 0.01"
        )
    if config.optimizer == "nesterov" and config.momentum == 0:
        yield (
            f"{optimizer} with --momentum 0 is plain gradient descent: give --momentum, such as 0.9"
        )
    unused = []
    if config.optimizer in ("adam", "adamw") and config.momentum != Config.momentum:
        unused.append(("--momentum", optimizer))
    if config.reduction == "fast" and config.gradient_limit != Config.gradient_limit:
        unused.append(("--gradient-limit", "--reduction fast"))
    if config.trace_from > 0 and not config.trace:
        unused.append(("--trace-from", "no --trace"))
    for flag, where in unused:
        yield f"{flag} has no effect with {where}: leave it out"


def sign_of_no_learning(
    loss_name: str, loss: float, predicted: NDArray[np.int64] | None, classes: int, epoch: int
) -> str | None:
    """A sign that the network learns nothing, as text, or None.

    Args:
        loss_name: of ``LOSSES``.
        loss: the epoch's mean training loss.
        predicted: how many test images were put into each class (classes,); None where there
            was no test.
        classes: how many there are.
        epoch: counted from 1. In the first one the loss includes the steps before the network
            could learn anything.
    """
    if (
        predicted is not None
        and predicted.sum() > 1
        and classes > 1
        and np.count_nonzero(predicted) == 1
    ):
        return (
            f"the network puts all {predicted.sum():,} test images into class {predicted.argmax()}"
        )
    guessing = GUESSING[loss_name](classes) if loss_name in GUESSING else math.inf
    if epoch > 1 and loss >= HARDLY_BETTER * guessing:
        return f"the training loss of {loss:.4f} is no better than that of guessing, {guessing:.4f}"
    return None


def zero_gradients(gradients: Mapping[str, NDArray[np.floating]]) -> list[str]:
    """Names of the gradients that are zero everywhere."""
    return [name for name, gradient in gradients.items() if not gradient.any()]


def advice(zero: list[str]) -> str:
    """What to do when nothing is learned and these parameters' gradients are zero everywhere."""
    if not zero:
        return (
            "try another --learning-rate or more --epochs, and check that the labels belong to the"
            " images"
        )
    more = f" and {len(zero) - MOST_NAMED} more" if len(zero) > MOST_NAMED else ""
    return (
        f"the gradient of {', '.join(zero[:MOST_NAMED])}{more} is zero everywhere: its units are"
        " dead or its weights began at zero; start again with a lower --learning-rate, or with"
        " other initialisers"
    )
