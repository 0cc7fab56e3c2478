"""Evaluation, spread over all ranks and exact: canonical blocks of one fixed shape, sums of integers, the exact sum of losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distcnn.datasets import Microbatch
from distcnn.datasets.hdf5 import Images, Labels
from distcnn.errors import TrainingError
from distcnn.nn import Sequential
from distcnn.nn.losses import Loss
from distcnn.parallel import TALLY_SIZE, Communicator, RangeError, Tally, Totals, span_of
from distcnn.training.step import count_correct


def examples_of_rank(test_examples: int, block_size: int, world_size: int, rank: int) -> range:
    """The test examples that ``rank`` evaluates: a contiguous run of whole blocks of ``block_size`` (the last may be short)."""
    blocks = span_of(num_blocks(test_examples, block_size), world_size, rank)
    return range(min(blocks.start * block_size, test_examples), min(blocks.stop * block_size, test_examples))


def num_blocks(examples: int, block_size: int) -> int:
    """How many blocks hold ``examples``."""
    return -(-examples // block_size)


@dataclass
class Evaluation:
    """Tests ``network`` on this rank's part of the test set, in blocks of the microbatch's shape."""

    network: Sequential
    loss: Loss
    images: Images
    labels: Labels
    test_examples: int
    microbatch: Microbatch
    communicator: Communicator

    def __call__(self) -> Totals:
        """Loss, right answers and examples over the whole test set, the same on every rank and on any number of them."""
        sums = np.zeros(TALLY_SIZE)
        tally = Tally(sums, num_blocks(self.test_examples, self.microbatch.size))
        for start in range(0, len(self.labels), self.microbatch.size):
            self._add_block(tally, np.arange(start, min(start + self.microbatch.size, len(self.labels))))
        self.communicator.allreduce_sum(sums)
        totals = tally.totals()
        if totals.failures:
            raise TrainingError("evaluation: the test loss is no finite number: the training has diverged; lower --learning-rate")
        if totals.examples != self.test_examples:
            raise AssertionError(f"{totals.examples} test examples were evaluated, not {self.test_examples}")
        return totals

    def _add_block(self, tally: Tally, chosen: np.ndarray) -> None:
        examples = self.microbatch.fill(self.images, self.labels, chosen)
        with np.errstate(over="ignore", invalid="ignore"):  # the tally refuses what these would warn of
            outputs = self.network.forward(self.microbatch.images)
            loss_sum, _ = self.loss(outputs, self.microbatch.labels, self.microbatch.weights)
        try:
            tally.add(loss_sum, count_correct(outputs, self.microbatch), examples)
        except RangeError:
            tally.fail()
