"""Evaluation over all ranks, exact: blocks of one fixed shape and exact sums."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distcnn import spans
from distcnn.datasets import Part
from distcnn.distributed import STATS_SIZE, Communicator, RangeError, StepStats, Totals, share_of
from distcnn.errors import TrainingError
from distcnn.nn import numpy_settings
from distcnn.nn.losses import Loss
from distcnn.spans import Span
from distcnn.system.wording import counted
from distcnn.training.failures import EvaluationFailure, first_not_finite
from distcnn.training.step import Lane, StopRequest, count_correct


class EvaluationStopped(Exception):
    """A rank was asked to stop: all ranks have left the evaluation, which can be repeated."""


def examples_of_rank(examples: int, block_size: int, world_size: int, rank: int) -> range:
    """The part of ``examples`` that ``rank`` evaluates: whole blocks, except for the last one."""
    blocks = share_of(num_blocks(examples, block_size), world_size, rank)
    start, stop = blocks.start * block_size, blocks.stop * block_size
    return range(min(start, examples), min(stop, examples))


def num_blocks(examples: int, block_size: int) -> int:
    """How many blocks hold ``examples``."""
    return -(-examples // block_size)


@dataclass
class Evaluation:
    """Evaluates a network on a ``split``, in blocks of the microbatch's shape.

    This rank has ``part`` of its ``examples``. After every ``blocks_between_checks`` blocks,
    all ranks check together whether one was asked to stop.
    """

    lane: Lane
    loss: Loss
    part: Part
    examples: int
    communicator: Communicator
    blocks_between_checks: int = 8
    stop_request: StopRequest = lambda: None
    split: str = "test"
    predicted: NDArray[np.int64] | None = field(default=None, init=False)
    """Number of images that the latest evaluation put into each class."""

    def __call__(self, **labels: object) -> Totals:
        """Loss, correct answers and examples over the whole split, on every rank. Collective.

        All ranks raise ``EvaluationFailure`` or ``EvaluationStopped`` together. ``labels`` are the
        span's, beside the split.
        """
        with Span(spans.EVALUATION, split=self.split, **labels):
            return self._evaluate()

    def _evaluate(self) -> Totals:
        size = self.lane.microbatch.size
        blocks = num_blocks(self.examples, size)
        (classes,) = self.lane.plan.output_shape
        sums = np.zeros(STATS_SIZE + classes + blocks)
        counts, predicted, tested = np.split(sums, [STATS_SIZE, STATS_SIZE + classes])
        stats = StepStats(counts, blocks)
        problem = None
        first_block = self.part.first_example // size
        own_blocks = num_blocks(self.part.examples, size)
        most_blocks = num_blocks(blocks, self.communicator.world_size)
        for own_block in range(most_blocks):
            if own_block % self.blocks_between_checks == 0:
                self._stop_if_asked()  # equally often on all ranks
            if own_block >= own_blocks:
                continue
            block = first_block + own_block
            with Span(spans.TEST_BLOCK, block=block):
                try:
                    predicted += self._add_block(stats, own_block)
                except RangeError as error:
                    problem = problem or self._explained(block, error)
                    stats.fail()
                tested[block] += len(self.lane.microbatch.chosen)
        with Span(spans.SUM_EVALUATION):
            self.communicator.allreduce_sum(sums)
            totals = stats.totals()
            if totals.failures:
                problem = next(text for text in self.communicator.allgather(problem) if text)
                raise EvaluationFailure(
                    f"evaluation: {problem}: the training has diverged; lower --learning-rate"
                )
        self._check_each_once(tested)
        self.predicted = predicted.astype(np.int64)
        return totals

    def _stop_if_asked(self) -> None:
        """``EvaluationStopped`` on all ranks, if any should stop. Collective."""
        asked = np.array([self.stop_request() is not None], np.float64)
        self.communicator.allreduce_sum(asked)
        if asked[0]:
            raise EvaluationStopped

    def _add_block(self, stats: StepStats, own_block: int) -> NDArray[np.int64]:
        """Add a block's counts; return how many of its examples were put into each class."""
        plan, microbatch = self.lane
        with Span(spans.READ_DATA):
            examples = self.part.fill(microbatch, 0, own_block)
        with numpy_settings():  # the sums reject what is out of range
            logits = plan.forward(microbatch.images, training=False)
            with Span(spans.LOSS):
                loss_sum, _ = self.loss(logits, microbatch.labels, microbatch.weights)
        stats.add(loss_sum, count_correct(logits, microbatch), examples)
        return np.bincount(logits[:, :examples].argmax(axis=0), minlength=len(logits))

    def _explained(self, block: int, error: RangeError) -> str:
        """Which examples of ``block`` have a loss that cannot be added, and the origin of it."""
        plan, microbatch = self.lane
        where = first_not_finite(plan, self.loss, microbatch) or error
        rows = self.part.rows(microbatch.chosen)
        if self.split == "test":
            return f"test examples {rows[0]} to {rows[-1]}: {where}"
        return f"{where}; {self.split} examples {', '.join(map(str, rows))} of the training set"

    def _check_each_once(self, tested: NDArray[np.float64]) -> None:
        size = self.lane.microbatch.size
        expected = np.full(len(tested), size)
        expected[-1] = self.examples - (len(tested) - 1) * size
        for block in np.flatnonzero(tested != expected):
            raise TrainingError(
                f"evaluation: block {block} of the {self.split} set counted"
                f" {counted(round(tested[block]), 'example')}, not {expected[block]}: every"
                f" {self.split} example must be evaluated exactly once"
            )
