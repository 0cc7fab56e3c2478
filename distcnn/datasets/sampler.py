"""The order of a shard's examples in an epoch: a pure function of (seed, epoch, shard) and of how
the shard is cut into windows.

Every example has a random word. Within a window, examples come in the order of their words; the
windows come in the order of words of their own. A shard in memory is one window, so its whole is
shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from distcnn.random_streams import SHUFFLE, SHUFFLE_WINDOWS, generator

WORDS_A_COUNT = 4
"""Words that Philox makes of one value of its counter."""


class Order:
    """``bounds``: where the windows begin, and the end, as indices in the shard: [0, ..., n].

    Without ``shuffled`` nothing is moved.
    """

    def __init__(
        self,
        seed: int,
        shard: int,
        bounds: Sequence[int] | NDArray[np.int64],
        shuffled: bool = True,
    ) -> None:
        self._seed, self._shard, self._shuffled = seed, shard, shuffled
        self._bounds = np.asarray(bounds, np.int64)
        self._epoch, self._windows, self._starts = -1, np.empty(0, np.int64), np.zeros(1, np.int64)
        self._drawn: tuple[int, int] | None = None

    def stretches(
        self, epoch: int, first: int, stop: int
    ) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """The examples at the places ``first`` to ``stop`` of the epoch, by window: its position in
        the epoch, indices in the shard.
        """
        self._begin(epoch)
        position = int(np.searchsorted(self._starts, first, side="right")) - 1
        while first < min(stop, self._starts[-1]):
            start = int(self._starts[position])
            yield position, self._examples(epoch, position)[first - start : stop - start]
            position += 1
            first = int(self._starts[position])

    def chosen(self, epoch: int, first: int, stop: int) -> NDArray[np.int64]:
        """The examples at the places ``first`` to ``stop`` of the epoch, indices in the shard;
        fewer at its end.
        """
        found = [chosen for _, chosen in self.stretches(epoch, first, stop)]
        return found[0] if len(found) == 1 else np.concatenate([np.empty(0, np.int64), *found])

    def window(self, epoch: int, position: int) -> range:
        """The window at ``position`` in the epoch, a span of indices in the shard; past the end,
        the next epoch's first one.
        """
        self._begin(epoch)
        last = position >= len(self._windows)
        index = self._window_order(epoch + 1)[0] if last else self._windows[position]
        return range(int(self._bounds[index]), int(self._bounds[index + 1]))

    def _begin(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._epoch, self._windows = epoch, self._window_order(epoch)
            self._starts = np.concatenate([[0], np.cumsum(np.diff(self._bounds)[self._windows])])

    def _window_order(self, epoch: int) -> NDArray[np.int64]:
        count = len(self._bounds) - 1
        if not self._shuffled or count < 2:
            return np.arange(count)
        return np.argsort(
            generator(self._seed, SHUFFLE_WINDOWS, epoch, self._shard).random_raw(count),
            kind="stable",
        )

    def _examples(self, epoch: int, position: int) -> NDArray[np.int64]:
        """The examples of one window in their order, kept until another window's are drawn."""
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
        stream.advance(span.start // WORDS_A_COUNT)
        before = span.start % WORDS_A_COUNT
        words: NDArray[np.uint64] = np.atleast_1d(stream.random_raw(before + len(span)))[before:]
        return words
