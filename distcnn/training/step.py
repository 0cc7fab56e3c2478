"""One training step: every shard's gradient, their sum over all ranks, one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distcnn.datasets import Microbatch, Part
from distcnn.errors import TrainingError
from distcnn.faults.pulse import Activity, pulse
from distcnn.nn import Sequential
from distcnn.nn.losses import Loss
from distcnn.optim import Optimizer
from distcnn.parallel import Communicator, RangeError, Reduction, Totals
from distcnn.training.finite import first_not_finite
from distcnn.training.ledger import Ledger

WIDEN = "start anew with a larger --gradient-limit"
DIVERGED = "the training has diverged; lower --learning-rate or lengthen --warmup-steps"


class ShardFailure(TrainingError):
    """A shard's gradient or loss cannot be added."""

    def __init__(self, text: str, shard: int) -> None:
        super().__init__(text)
        self.shard = shard


@dataclass
class Step:
    """What a step needs; ``shards`` are this rank's."""

    network: Sequential
    loss: Loss
    optimizer: Optimizer
    shards: Sequence[Part]
    microbatch: Microbatch
    reduction: Reduction
    communicator: Communicator
    stop_request: Callable[[], str | None] = lambda: None
    """The signal that asked this rank to stop, if any: the totals then say so to all."""
    before_shard: Callable[[int, int], None] | None = None
    """Called with (step, shard) when the microbatch is filled: a place for a debugger."""
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.shards)

    def __call__(self, step: int, epoch: int, step_of_epoch: int, learning_rate: float) -> Totals:
        """Take step ``step`` (from 0 over the run; ``step_of_epoch`` within its epoch) on all ranks, and return its totals.

        ``ShardFailure`` on all ranks, before any update, when a shard's gradient or loss cannot be added.
        """
        failure = None
        self.reduction.clear()
        for shard in self.shards:
            pulse.beat(Activity.COMPUTING_SHARD, step, shard.index)
            try:
                self._add_shard(shard, step, epoch, step_of_epoch)
            except TrainingError as error:
                examples = ", ".join(str(shard.first_example + index) for index in self.microbatch.chosen)
                failure = failure or (f"step {step}, shard {shard.index}: {error}; training examples {examples}", shard.index)
                self.reduction.tally.fail()
        if self.stop_request():
            self.reduction.tally.ask_to_stop()
        pulse.beat(Activity.SUMMING)
        total = self.reduction.allreduce(self.communicator)
        pulse.beat(Activity.UPDATING)
        totals = self.reduction.tally.totals()
        if totals.failures:
            raise ShardFailure(*next(each for each in self.communicator.allgather(failure) if each))
        np.divide(total, totals.examples, out=self.network.grads, casting="same_kind")
        with np.errstate(over="ignore", invalid="ignore"):  # the next step's sums refuse what comes of these
            self.optimizer.step(self.network.values, self.network.grads, learning_rate)
        return totals

    def _add_shard(self, shard: Part, step: int, epoch: int, step_of_epoch: int) -> None:
        """Forward and backward of one shard's microbatch, added to the sum."""
        examples = shard.fill(self.microbatch, epoch, step_of_epoch)
        self.ledger.mark(shard.index, self.microbatch.chosen)
        if self.before_shard is not None:
            self.before_shard(step, shard.index)
        with np.errstate(over="ignore", invalid="ignore"):  # the sums below refuse what these would warn of
            logits = self.network.forward(self.microbatch.images)
            loss_sum, grad_logits = self.loss(logits, self.microbatch.labels, self.microbatch.weights)
            self.network.backward(grad_logits)
        try:
            self.reduction.add(self.network.grads)
        except RangeError as error:
            raise self._named(error, f"the gradient of {self.network.parameter_at(error.index)}", WIDEN) from error
        try:
            self.reduction.tally.add(loss_sum, count_correct(logits, self.microbatch), examples)
        except RangeError as error:
            raise self._named(error, "the loss", DIVERGED) from error

    def _named(self, error: RangeError, what: str, remedy: str) -> TrainingError:
        """What is out of range, where that began, and the remedy."""
        if math.isfinite(error.value):
            return TrainingError(f"{what} is {error.value:g}, beyond the exact sum's limit of {error.limit:g} for one shard: {remedy}")
        origin = first_not_finite(self.network, self.loss, self.microbatch)
        return TrainingError(f"{what} is {error.value:g}: {DIVERGED}; first not finite: {origin or what}")


def count_correct(logits: np.ndarray, microbatch: Microbatch) -> int:
    """How many examples (not padding) have their largest logit at their label."""
    return int(np.count_nonzero((logits.argmax(axis=0) == microbatch.labels) & (microbatch.weights > 0)))
