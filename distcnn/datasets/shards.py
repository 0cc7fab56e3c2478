"""Shards: which examples, in which order, in which microbatch.

All of it depends on (seed, epoch, step, shard), never on the rank or the number of ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distcnn.datasets.hdf5 import Images, Indices, Labels
from distcnn.random_streams import SHUFFLE, SHUFFLE_WINDOWS, generator

Stretch = tuple[Images, Labels, int, Indices]
"""Images and labels, the first one's index in the shard, and the indices of those to take."""
WORDS_PER_COUNT = 4
"""Words that Philox produces per value of its counter."""
NO_EXAMPLES: Indices = np.empty(0, np.int64)


class Order:
    """The order of a shard's examples in each epoch.

    Every example gets a random word. Within a window, examples are sorted by their words; windows
    are sorted by words of their own. A shard in memory is one window, so all of it is shuffled.
    ``bounds`` says where windows begin, and the end, as indices in the shard: [0, ..., n]. Examples
    that are not ``shuffled`` keep the order of the file.
    """

    def __init__(self, seed: int, shard: int, bounds: ArrayLike, shuffled: bool = True) -> None:
        self._seed, self._shard, self._shuffled = seed, shard, shuffled
        self._bounds = np.asarray(bounds, np.int64)
        self.examples = int(self._bounds[-1])
        self._epoch = -1
        self._drawn: tuple[int, int] | None = None

    def stretches(self, epoch: int, first: int, stop: int) -> Iterator[tuple[int, Indices]]:
        """The examples at positions ``first`` to ``stop`` of the epoch, one window at a time: its
        position in the epoch, and indices in the shard.
        """
        self._begin(epoch)
        position = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < min(stop, self.examples):
            start = int(self._starts[position])
            yield position, self._examples(epoch, position)[first - start : stop - start]
            position += 1
            first = int(self._starts[position])

    def chosen(self, epoch: int, first: int, stop: int) -> Indices:
        """The examples at positions ``first`` to ``stop`` of the epoch, or fewer at its end."""
        return _joined([chosen for _, chosen in self.stretches(epoch, first, stop)])

    def window(self, epoch: int, position: int) -> range:
        """The window at ``position`` in the epoch, as indices in the shard; past the end of the
        epoch, the first window of the next one.
        """
        self._begin(epoch)
        last = position >= len(self._windows)
        index = self._window_order(epoch + 1)[0] if last else self._windows[position]
        return range(int(self._bounds[index]), int(self._bounds[index + 1]))

    def _begin(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._windows = epoch, self._window_order(epoch)
            self._starts = np.concatenate([[0], np.cumsum(np.diff(self._bounds)[self._windows])])

    def _window_order(self, epoch: int) -> Indices:
        count = len(self._bounds) - 1
        if not self._shuffled or count < 2:
            return np.arange(count)
        words = generator(self._seed, SHUFFLE_WINDOWS, epoch, self._shard).random_raw(count)
        return np.argsort(words, kind="stable")

    def _examples(self, epoch: int, position: int) -> Indices:
        """The examples of a window in their order; kept until those of another one are drawn."""
        if self._drawn != (epoch, position):
            span = self.window(epoch, position)
            self._order = np.arange(span.start, span.stop)
            if self._shuffled:
                self._order = np.argsort(self._words(epoch, span), kind="stable")
                self._order += span.start
            self._drawn = (epoch, position)
        return self._order

    def _words(self, epoch: int, span: range) -> NDArray[np.uint64]:
        """The examples' words: NumPy guarantees never to change the generator's raw stream."""
        stream = generator(self._seed, SHUFFLE, epoch, self._shard)
        stream.advance(span.start // WORDS_PER_COUNT)
        before = span.start % WORDS_PER_COUNT
        words: NDArray[np.uint64] = np.atleast_1d(stream.random_raw(before + len(span)))[before:]
        return words


def _joined(parts: Sequence[Indices]) -> Indices:
    return parts[0] if len(parts) == 1 else np.concatenate([NO_EXAMPLES, *parts])


class Microbatch:
    """Planned buffers for ``microbatch_size`` examples: the input of a network and a loss.

    Attributes:
        images: (C, H, W, N) float32, normalised: (pixel / 255 - mean) / std.
        labels: (N,) int64.
        weights: (N,) float32: 1, or 0 for padding.
        chosen: (n,) the examples with weight 1, as indices in what they were taken from.
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
        self.chosen = NO_EXAMPLES
        self._pixels = np.zeros((microbatch_size, height, width, channels), np.uint8)
        # Normalised as one product and one difference. A constant channel (std 0) is only centred.
        divisor = np.where(std > 0, std, 1.0)
        # A tiny std may overflow; the first step then reports images that are not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            self._scale = (1 / (255 * divisor)).astype(np.float32).reshape(channels, 1, 1, 1)
            self._shift = (mean / divisor).astype(np.float32).reshape(channels, 1, 1, 1)

    def fill(self, images: Images, labels: Labels, chosen: Indices) -> int:
        """Take the examples ``chosen`` (at most ``size``) and pad with examples of weight zero.

        Returns how many were taken.
        """
        return self.fill_from([(images, labels, 0, chosen)])

    def fill_from(self, stretches: Iterable[Stretch]) -> int:
        """As ``fill``, with the examples of all ``stretches``, one after the other."""
        count, taken = 0, []
        for images, labels, first, chosen in stretches:
            rows, part = chosen - first, slice(count, count + len(chosen))
            np.take(images, rows, axis=0, out=self._pixels[part], mode="clip")
            self.labels[part] = labels[rows]
            count += len(chosen)
            taken.append(chosen)
        self.chosen = _joined(taken)
        self._pixels[count:] = 0
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(self._pixels.transpose(3, 1, 2, 0), self._scale, out=self.images)
            self.images -= self._shift
        self.labels[count:] = 0
        self.weights[:count], self.weights[count:] = 1, 0
        return count


class Part(ABC):
    """Examples that are used in microbatches: a shard of the training set, or a rank's test set.

    Attributes:
        index: The shard's number.
        first_example: The index of its first example in the split.
        examples: The number of examples, possibly 0.
        locate: The rows in the file of examples that are given as indices in the split.
    """

    locate: Callable[[Indices], Indices] = staticmethod(lambda indices: indices)

    def __init__(self, index: int, first_example: int, order: Order) -> None:
        self.index, self.first_example, self.examples = index, first_example, order.examples
        self._order = order

    def rows(self, chosen: Indices) -> Indices:
        """Where the examples ``chosen``, indices in the part, are in the file's split."""
        return self.locate(self.first_example + chosen)

    def order(self, epoch: int) -> Indices:
        """The order of all examples in an epoch, as indices in the part."""
        return self._order.chosen(epoch, 0, self.examples)

    def chosen(self, epoch: int, step_of_epoch: int, microbatch_size: int) -> Indices:
        """The examples of a step, as indices in the part."""
        first = step_of_epoch * microbatch_size
        return self._order.chosen(epoch, first, first + microbatch_size)

    def fill(self, microbatch: Microbatch, epoch: int, step_of_epoch: int) -> int:
        """Fill ``microbatch`` with the examples of a step; past the end, with padding only.

        Returns the number of examples that are not padding.
        """
        first = step_of_epoch * microbatch.size
        positions = self._order.stretches(epoch, first, first + microbatch.size)
        return microbatch.fill_from(
            (*self.window(epoch, position), chosen) for position, chosen in positions
        )

    @abstractmethod
    def window(self, epoch: int, position: int) -> tuple[Images, Labels, int]:
        """Images and labels of the window at ``position`` in the epoch, and its first example."""

    @abstractmethod
    def pieces(self, size: int) -> Iterator[tuple[Images, Labels]]:
        """All examples in the order of the file, cut at multiples of ``size``."""


class Shard(Part):
    """A ``Part`` in memory: ``images`` (n, H, W, C) uint8 and ``labels`` (n,), n possibly 0."""

    def __init__(
        self,
        index: int,
        images: Images,
        labels: Labels,
        seed: int,
        first_example: int = 0,
        shuffled: bool = True,
    ) -> None:
        bounds = np.unique([0, len(labels)])
        super().__init__(index, first_example, Order(seed, index, bounds, shuffled))
        self.images, self.labels = images, labels

    def window(self, epoch: int, position: int) -> tuple[Images, Labels, int]:
        return self.images, self.labels, 0

    def pieces(self, size: int) -> Iterator[tuple[Images, Labels]]:
        for start in range(0, self.examples, size):
            yield self.images[start : start + size], self.labels[start : start + size]


def steps_per_epoch(train_examples: int, num_shards: int, microbatch_size: int) -> int:
    """Steps until the largest shard is used up: the same for all ranks."""
    largest = -(-train_examples // num_shards)
    return -(-largest // microbatch_size)
