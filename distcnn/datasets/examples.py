"""Reading the examples of an image set, from a file or from arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import numpy as np

from distcnn.datasets.hdf5 import DatasetInfo, ImageFile, Images, Labels
from distcnn.datasets.opening import HDF5_ERRORS, read_error
from distcnn.errors import InputError
from distcnn.spans import touch
from distcnn.system.wording import counted

PIECE_BYTES = 2**20
"""Read at once: little enough to report progress and to let other threads use HDF5."""


class ExampleReader(ABC):
    """An image set that is open for reading."""

    info: DatasetInfo

    def empty(self, count: int) -> tuple[Images, Labels]:
        """Uninitialised arrays for ``count`` examples: images (count, H, W, C), labels (count,)."""
        channels, height, width = self.info.image_shape
        return np.empty((count, height, width, channels), np.uint8), np.empty(count, np.int64)

    @abstractmethod
    def read(self, split: str, span: range, images: Images, labels: Labels) -> None:
        """Read the examples ``span`` of a split into ``images`` (n, H, W, C) and ``labels`` (n,).

        Raises ``InputError`` when they cannot be read, when a label is not below ``info.classes``,
        or when the file has changed since it was opened.
        """

    @abstractmethod
    def read_labels(self, split: str, span: range) -> Labels:
        """The labels of the examples ``span`` of a split; ``InputError`` as ``read``."""

    def read_in_pieces(
        self, split: str, span: range, images: Images, labels: Labels
    ) -> Iterator[range]:
        """Like ``read``, but in pieces of about 1 MiB; yields the span of each piece."""
        for piece in pieces_of(span, piece_size(self.info, split)):
            part = slice(piece.start - span.start, piece.stop - span.start)
            self.read(split, piece, images[part], labels[part])
            yield piece

    def load(self, split: str, span: range) -> tuple[Images, Labels]:
        """Like ``read``, into new arrays."""
        images, labels = self.empty(len(span))
        list(self.read_in_pieces(split, span, images, labels))
        return images, labels

    def close(self) -> None:  # noqa: B027  (arrays have nothing to close)
        """Release the file; nothing can be read afterwards."""


class ExampleArrays(ExampleReader):
    """Reads from ``arrays``: images (N, H, W, C) and labels (N,) for each split."""

    def __init__(self, info: DatasetInfo, arrays: Mapping[str, tuple[Images, Labels]]) -> None:
        self.info, self._arrays = info, arrays

    def read(self, split: str, span: range, images: Images, labels: Labels) -> None:
        images[...], labels[...] = self.load(split, span)

    def read_labels(self, split: str, span: range) -> Labels:
        return self.load(split, span)[1]

    def load(self, split: str, span: range) -> tuple[Images, Labels]:
        """Views, without a copy."""
        images, labels = self._arrays[split]
        return images[span.start : span.stop], labels[span.start : span.stop]


class ExampleFile(ImageFile, ExampleReader):
    """Reads from the file ``info.path``. Threads may share it: h5py lets one read at a time."""

    def __init__(self, info: DatasetInfo, stall_timeout: float = 0.0) -> None:
        super().__init__(info.path, stall_timeout)
        self.info = info

    def read(self, split: str, span: range, images: Images, labels: Labels) -> None:
        try:
            with self._read_errors(split, span):
                if len(span):
                    stored = self.datasets[f"{split}/images"]
                    rows = slice(span.start, span.stop)
                    stored.read_direct(images.reshape(-1, *stored.shape[1:]), rows)
            labels[...] = self.read_labels(split, span)
        finally:
            # HDF5 reads zeros past the end of a file that was cut off
            self.require_unchanged()
        touch()

    def read_labels(self, split: str, span: range) -> Labels:
        with self._read_errors(split, span):
            numbers = self.datasets[f"{split}/labels"][span.start : span.stop]
        wrong = np.flatnonzero((numbers < 0) | (numbers >= self.info.classes))
        if wrong.size:
            number = numbers[wrong[0]]
            where = f"{self.info.path}: /{split}/labels[{span.start + wrong[0]}] is {number}"
            if number < 0:
                raise InputError(f"{where}: labels must not be negative, number the classes from 0")
            raise InputError(
                f"{where}, out of range for {counted(self.info.classes, 'class')}: labels must be 0"
                f" to {self.info.classes - 1} (attribute 'classes' says how many)"
            )
        return np.asarray(numbers, np.int64)

    @contextmanager
    def _read_errors(self, split: str, span: range) -> Iterator[None]:
        path, where = self.info.path, f"examples {span.start} to {span.stop} cannot be read"
        try:
            yield
        except (*HDF5_ERRORS, MemoryError) as error:
            try:
                # HDF5 does not say whether memory was the reason: is there room for a chunk both as
                # stored and as decoded?
                np.empty(3 * self.info.chunk_examples[split] * self.info.image_bytes, np.uint8)
                is_full = isinstance(error, MemoryError)
            except MemoryError:
                is_full = True
            if is_full:
                raise InputError(
                    f"{path}: /{split}, {where}: out of memory; give a smaller --data-memory MIB"
                ) from error
            raise read_error(path, error, f"{path}: /{split} is damaged, {where}") from error


def read_examples(
    info: DatasetInfo, split: str, span: range, stall_timeout: float = 0.0
) -> tuple[Images, Labels]:
    """Read the examples ``span`` of a split: images (n, H, W, C) uint8 and labels (n,).

    Args:
        info: What ``read_info`` returned.
        split: "train" or "test".
        span: Indices in the split.
        stall_timeout: As for ``read_info``.

    Raises:
        InputError: When they cannot be read, or a label is out of range.
    """
    with closing(ExampleFile(info, stall_timeout)) as file:
        return file.load(split, span)


def piece_size(info: DatasetInfo, split: str, multiple: int = 1) -> int:
    """Number of examples in about 1 MiB: whole chunks, or a multiple of ``multiple``."""
    unit = info.chunk_examples[split]
    size = max(1, PIECE_BYTES // (info.image_bytes * unit)) * unit
    return -(-size // multiple) * multiple


def pieces_of(span: range, size: int) -> Iterator[range]:
    """``span``, cut at multiples of ``size``."""
    first = span.start // size * size
    for start in range(first, span.stop if len(span) else first, size):
        yield range(max(start, span.start), min(start + size, span.stop))
