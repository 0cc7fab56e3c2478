"""Shards: which examples, in which order, in which microbatch. Nothing here hangs on the rank or on the number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import Images, Labels
from distcnn.streams import SHUFFLE, generator


class Microbatch:
    """Planned buffers for ``microbatch_size`` examples: what a network and a loss take.

    ``images`` (C, H, W, N) float32, normalised; ``labels`` (N,) int64; ``weights`` (N,) float32: 1, or 0 for padding.
    ``chosen`` (n,): which examples those of weight 1 are, as indices in what they were taken from.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], microbatch_size: int, mean: NDArray[np.float64], std: NDArray[np.float64]
    ) -> None:
        channels, height, width = image_shape
        self.size = microbatch_size
        self.images = np.zeros((*image_shape, microbatch_size), np.float32)
        self.labels = np.zeros(microbatch_size, np.int64)
        self.weights = np.zeros(microbatch_size, np.float32)
        self.chosen: NDArray[np.integer] = np.empty(0, np.int64)
        self._pixels = np.zeros((microbatch_size, height, width, channels), np.uint8)
        # (pixel / 255 - mean) / std as one product and one difference. A constant channel (std 0) is only centred.
        divisor = np.where(std > 0, std, 1.0)
        with np.errstate(over="ignore", invalid="ignore"):  # a std next to nothing: the first step names the images it makes
            self._scale = (1 / (255 * divisor)).astype(np.float32).reshape(channels, 1, 1, 1)
            self._shift = (mean / divisor).astype(np.float32).reshape(channels, 1, 1, 1)

    def fill(self, images: Images, labels: Labels, chosen: NDArray[np.integer]) -> int:
        """Take the examples ``chosen`` (at most ``size``) and pad with examples of weight zero; return how many were taken."""
        self.chosen, count = chosen, len(chosen)
        np.take(images, chosen, axis=0, out=self._pixels[:count], mode="clip")
        self._pixels[count:] = 0
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(self._pixels.transpose(3, 1, 2, 0), self._scale, out=self.images)
            self.images -= self._shift
        self.labels[:count], self.labels[count:] = labels[chosen], 0
        self.weights[:count], self.weights[count:] = 1, 0
        return count


@dataclass
class Shard:
    """A fixed slice of the training set: ``images`` (n, H, W, C) uint8 and ``labels`` (n,), n possibly 0.

    ``first_example`` is the index of its first one in the training set.
    """

    index: int
    images: Images
    labels: Labels
    seed: int
    first_example: int = 0

    def __post_init__(self) -> None:
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's order of the shard's examples, drawn from (seed, epoch, shard) alone.

        Sorting the generator's raw 64-bit words, whose stream NumPy guarantees never to change, gives the permutation.
        """
        if epoch != self._epoch:
            words = generator(self.seed, SHUFFLE, epoch, self.index).random_raw(len(self.labels))
            self._epoch, self._order = epoch, np.argsort(np.atleast_1d(words), kind="stable")
        return self._order

    def fill(self, microbatch: Microbatch, epoch: int, step_of_epoch: int) -> int:
        """Fill ``microbatch`` with this shard's examples for a step; past its end they are all padding. Returns how many are not."""
        first = step_of_epoch * microbatch.size
        return microbatch.fill(self.images, self.labels, self.order(epoch)[first : first + microbatch.size])


def steps_per_epoch(train_examples: int, num_shards: int, microbatch_size: int) -> int:
    """Steps until the largest shard is used up: the same for all ranks."""
    largest = -(-train_examples // num_shards)
    return -(-largest // microbatch_size)
