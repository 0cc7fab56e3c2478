"""How well a network does on labelled images: ``Score``, and ``Tally``, which counts it."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets import Microbatch
from distcnn.distributed import STATS_SIZE, Communicator, RangeError, StepStats
from distcnn.errors import InputError
from distcnn.nn import NATIVE, PORTABLE, softmax_cross_entropy
from distcnn.nn.layer import Array
from distcnn.nn.losses import Loss, portable_loss
from distcnn.portable import functions

NORMAL_95 = 1.959963984540054
"""95 % of a normal distribution lie within this many standard deviations."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mistake:
    """An image that was put into a wrong class.

    Attributes:
        index: of the image, in the images that were evaluated.
        label: its class.
        predicted: the class that the network found more probable than any other.
        probability: of ``predicted``.
        loss: the image's cross-entropy, -log of the probability of ``label``.
    """

    index: int
    label: int
    predicted: int
    probability: float
    loss: float


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """Results of a network on labelled images of K classes.

    Attributes:
        confusion: (K, K) int64: how many images of each class (row) were put into each (column).
        loss: the mean cross-entropy.
        mistakes: the worst ``MOST_MISTAKES`` at most, that with the largest loss first.
    """

    MOST_MISTAKES: ClassVar[int] = 100

    confusion: NDArray[np.int64]
    loss: float
    mistakes: tuple[Mistake, ...]

    @property
    def examples(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """The number of images that were put into their class."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """The fraction of images that were put into their class."""
        return self.correct / self.examples

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy (Wilson 1927)."""
        return wilson_interval(self.correct, self.examples)

    def confusions(self, most: int) -> list[tuple[int, int, int]]:
        """The most frequent ones: true class, predicted class, number of images."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = (divmod(int(place), len(wrong)) for place in order)
        return [(*pair, int(wrong[pair])) for pair in pairs if wrong[pair]]

    @property
    def precision(self) -> Floats:
        """(K,): of the images put into each class, the fraction that belongs there; nan if none
        was.
        """
        return _fractions(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Floats:
        """(K,): of the images of each class, the fraction that was put there; nan without any."""
        return _fractions(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def f1(self) -> Floats:
        """(K,): the harmonic mean of precision and recall; nan for a class that never occurs."""
        both = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        return _fractions(2 * self.confusion.diagonal(), both)

    def __repr__(self) -> str:
        return (
            f"Score(accuracy={self.accuracy}, correct={self.correct}, examples={self.examples},"
            f" loss={self.loss})"
        )


def wilson_interval(correct: int, examples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a probability, after ``correct`` of ``examples`` trials.

    Wilson's score interval (1927): unlike the normal approximation it is right near 0 and 1.
    """
    z2, p = NORMAL_95 * NORMAL_95, correct / examples
    centre = (p + z2 / (2 * examples)) / (1 + z2 / examples)
    spread = p * (1 - p) / examples + z2 / (4 * examples**2)
    half = NORMAL_95 * math.sqrt(spread) / (1 + z2 / examples)
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    return low, 1.0 if correct == examples else min(1.0, centre + half)


class Tally:
    """Counts what a ``Score`` is made of, microbatch by microbatch.

    The result depends neither on their order nor on which rank has counted which: the loss is an
    exact sum.

    Args:
        classes: the number of classes.
        microbatches: how many will be counted at most, on all ranks.
        arithmetic: "native", or "portable" for the same bits on every machine.
    """

    def __init__(self, classes: int, microbatches: int, arithmetic: str = NATIVE) -> None:
        self._is_portable = arithmetic == PORTABLE
        self._loss: Loss = softmax_cross_entropy
        if self._is_portable:
            self._loss = portable_loss(softmax_cross_entropy)
        self._confusion = np.zeros((classes, classes), np.int64)
        self._stats = StepStats(np.zeros(STATS_SIZE), microbatches)
        self._worst: list[tuple[float, int, Mistake]] = []
        """A heap, the mistake to drop first in front."""

    def add(self, first: int, logits: Array, batch: Microbatch) -> None:
        """Count a microbatch, whose images begin with number ``first``.

        Args:
            first: the index of its first image.
            logits: (K, N), the outputs for it, those for padding at the end.
            batch: the microbatch.

        Raises:
            InputError: an output is not finite.
        """
        count, labels = len(batch.chosen), batch.labels
        loss_sum, _ = self._loss(logits, labels, batch.weights)
        predicted = logits.argmax(axis=0)
        wrong = np.flatnonzero(predicted[:count] != labels[:count])
        try:
            self._stats.add(loss_sum, count - len(wrong), count)
        except RangeError as error:
            raise InputError(
                f"examples {first} to {first + count - 1}: their loss is {loss_sum:g}: the weights"
                " are not finite, or not those of a trained network"
            ) from error
        np.add.at(self._confusion, (labels[:count], predicted[:count]), 1)
        shifted = logits[:, wrong].astype(np.float64) - logits[:, wrong].max(axis=0)
        if self._is_portable:
            log_sums = functions.log(functions.total(functions.exp(shifted)))
            probabilities = functions.exp(-log_sums).tolist()
        else:
            log_sums = np.log(np.exp(shifted).sum(axis=0))
            probabilities = [math.exp(-log_sum) for log_sum in log_sums]
        for column, index in enumerate(wrong.tolist()):
            label, found = int(labels[index]), int(predicted[index])
            loss = float(log_sums[column] - shifted[label, column])
            self._keep(Mistake(first + index, label, found, probabilities[column], loss))

    def all_reduce(self, communicator: Communicator) -> None:
        """Count what all ranks have counted. Collective."""
        communicator.allreduce_sum(self._stats.sums)
        communicator.allreduce_sum(self._confusion)
        own, self._worst = self._worst, []
        for of_rank in communicator.allgather([mistake for *_, mistake in own]):
            for mistake in of_rank:
                self._keep(mistake)

    def score(self) -> Score:
        """The result; at least one example must have been counted."""
        worst = sorted(self._worst, reverse=True)
        totals = self._stats.totals()
        return Score(self._confusion, totals.loss, tuple(mistake for *_, mistake in worst))

    def _keep(self, mistake: Mistake) -> None:
        """Keep the worst; of equal ones, those that come first."""
        item = (mistake.loss, -mistake.index, mistake)
        if len(self._worst) < Score.MOST_MISTAKES:
            heapq.heappush(self._worst, item)
        else:
            heapq.heappushpop(self._worst, item)


def _fractions(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> Floats:
    """``counts / totals``, nan where a total is zero."""
    fractions = np.full(len(counts), np.nan)
    np.divide(counts, totals, out=fractions, where=totals > 0)
    return fractions
