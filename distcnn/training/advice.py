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
"""An epoch's mean loss above this share of the loss of guessing is hardly better than guessing."""
MOST_NAMED = 6
"""Parameters named in a warning."""


def require_enough_examples(config: Config, train_examples: int) -> None:
    """``InputError`` when there are more shards than training examples: some would hold none."""
    if config.num_shards > train_examples:
        raise InputError(
            f"--num-shards is {config.num_shards}, but the training set has only"
            f" {counted(train_examples, 'example')}: give --num-shards {train_examples} or less"
        )


def examples_to_hold_out(config: Config, train_examples: int) -> int:
    """The size of the validation set. ``InputError`` when none, or too few to train on, are left.

    A fraction of ``train_examples`` is rounded to whole examples.
    """
    wanted, found = config.validation, counted(train_examples, "training example")
    count = math.floor(wanted * train_examples + 0.5) if wanted < 1 else int(wanted)
    least, most = config.global_batch_size, train_examples - config.global_batch_size
    if not 1 <= count <= most:
        problem = f"{count:,} of {found}"
        if count and count < train_examples:
            problem += f", which leaves fewer than one global batch of {least:,}"
        remedy = f"give a number from 2 to {most:,}, or a fraction"
        if most < 2:
            remedy = "use fewer --num-shards, a smaller --microbatch-size, or a larger image set"
        shown = f"{wanted:g}" if wanted < 1 else count
        raise InputError(f"--validation {shown} holds out {problem}: {remedy}")
    return count


def warnings_of(schedule: RunSchedule) -> Iterator[str]:
    """A line for each setting that the user may not have meant, without "warning: "."""
    config, steps_an_epoch = schedule.config, schedule.steps_an_epoch
    steps, size = config.epochs * steps_an_epoch, config.microbatch_size
    if steps < FEWEST_STEPS and not config.initial_weights:
        fewer = "a smaller --microbatch-size" if size > 1 else "fewer --num-shards"
        cut = schedule.warmup_steps < config.warmup_steps
        yield (
            f"the whole run is {counted(steps, 'step')} ({steps_an_epoch} per epoch)"
            f"{f', and the warm-up is cut to {schedule.warmup_steps}' if cut else ''}: often"
            f" too few to learn much; give more --epochs ({-(-ENOUGH_STEPS // steps_an_epoch)} make"
            f" {ENOUGH_STEPS} steps) or {fewer}"
        )
    longest = -(-schedule.train_examples // config.num_shards)
    padding = 1 - schedule.train_examples / (steps_an_epoch * config.global_batch_size)
    enough = -(-longest // steps_an_epoch)
    if enough < size and (longest < size or padding > MOST_PADDING):
        yield (
            f"{padding:.0%} of the computation is padding: --microbatch-size is {size}, and the"
            f" longest shard has {counted(longest, 'example')}; --microbatch-size {enough} takes"
            " the same number of steps without padding"
        )
    optimizer = f"--optimizer {config.optimizer}"
    if config.optimizer == "adamw" and config.weight_decay == 0:
        yield f"{optimizer} is adam without --weight-decay: give --weight-decay, such as 0.01"
    if config.optimizer == "nesterov" and config.momentum == 0:
        yield f"{optimizer} with --momentum 0 is plain gradient descent: give --momentum 0.9"
    if config.optimizer in ("adam", "adamw") and config.momentum != Config.momentum:
        yield f"--momentum has no effect with {optimizer}: leave it out"
    if config.reduction == "fast" and config.gradient_limit != Config.gradient_limit:
        yield "--gradient-limit has no effect with --reduction fast: leave it out"
    every = config.eval_every_epochs or config.epochs
    evaluations = -(-config.epochs // every)
    if config.patience and config.patience >= evaluations - 1:
        smaller = "a smaller one, or " if config.patience > 1 else ""
        yield (
            f"--patience {config.patience} has no effect in a run of"
            f" {counted(evaluations, 'evaluation')}: give {smaller}more --epochs"
        )
    if config.trace_from > 0 and not config.trace:
        yield "--trace-from has no effect without --trace: leave it out"


def sign_of_no_learning(
    loss_name: str,
    loss: float,
    predicted: NDArray[np.int64] | None,
    classes: int,
    is_warmed_up: bool,
    split: str = "test",
) -> str | None:
    """A sign that the network learns nothing, as text, or None.

    ``loss`` is the mean training loss of an epoch, which counts if the epoch began after the first
    one and after the warm-up (``is_warmed_up``). ``predicted`` (classes,) counts the images of
    ``split`` that were put into each class; None where there was no evaluation.
    """
    images = 0 if predicted is None else predicted.sum()
    if predicted is not None and np.count_nonzero(predicted) == 1 < min(images, classes):
        return f"the network puts all {images:,} {split} images into class {predicted.argmax()}"
    guessing = GUESSING[loss_name](classes) if loss_name in GUESSING else math.inf
    if is_warmed_up and loss >= HARDLY_BETTER * guessing:
        than = "worse" if loss > guessing else "hardly better"
        return f"the training loss of {loss:.4f} is {than} than guessing, {guessing:.4f}"
    return None


def zero_gradients(gradients: Mapping[str, NDArray[np.floating]]) -> list[str]:
    """Names of the gradients that are zero everywhere."""
    return [name for name, gradient in gradients.items() if not gradient.any()]


def advice_on(zero: list[str]) -> str:
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
