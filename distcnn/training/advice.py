"""What a configuration may not have meant: one warning line each.

Sizes that cannot be right are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

from distcnn.config import Config
from distcnn.errors import InputError
from distcnn.system.wording import counted
from distcnn.training.schedule import Plan

FEWEST_STEPS = 100
"""A run of fewer steps learns little: with the defaults, 1,000 MNIST images (24 steps) reach an
accuracy of 0.31, 2,000 (48) 0.90.
"""
ENOUGH_STEPS = 400
"""Then the warm-up keeps its default length."""
MOST_PADDING = 1 / 3
"""Share of the computing, above which it is said that it goes into padding."""


def require_enough_examples(config: Config, train_examples: int) -> None:
    """``InputError`` when there are more shards than training examples: some would hold none."""
    if config.num_shards > train_examples:
        raise InputError(
            f"--num-shards is {config.num_shards}, but the training set has only"
            f" {counted(train_examples, 'example')}: give --num-shards {train_examples} or less"
        )


def warnings_of(plan: Plan) -> Iterator[str]:
    """A line, without "warning: ", for each thing about the run that its user may not have
    meant.
    """
    yield from _too_few_steps(plan)
    yield from _padding(plan)
    yield from _without_effect(plan.config)


def _too_few_steps(plan: Plan) -> Iterator[str]:
    steps = plan.config.epochs * plan.steps_an_epoch
    if steps < FEWEST_STEPS:
        fewer = (
            "a smaller --microbatch-size"
            if plan.config.microbatch_size > 1
            else "fewer --num-shards"
        )
        cut = (
            f", and the warm-up is cut to {plan.warmup_steps}"
            if plan.warmup_steps < plan.config.warmup_steps
            else ""
        )
        yield (
            f"the whole run is {counted(steps, 'step')} ({plan.steps_an_epoch} an epoch){cut}: too"
            f" few to learn much; give more --epochs ({-(-ENOUGH_STEPS // plan.steps_an_epoch)}"
            f" make {ENOUGH_STEPS} steps) or {fewer}"
        )


def _padding(plan: Plan) -> Iterator[str]:
    config, longest = plan.config, -(-plan.train_examples // plan.config.num_shards)
    padding = 1 - plan.train_examples / (plan.steps_an_epoch * config.global_batch_size)
    enough = -(-longest // plan.steps_an_epoch)
    if enough < config.microbatch_size and (
        longest < config.microbatch_size or padding > MOST_PADDING
    ):
        yield (
            f"{padding:.0%} of the computing is padding: --microbatch-size is"
            f" {config.microbatch_size}, the longest shard has {counted(longest, 'example')};"
            f" --microbatch-size {enough} takes as many steps without it"
        )


def _without_effect(config: Config) -> Iterator[str]:
    adaptive = config.optimizer in ("adam", "adamw")
    if config.optimizer == "adamw" and config.weight_decay == 0:
        yield (
            "--optimizer adamw without --weight-decay is the same as adam: give --weight-decay,"
            " such as 0.01"
        )
    if config.optimizer == "nesterov" and config.momentum == 0:
        yield (
            "--optimizer nesterov with --momentum 0 is plain gradient descent: give --momentum,"
            " such as 0.9"
        )
    unused = {
        "--momentum": (
            adaptive and config.momentum != Config.momentum,
            f"--optimizer {config.optimizer}",
        ),
        "--gradient-limit": (
            config.reduction == "fast" and config.gradient_limit != Config.gradient_limit,
            "--reduction fast",
        ),
        "--trace-from": (config.trace_from > 0 and not config.trace, "no --trace"),
    }
    for flag, (given, where) in unused.items():
        if given:
            yield f"{flag} has no effect with {where}: leave it out"
