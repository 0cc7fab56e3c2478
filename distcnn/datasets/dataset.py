"""Image sets as objects: an HDF5 file or NumPy arrays. Both train to the same bits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distcnn.datasets.default import DEFAULT_PATH, must_be_prepared
from distcnn.datasets.examples import ExampleArrays, ExampleFile, ExampleReader
from distcnn.datasets.hdf5 import (
    MOST_CLASSES,
    SPLITS,
    DatasetInfo,
    Images,
    Labels,
    by,
    class_count_problem,
    form_problem,
    read_info,
    sizes_problem,
)
from distcnn.datasets.writer import chunk_examples
from distcnn.errors import ArgumentError, arguments_named


class Dataset(ABC):
    """An image set to train on."""

    path: str
    """The file; empty for arrays."""

    @abstractmethod
    def read_info(self, stall_timeout: float = 0.0) -> DatasetInfo:
        """What the image set is. Arguments and errors as for ``distcnn.datasets.read_info``."""

    @abstractmethod
    def open(self, info: DatasetInfo, stall_timeout: float = 0.0) -> ExampleReader:
        """Open it for reading; close the reader after use.

        Args:
            info: What ``read_info`` returned.
            stall_timeout: As for ``read_info``.
        """

    def content_sha256(self) -> str:
        """A hash of all examples, to compare ranks; empty if all read the same file."""
        return ""

    def read(self, split: str) -> tuple[Images, Labels]:
        """All examples of "train" or "test": images (N, H, W, C) uint8 and labels (N,) int64."""
        if split not in SPLITS:
            raise ArgumentError(f"split is {split!r}: it must be one of {', '.join(SPLITS)}")
        info = self.read_info()
        with closing(self.open(info)) as reader:
            return reader.load(split, range(info.examples[split]))


class HDF5Dataset(Dataset):
    """An image set in an HDF5 file, in the format of `data/README.md`.

    Args:
        path: The file. Each rank opens it for itself, when it is read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)

    def __repr__(self) -> str:
        return f"HDF5Dataset({self.path!r})"

    def read_info(self, stall_timeout: float = 0.0) -> DatasetInfo:
        return read_info(self.path, stall_timeout)

    def open(self, info: DatasetInfo, stall_timeout: float = 0.0) -> ExampleReader:
        return ExampleFile(info, stall_timeout)


class ArrayDataset(Dataset):
    """An image set in memory. All ranks must have the same arrays.

    Training uses views of the arrays, so do not change them meanwhile.

    Args:
        train_images: (N, H, W) or (N, H, W, C), uint8.
        train_labels: (N,) integers, numbered from 0.
        test_images: As ``train_images``, of the same size.
        test_labels: As ``train_labels``.
        classes: The number of classes; by default one more than the largest label.
        class_names: A name for each class, in the order of the labels.
        name: A name for logs and records.

    Raises:
        ArgumentError: For arrays of another type or shape, labels out of range, or a wrong number
            of class names.

    Example:
        >>> images = np.zeros((4, 28, 28), np.uint8)
        >>> ArrayDataset(images, [0, 1, 2, 1], images[:2], [0, 1])
        ArrayDataset(4 training and 2 test images of 28x28, 3 classes)
    """

    def __init__(
        self,
        train_images: ArrayLike,
        train_labels: ArrayLike,
        test_images: ArrayLike,
        test_labels: ArrayLike,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        *,
        name: str = "arrays",
    ) -> None:
        self.path = ""
        given = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
        arrays = {split: tuple(map(np.asarray, pair)) for split, pair in given.items()}
        for split, (images, labels) in arrays.items():
            _require(form_problem(images, labels, f"{split}_images", f"{split}_labels"))
        train, test = (arrays[split][0] for split in SPLITS)
        _require(sizes_problem(train, test, "train_images", "test_images"))
        count = _count_classes({split: pair[1] for split, pair in arrays.items()}, classes)
        names = tuple(class_names or ())
        if names and len(names) != count:
            raise ArgumentError(
                f"class_names has {len(names)} names for {count} classes: give one for each class"
            )
        height, width, *channels = train.shape[1:]
        shape = (channels[0] if channels else 1, height, width)
        self.arrays: dict[str, tuple[Images, Labels]] = {
            split: (images.reshape(len(images), height, width, -1), labels.astype(np.int64))
            for split, (images, labels) in arrays.items()
        }
        self._info = DatasetInfo(
            path=name,
            name=name,
            source="",
            sha256="",
            classes=count,
            image_shape=shape,
            examples={split: len(arrays[split][1]) for split in SPLITS},
            mean=None,
            std=None,
            # As in a file: with bounded memory, windows are cut at chunks.
            chunk_examples={
                split: chunk_examples(images[0].size, len(images))
                for split, (images, _) in arrays.items()
            },
            classes_counted=classes is None,
            class_names=names,
        )

    def __repr__(self) -> str:
        info = self._info
        size = by(self.arrays["train"][0].shape[1 : 3 + (info.image_shape[0] > 1)])
        return (
            f"ArrayDataset({info.examples['train']:,} training and {info.examples['test']:,} test"
            f" images of {size}, {info.classes} classes)"
        )

    def read_info(self, stall_timeout: float = 0.0) -> DatasetInfo:
        return self._info

    def open(self, info: DatasetInfo, stall_timeout: float = 0.0) -> ExampleReader:
        return ExampleArrays(info, self.arrays)

    def content_sha256(self) -> str:
        """SHA-256 of all images and labels. Takes about a second per GB."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for array in self.arrays[split]:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@arguments_named()
def open(path: str | Path) -> HDF5Dataset:
    """The image set in the HDF5 file ``path``.

    Raises:
        InputError: When the file is missing, damaged, or not in the format of `data/README.md`.
    """
    read_info(path)
    return HDF5Dataset(path)


@arguments_named()
def mnist(source: str | Path | None = None, path: str | Path = DEFAULT_PATH) -> HDF5Dataset:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, 28x28 pixels.

    Reads ``path``, and creates that file if it is missing. On several ranks, call it on one
    of them first.

    Args:
        source: A folder with the four original files, for machines without a network. By default
            they are downloaded.
        path: The HDF5 file.

    Raises:
        InputError: When MNIST is in neither place.
    """
    folder = str(source) if source else None
    if must_be_prepared(path, folder):
        from distcnn.datasets.prepare_mnist import prepare_mnist  # imports ssl and zipfile

        prepare_mnist(path, folder, print)
    return open(path)


def _require(problem: str | None) -> None:
    if problem:
        raise ArgumentError(problem)


def _count_classes(labels: Mapping[str, NDArray[np.integer]], classes: int | None) -> int:
    """``classes``, or one more than the largest label. ``ArgumentError`` for invalid labels."""
    largest = -1
    for split, numbers in labels.items():
        if numbers.min() < 0 or (classes and numbers.max() >= classes):
            upper = f" to {classes - 1}" if classes else ""
            raise ArgumentError(
                f"{split}_labels go from {numbers.min()} to {numbers.max()}: labels must be"
                f" numbered from 0{upper}"
            )
        largest = max(largest, int(numbers.max()))
    if classes is not None:
        if not 1 <= classes <= MOST_CLASSES:
            raise ArgumentError(f"classes (={classes}) must be 1 to {MOST_CLASSES:,}")
        return classes
    _require(class_count_problem(largest, "a label", sum(map(len, labels.values()))))
    return largest + 1
