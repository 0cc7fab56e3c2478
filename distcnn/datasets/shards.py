"""Shards: which examples, in which order, in which microbatch.

Nothing here hangs on the rank or on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import Images, Labels
from distcnn.datasets.sampler import Order


class Stretch(NamedTuple):
    """The examples ``chosen`` of a shard (indices in it), all among ``images`` and ``labels``,
    which begin at its example ``first``.
    """

    images: Images
    labels: Labels
    first: int
    chosen: NDArray[np.integer]


class Microbatch:
    """Planned buffers for ``microbatch_size`` examples: what a network and a loss take.

    ``images`` (C, H, W, N) float32, normalised; ``labels`` (N,) int64; ``weights`` (N,) float32: 1,
    or 0 for padding. ``chosen`` (n,): which examples those of weight 1 are, as indices in what they
    were taken from.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        microbatch_size: int,
        mean: NDArray[np.float64],
        std: NDArray[np.float64],
    ) -> None:
        channels, height, width = image_shape
        self.size = microbatch_size
        self.images = np.zeros((*image_shape, microbatch_size), np.float32)
        self.labels = np.zeros(microbatch_size, np.int64)
        self.weights = np.zeros(microbatch_size, np.float32)
        self.chosen: NDArray[np.integer] = np.empty(0, np.int64)
        self._pixels = np.zeros((microbatch_size, height, width, channels), np.uint8)
        # (pixel / 255 - mean) / std as one product and one difference. A constant channel (std 0)
        # is only centred.
        divisor = np.where(std > 0, std, 1.0)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # a std next to nothing: the first step names the images it makes
            self._scale = (1 / (255 * divisor)).astype(np.float32).reshape(channels, 1, 1, 1)
            self._shift = (mean / divisor).astype(np.float32).reshape(channels, 1, 1, 1)

    def fill(self, images: Images, labels: Labels, chosen: NDArray[np.integer]) -> int:
        """Take the examples ``chosen`` (at most ``size``) and pad with examples of weight zero;
        return how many were taken.
        """
        return self.fill_from([Stretch(images, labels, 0, chosen)])

    def fill_from(self, stretches: Iterable[Stretch]) -> int:
        """Take the examples of all ``stretches``, one after the other; otherwise as ``fill``."""
        count, taken = 0, []
        for images, labels, first, chosen in stretches:
            rows, part = chosen - first, slice(count, count + len(chosen))
            np.take(images, rows, axis=0, out=self._pixels[part], mode="clip")
            self.labels[part] = labels[rows]
            count += len(chosen)
            taken.append(chosen)
        self.chosen = (
            taken[0] if len(taken) == 1 else np.concatenate([np.empty(0, np.int64), *taken])
        )
        self._pixels[count:] = 0
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(self._pixels.transpose(3, 1, 2, 0), self._scale, out=self.images)
            self.images -= self._shift
        self.labels[count:] = 0
        self.weights[:count], self.weights[count:] = 1, 0
        return count


class Part(Protocol):
    """A run of examples, to be used in microbatches: a shard, or the test examples of a rank, in
    memory or in windows.
    """

    index: int
    first_example: int
    """The index of its first one in the split."""

    @property
    def examples(self) -> int:
        """How many it has, possibly 0."""

    def chosen(self, epoch: int, step_of_epoch: int, microbatch_size: int) -> NDArray[np.int64]:
        """The examples of a step, indices in the part: what ``fill`` takes."""

    def fill(self, microbatch: Microbatch, epoch: int, step_of_epoch: int) -> int:
        """Fill ``microbatch`` with this part's examples for a step; past its end they are all
        padding. Returns how many are not.
        """

    def pieces(self, size: int | None = None) -> Iterator[tuple[Images, Labels]]:
        """All its examples, as they lie in the file: images (n, H, W, C) and labels (n,), by the
        ``size`` if it is given.
        """


@dataclass
class Shard:
    """A fixed slice of the training set, in memory: ``images`` (n, H, W, C) uint8 and ``labels``
    (n,), n possibly 0.

    ``first_example`` is the index of its first one in the training set. A rank's test examples are
    one too, not ``shuffled``.
    """

    index: int
    images: Images
    labels: Labels
    seed: int
    first_example: int = 0
    shuffled: bool = True

    def __post_init__(self) -> None:
        self._order = Order(self.seed, self.index, np.unique([0, len(self.labels)]), self.shuffled)

    @property
    def examples(self) -> int:
        return len(self.labels)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's order of the shard's examples, drawn from (seed, epoch, shard) alone."""
        return self._order.chosen(epoch, 0, self.examples)

    def chosen(self, epoch: int, step_of_epoch: int, microbatch_size: int) -> NDArray[np.int64]:
        """See ``Part``."""
        return self._order.chosen(
            epoch, step_of_epoch * microbatch_size, (step_of_epoch + 1) * microbatch_size
        )

    def fill(self, microbatch: Microbatch, epoch: int, step_of_epoch: int) -> int:
        """See ``Part``."""
        return microbatch.fill(
            self.images, self.labels, self.chosen(epoch, step_of_epoch, microbatch.size)
        )

    def pieces(self, size: int | None = None) -> Iterator[tuple[Images, Labels]]:
        """See ``Part``."""
        size = size or max(1, self.examples)
        for start in range(0, self.examples, size):
            yield self.images[start : start + size], self.labels[start : start + size]


def steps_per_epoch(train_examples: int, num_shards: int, microbatch_size: int) -> int:
    """Steps until the largest shard is used up: the same for all ranks."""
    largest = -(-train_examples // num_shards)
    return -(-largest // microbatch_size)
