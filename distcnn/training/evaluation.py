"""Evaluation, spread over all ranks and exact: canonical blocks of one fixed shape, sums of
integers, the exact sum of losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets import Microbatch, Part
from distcnn.distributed import TALLY_SIZE, Communicator, RangeError, Tally, Totals, span_of
from distcnn.errors import TrainingError
from distcnn.fault_tolerance.heartbeat import Activity, pulse
from distcnn.nn import computing
from distcnn.nn.losses import Loss
from distcnn.nn.planned import PlannedNetwork
from distcnn.spans import EVALUATION, Span
from distcnn.system.wording import counted
from distcnn.training.nan_check import NotFinite, first_not_finite
from distcnn.training.step import count_correct

_EVALUATION = Span(EVALUATION)


class EvaluationFailure(TrainingError):
    """The test loss is not finite."""


class EvaluationStopped(Exception):
    """A rank was asked to stop: all ranks broke the evaluation off at the same point.

    It changed nothing, and can be repeated.
    """


def examples_of_rank(test_examples: int, block_size: int, world_size: int, rank: int) -> range:
    """The test examples that ``rank`` evaluates: a contiguous run of whole blocks of ``block_size``
    (the last may be short).
    """
    blocks = span_of(num_blocks(test_examples, block_size), world_size, rank)
    return range(
        min(blocks.start * block_size, test_examples), min(blocks.stop * block_size, test_examples)
    )


def num_blocks(examples: int, block_size: int) -> int:
    """How many blocks hold ``examples``."""
    return -(-examples // block_size)


@dataclass
class Evaluation:
    """Tests ``network`` on this rank's ``part`` of the test set, in blocks of the microbatch's
    shape.
    """

    network: PlannedNetwork
    loss: Loss
    part: Part
    test_examples: int
    microbatch: Microbatch
    communicator: Communicator
    blocks_between_looks: int = 8
    """After this many blocks of each rank all ranks look together whether one was asked to stop."""
    stop_request: Callable[[], str | None] = lambda: None
    """The signal that asked this rank to stop, if any."""
    predicted: NDArray[np.int64] | None = field(default=None, init=False)
    """Of the newest evaluation: how many test images were put into each class."""

    def __call__(self) -> Totals:
        """Loss, right answers and examples over the whole test set, the same on every rank and on
        any number of them.

        ``EvaluationFailure`` on all ranks when the loss is not finite, ``TrainingError`` when an
        example was not tested exactly once, ``EvaluationStopped`` on all ranks when one of them was
        asked to stop.
        """
        with _EVALUATION:
            return self.take()

    def take(self) -> Totals:
        """What a call does; with a name of its own, so that an instrument can take its place."""
        blocks = num_blocks(self.test_examples, self.microbatch.size)
        (classes,) = self.network.output_shape
        sums = np.zeros(TALLY_SIZE + classes + blocks)
        counts, predicted, tested = np.split(sums, [TALLY_SIZE, TALLY_SIZE + classes])
        tally = Tally(counts, blocks)
        problem = None
        first_block = self.part.first_example // self.microbatch.size
        for step in self._steps(blocks):
            block = first_block + step
            pulse.beat(Activity.EVALUATING, detail=block)
            try:
                predicted += self._add_block(tally, step)
            except (RangeError, NotFinite) as error:
                first = block * self.microbatch.size
                where = (
                    error
                    if isinstance(error, NotFinite)
                    else first_not_finite(self.network, self.loss, self.microbatch)
                )
                problem = (
                    problem
                    or f"test examples {first} to {first + len(self.microbatch.chosen) - 1}: {where or error}"  # noqa: E501
                )
                tally.fail()
            tested[block] += len(self.microbatch.chosen)
        pulse.beat(Activity.SUMMING_EVALUATION)
        self.communicator.allreduce_sum(sums)
        totals = tally.totals()
        if totals.failures:
            problem = next(each for each in self.communicator.allgather(problem) if each)
            raise EvaluationFailure(
                f"evaluation: {problem}: the training has diverged; lower --learning-rate"
            )
        self._check_each_once(tested)
        self.predicted = predicted.astype(np.int64)
        return totals

    def _steps(self, blocks: int) -> Iterator[int]:
        """This rank's blocks of all ``blocks``, numbered from 0.

        All ranks look equally often whether to stop.
        """
        own, most = (
            num_blocks(self.part.examples, self.microbatch.size),
            num_blocks(blocks, self.communicator.world_size),
        )
        for start in range(0, most, self.blocks_between_looks):
            asked = np.array([self.stop_request() is not None], np.float64)
            self.communicator.allreduce_sum(asked)
            if asked[0]:
                raise EvaluationStopped
            yield from range(start, min(start + self.blocks_between_looks, own))

    def _add_block(self, tally: Tally, step: int) -> NDArray[np.int64]:
        """Add a block's counts; return how many of its examples were put into each class."""
        examples = self.part.fill(self.microbatch, 0, step)
        with computing():  # the tally refuses what is out of range
            outputs = self.network.forward(self.microbatch.images)
            loss_sum, _ = self.loss(outputs, self.microbatch.labels, self.microbatch.weights)
        tally.add(loss_sum, count_correct(outputs, self.microbatch), examples)
        return np.bincount(outputs[:, :examples].argmax(axis=0), minlength=len(outputs))

    def _check_each_once(self, tested: np.ndarray) -> None:
        expected = np.full(len(tested), self.microbatch.size)
        expected[-1] = self.test_examples - (len(tested) - 1) * self.microbatch.size
        wrong = np.flatnonzero(tested != expected)
        if wrong.size:
            block = wrong[0]
            raise TrainingError(
                f"evaluation: block {block} of the test set counted"
                f" {counted(round(tested[block]), 'example')}, not {expected[block]}: every test"
                " example must be tested exactly once"
            )
