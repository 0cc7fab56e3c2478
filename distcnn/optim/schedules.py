"""Learning-rate schedules: a schedule is a function of the progress through the run, 0 at its start
to 1 at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[float], float]
"""``progress in [0, 1) -> factor`` of the peak learning rate."""


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 straight down to 0."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov and Hutter 2017, one cycle)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def step(progress: float) -> float:
    """1, then 0.1 from half of the run on, then 0.01 from three quarters on (the ratios of He et
    al. 2016).
    """
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


SCHEDULES: dict[str, Schedule] = {
    "cosine": cosine,
    "constant": constant,
    "step": step,
    "linear": linear,
}


def learning_rate_at(
    step: int, schedule: Schedule, *, peak: float, warmup_steps: int, total_steps: int
) -> float:
    """The learning rate of ``step`` (from 0), of ``total_steps``.

    Linear warm-up over ``warmup_steps`` (Goyal et al. 2017): ``peak * (step + 1) / warmup_steps``;
    then the schedule over the steps that are left. A warm-up as long as the run or longer never
    reaches the schedule.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * schedule((step - warmup_steps) / (total_steps - warmup_steps))
