"""A shard of which only two windows are in memory: the one that the steps take their examples from,
and the one read ahead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.examples import piece_size, pieces_of
from distcnn.datasets.hdf5 import Images, Labels
from distcnn.datasets.prefetch import Reader, Windows
from distcnn.datasets.sampler import Order
from distcnn.datasets.shards import Microbatch, Stretch


class WindowedShard:
    """The examples ``span`` of ``split``, cut at ``bounds`` (indices in it) into windows; a
    ``Part`` like ``Shard``.

    ``InputError`` of ``fill`` and ``pieces`` when the file cannot be read or a label is out of
    range.
    """

    def __init__(
        self,
        index: int,
        reader: Reader,
        split: str,
        span: range,
        bounds: NDArray[np.int64],
        seed: int,
        shuffled: bool = True,
    ) -> None:
        self.index, self.first_example, self.examples = index, span.start, len(span)
        self._file, self._split, self._span = reader.file, split, span
        self._order = Order(seed, index, bounds, shuffled)
        longest = int(np.diff(bounds).max(initial=0))
        self._windows = Windows(reader, split, longest, only_one=len(bounds) <= 2)

    def chosen(self, epoch: int, step_of_epoch: int, microbatch_size: int) -> NDArray[np.int64]:
        """See ``Part``."""
        return self._order.chosen(
            epoch, step_of_epoch * microbatch_size, (step_of_epoch + 1) * microbatch_size
        )

    def fill(self, microbatch: Microbatch, epoch: int, step_of_epoch: int) -> int:
        """See ``Part``. It waits where the window is not read yet."""
        return microbatch.fill_from(
            self._stretches(
                epoch, step_of_epoch * microbatch.size, (step_of_epoch + 1) * microbatch.size
            )
        )

    def pieces(self, size: int | None = None) -> Iterator[tuple[Images, Labels]]:
        """See ``Part``.

        They are read in the calling thread, into one buffer: a piece is gone when the next one
        comes.
        """
        longest = piece_size(self._file.info, self._split, size or 1)
        images, labels = self._file.empty(longest)
        for piece in pieces_of(self._span, longest):
            count = len(piece)
            self._file.read(self._split, piece, images[:count], labels[:count])
            for start in range(0, count, size or count):
                part = slice(start, min(start + (size or count), count))
                yield images[part], labels[part]

    def _stretches(self, epoch: int, first: int, stop: int) -> Iterator[Stretch]:
        for position, chosen in self._order.stretches(epoch, first, stop):
            window = self._windows.get(
                self._in_file(epoch, position), then=self._in_file(epoch, position + 1)
            )
            yield Stretch(
                window.images, window.labels, window.span.start - self.first_example, chosen
            )

    def _in_file(self, epoch: int, position: int) -> range:
        window = self._order.window(epoch, position)
        return range(self.first_example + window.start, self.first_example + window.stop)
