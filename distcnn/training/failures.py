"""What is not finite, or too large to add, in a step or a test: where it began, and the remedy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from distcnn.config import LARGEST_GRADIENT_LIMIT
from distcnn.datasets import Microbatch, Part
from distcnn.distributed import Communicator, RangeError, Reducer, Totals
from distcnn.errors import TrainingError
from distcnn.nn import Plan, numpy_settings
from distcnn.nn.layer import Array, RandomSource
from distcnn.nn.losses import Loss

if TYPE_CHECKING:
    from distcnn.training.step import Lane, Streams

DIVERGED = "the training has diverged; lower --learning-rate or lengthen --warmup-steps"
AT_ONCE = (
    "no update was made yet: check the image set's mean and std, and the model's initial weights"
)
WIDEN = (
    "; only if gradients of this size are normal for this model, start again with a larger"
    " --gradient-limit"
)


class NotFinite(TrainingError):
    """An array that is not finite; its text names the array."""


class EvaluationFailure(TrainingError):
    """The test loss is not finite."""


class ShardFailure(TrainingError):
    """The gradient or loss of ``shard`` cannot be added."""

    def __init__(self, text: str, shard: int) -> None:
        super().__init__(text)
        self.shard = shard


def check_finite(what: str, array: Array) -> None:
    """``NotFinite`` when ``array``, called ``what``, holds a NaN or Inf."""
    if not np.isfinite(array).all():
        index = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise NotFinite(f"the {what} is {array[index]:g} at {tuple(map(int, index))}")


def check_pass(
    plan: Plan, loss: Loss, microbatch: Microbatch, random_source: RandomSource | None = None
) -> None:
    """Repeat forward and backward of a filled ``microbatch``, and check every array on the way.

    With ``random_source``, the layers are in training, and draw from it.
    """
    for name, values in plan.parameters.named().items():
        check_finite(f"parameter {name}", values)
    check_finite("input", microbatch.images)
    gradients, unfused, x = np.zeros_like(plan.parameters.values), plan.unfused(), microbatch.images
    with numpy_settings():
        for stage in unfused.stages:
            x = stage.forward(x, random_source is not None, random_source)
            check_finite(f"output of {stage.name}", x)
        loss_sum, grad_logits = loss(x, microbatch.labels, microbatch.weights)
        check_finite("loss", np.asarray(loss_sum).reshape(1))
        check_finite("gradient of the loss", grad_logits)
        started = unfused.start_backward(grad_logits, out=gradients)
        while layer := started.next_layer():
            check_finite(f"input gradient of {layer}", started.gradient)
    for name, gradient in plan.parameters.named(gradients).items():
        check_finite(f"gradient of {name}", gradient)


def first_not_finite(
    plan: Plan, loss: Loss, microbatch: Microbatch, random_source: RandomSource | None = None
) -> str:
    """What ``check_pass`` finds for the same arguments; empty if everything is finite."""
    try:
        check_pass(plan, loss, microbatch, random_source)
    except NotFinite as error:
        return str(error)
    return ""


class ShardFailures:
    """The shards of this rank that fail in one step: counted in the sum, named afterwards."""

    def __init__(
        self, loss: Loss, reducer: Reducer, streams: Streams, communicator: Communicator
    ) -> None:
        self._loss, self._reducer, self._streams = loss, reducer, streams
        self._communicator = communicator
        self.begin(0)

    def begin(self, step: int) -> None:
        """Begin ``step``: nothing has failed yet."""
        self._step = step
        self._texts: dict[int, str] = {}

    @contextmanager
    def caught(self, shard: Part, lane: Lane) -> Iterator[None]:
        """Note what fails here on ``shard``, and go on: all ranks must reach the sum."""
        try:
            yield
        except (RangeError, TrainingError) as error:
            what = str(error)
            if isinstance(error, RangeError):
                what = self._explained(error, shard, lane)
            examples = ", ".join(map(str, shard.rows(lane.microbatch.chosen)))
            self._texts[shard.index] = (
                f"step {self._step}, shard {shard.index}: {what}; training examples {examples}"
            )
            self._reducer.stats.fail()

    def __contains__(self, shard: Part) -> bool:
        return shard.index in self._texts

    def raise_first(self, totals: Totals) -> None:
        """``ShardFailure`` of the first shard, on all ranks, when one failed on any. Collective."""
        if totals.failures:
            own = min(self._texts.items(), default=None)
            shard, text = min(first for first in self._communicator.allgather(own) if first)
            raise ShardFailure(text, shard)

    def _explained(self, error: RangeError, shard: Part, lane: Lane) -> str:
        """What is out of range, where that began, and the remedy.

        Everything is computed once more, so the text does not depend on the buckets.
        """
        what, wider = "the loss", ""
        remedy = DIVERGED if self._step else AT_ONCE
        plan, microbatch = lane
        gradients = np.zeros_like(plan.parameters.values)
        random_source = self._streams(self._step, shard.index)
        with numpy_settings():
            logits = plan.forward(microbatch.images, training=True, random_source=random_source)
            _, grad_logits = self._loss(logits, microbatch.labels, microbatch.weights)
            plan.backward(grad_logits, out=gradients)
        try:
            self._reducer.check(gradients)
        except RangeError as first:
            error, what = first, f"the gradient of {plan.parameters.parameter_at(first.index)}"
            wider = WIDEN if error.limit < LARGEST_GRADIENT_LIMIT else ""
        if math.isfinite(error.value):
            return (
                f"{what} is {error.value:g}, beyond the sum's limit of {error.limit:g} for one"
                f" shard: {remedy}{wider}"
            )
        origin = first_not_finite(plan, self._loss, microbatch, random_source)
        return f"{what} is {error.value:g}: {remedy}; first not finite: {origin or what}"
