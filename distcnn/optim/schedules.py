"""Learning-rate schedules: immutable descriptions, functions of the progress through the run."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

from distcnn.errors import InputError
from distcnn.portable import functions


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step, as a share of the peak: linear warm-up, then ``factor``. One
    of your own is a subclass that defines ``factor``, or a function from progress to factor.

    Args:
        warmup_steps: length of the linear warm-up (Goyal et al. 2017) in steps, 0 or more. The
            ``Trainer`` limits it to a quarter of the run.

    Raises:
        InputError: when ``warmup_steps`` is not such an integer.
    """

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        steps: object = self.warmup_steps
        if not isinstance(steps, numbers.Integral) or self.warmup_steps < 0:
            raise InputError(f"warmup_steps is {steps!r}: it must be an integer, 0 or more")

    def factor(self, progress: float) -> float:
        """The factor of the peak at ``progress``: 0 after the warm-up, below 1 at the last step."""
        raise NotImplementedError(f"{type(self).__name__} must define factor(progress)")

    def learning_rate(self, step: int, *, peak: float, total_steps: int) -> float:
        """The learning rate of ``step`` (0 to ``total_steps`` - 1): ``peak * (step + 1) /
        warmup_steps`` during the warm-up, then ``peak * factor(progress)``.
        """
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / (total_steps - self.warmup_steps)
        return peak * self.factor(progress)

    def portable(self) -> Schedule:
        """An equal schedule that gives the same bits on every machine; by default this one, which
        does if ``factor`` uses only operations that do (docs/portable.md).
        """
        return self


class Constant(Schedule):
    """The peak throughout, after the warm-up."""

    def factor(self, progress: float) -> float:
        return 1.0


class Linear(Schedule):
    """Straight from the peak down to 0."""

    def factor(self, progress: float) -> float:
        return 1.0 - progress


class Cosine(Schedule):
    """From the peak to 0 along half a cosine (Loshchilov and Hutter 2017, one cycle)."""

    _is_portable: ClassVar[bool] = False

    def factor(self, progress: float) -> float:
        if self._is_portable:
            return 0.5 * (1.0 + float(functions.cos_2pi(0.5 * progress)))
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    def portable(self) -> Self:
        """This schedule with a cosine that is the same on every machine."""
        made = copy.copy(self)
        object.__setattr__(made, "_is_portable", True)
        return made


class StepDecay(Schedule):
    """The peak; a tenth from half of the run on, a hundredth from three quarters on (He 2016)."""

    def factor(self, progress: float) -> float:
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


@dataclass(frozen=True)
class OwnSchedule(Schedule):
    """A schedule made of a user's function.

    Args:
        warmup_steps: as in ``Schedule``.
        function: from progress, in [0, 1), to the factor of the peak.

    Raises:
        InputError: when ``function`` does not return a finite number of 0 or more.
    """

    function: Callable[[float], float] = lambda progress: 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.factor(0.0)

    def factor(self, progress: float) -> float:
        factor = self.function(progress)
        if not isinstance(factor, numbers.Real) or not 0 <= factor < math.inf:
            name = getattr(self.function, "__name__", repr(self.function))
            raise InputError(
                f"schedule {name} returned {factor!r} for a progress of {progress:g}: it must"
                " return a factor of the learning rate, a number of 0 or more"
            )
        return factor


SCHEDULES: dict[str, type[Schedule]] = {
    "cosine": Cosine,
    "constant": Constant,
    "step": StepDecay,
    "linear": Linear,
}
"""Schedules by name."""
