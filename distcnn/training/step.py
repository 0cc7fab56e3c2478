"""One training step: every shard's gradient, their sum over all ranks, one update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from distcnn.datasets import Microbatch, Shard
from distcnn.errors import TrainingError
from distcnn.nn import Sequential
from distcnn.nn.losses import Loss
from distcnn.optim import Optimizer
from distcnn.parallel import Communicator, RangeError, Reduction, Totals


@dataclass
class Step:
    """What a step needs; ``shards`` are this rank's."""

    network: Sequential
    loss: Loss
    optimizer: Optimizer
    shards: Sequence[Shard]
    microbatch: Microbatch
    reduction: Reduction
    communicator: Communicator

    def __call__(self, step: int, epoch: int, step_of_epoch: int, learning_rate: float) -> Totals:
        """Take step ``step`` (from 0 over the run; ``step_of_epoch`` within its epoch) on all ranks, and return its totals.

        ``TrainingError`` on all ranks, before any update, when a shard's gradient or loss cannot be added.
        """
        problem = None
        self.reduction.clear()
        for shard in self.shards:
            try:
                self._add_shard(shard, epoch, step_of_epoch)
            except TrainingError as error:
                problem = problem or f"step {step}, shard {shard.index}: {error}"
                self.reduction.tally.fail()
        total = self.reduction.allreduce(self.communicator)
        totals = self.reduction.tally.totals()
        if totals.failures:
            raise TrainingError(next(each for each in self.communicator.allgather(problem) if each))
        np.divide(total, totals.examples, out=self.network.grads, casting="same_kind")
        self.optimizer.step(self.network.values, self.network.grads, learning_rate)
        return totals

    def _add_shard(self, shard: Shard, epoch: int, step_of_epoch: int) -> None:
        """Forward and backward of one shard's microbatch, added to the sum."""
        examples = shard.fill(self.microbatch, epoch, step_of_epoch)
        with np.errstate(over="ignore", invalid="ignore"):  # the sums below refuse what these would warn of
            logits = self.network.forward(self.microbatch.images)
            loss_sum, grad_logits = self.loss(logits, self.microbatch.labels, self.microbatch.weights)
            self.network.backward(grad_logits)
        with _named(lambda index: f"the gradient of {self.network.parameter_at(index)}"):
            self.reduction.add(self.network.grads)
        with _named(lambda index: "the loss"):
            self.reduction.tally.add(loss_sum, count_correct(logits, self.microbatch), examples)


@contextmanager
def _named(name_of: Callable[[int], str]) -> Iterator[None]:
    """Turn a ``RangeError`` into a ``TrainingError`` with the name of what is out of range and the remedy."""
    try:
        yield
    except RangeError as error:
        what = f"{name_of(error.index)} is {error.value:g}"
        if math.isfinite(error.value):
            raise TrainingError(
                f"{what}, beyond the exact sum's limit of {error.limit:g} for one shard: raise it with --gradient-limit"
            ) from error
        raise TrainingError(f"{what}: the training has diverged; lower --learning-rate or lengthen --warmup-steps") from error


def count_correct(logits: np.ndarray, microbatch: Microbatch) -> int:
    """How many examples (not padding) have their largest logit at their label."""
    return int(np.count_nonzero((logits.argmax(axis=0) == microbatch.labels) & (microbatch.weights > 0)))
