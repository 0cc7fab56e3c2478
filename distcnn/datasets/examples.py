"""Reading the examples of an image set, in pieces of about 1 MiB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from distcnn.datasets.hdf5 import DatasetInfo, ImageFile, Images, Labels
from distcnn.datasets.opening import short, told, trouble
from distcnn.errors import InputError

PIECE_BYTES = 2**20
"""About this much is read at once: a sign of life, and whoever else wants HDF5 waits no longer than that takes."""


def read_examples(info: DatasetInfo, split: str, span: range) -> tuple[Images, Labels]:
    """The examples ``span`` of a split: images (n, H, W, C) uint8 and labels (n,), each checked to be below ``info.classes``."""
    with closing(ExampleFile(info)) as file:
        images, labels = file.empty(len(span))
        for _ in file.read_in_pieces(split, span, images, labels):
            pass
    return images, labels


class ExampleFile:
    """An image set that is held open, to be read span by span. Threads may share it: h5py lets one read at a time.

    ``InputError`` when it cannot be opened.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        self._file = ImageFile(info.path)
        self.reads = 0
        """How often it has been read: a sign of life."""

    def empty(self, count: int) -> tuple[Images, Labels]:
        """Room for ``count`` examples: images (count, H, W, C) and labels (count,)."""
        channels, height, width = self.info.image_shape
        return np.empty((count, height, width, channels), np.uint8), np.empty(count, np.int64)

    def read(self, split: str, span: range, images: Images, labels: Labels) -> None:
        """Read the examples ``span`` into ``images`` (n, H, W, C) and ``labels`` (n,).

        ``InputError`` as ``read_examples``, and when the file was changed since it was opened.
        """
        with told(self.info.path):
            try:
                self._read(split, span, images, labels)
            finally:
                self._file.require_unchanged()  # HDF5 reads zeros past the end of a file that was cut off
                self.reads += 1

    def read_in_pieces(self, split: str, span: range, images: Images, labels: Labels) -> Iterator[range]:
        """As ``read``, piece by piece: what has been read comes as it is there."""
        for piece in pieces_of(span, piece_size(self.info, split)):
            part = slice(piece.start - span.start, piece.stop - span.start)
            self.read(split, piece, images[part], labels[part])
            yield piece

    def _read(self, split: str, span: range, images: Images, labels: Labels) -> None:
        path, rows, stored = self.info.path, slice(span.start, span.stop), self._file.datasets[f"{split}/images"]
        try:
            if len(span):
                stored.read_direct(images.reshape(-1, *stored.shape[1:]), rows)
            numbers = self._file.datasets[f"{split}/labels"][rows]
        except OSError as error:
            raise InputError(
                trouble(path, error)
                or f"{path}: /{split} is damaged, examples {span.start} to {span.stop} cannot be read ({short(error)}): make the file again"
            ) from error
        wrong = np.flatnonzero((numbers < 0) | (numbers >= self.info.classes))
        if wrong.size:
            raise InputError(
                f"{path}: /{split}/labels[{span.start + wrong[0]}] is {numbers[wrong[0]]}, out of range for {self.info.classes} classes: "
                f"labels must be 0 to {self.info.classes - 1} (attribute 'classes' says how many)"
            )
        labels[...] = numbers

    def close(self) -> None:
        """Nothing can be read from now on."""
        self._file.close()


def piece_size(info: DatasetInfo, split: str, multiple: int = 1) -> int:
    """Examples of about ``PIECE_BYTES``: whole chunks of the file, or, where that is asked for, a multiple of ``multiple``."""
    unit = info.chunk_examples[split]
    size = max(1, PIECE_BYTES // (info.image_bytes * unit)) * unit
    return -(-size // multiple) * multiple


def pieces_of(span: range, size: int) -> Iterator[range]:
    """``span``, cut at multiples of ``size``."""
    start = span.start
    while start < span.stop:
        stop = min((start // size + 1) * size, span.stop)
        yield range(start, stop)
        start = stop
