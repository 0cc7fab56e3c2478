"""Image sets as objects: an HDF5 file or NumPy arrays. Both train to the same bits."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distcnn.datasets import hdf5
from distcnn.datasets.examples import ExampleArrays, ExampleFile, ExampleReader
from distcnn.datasets.hdf5 import SPLITS, DatasetInfo, Images, Labels
from distcnn.datasets.writer import chunk_examples
from distcnn.errors import ArgumentError, InputError, arguments_named

DEFAULT_PATH = "data/mnist.h5"
SOURCE_VARIABLE = "DISTCNN_MNIST_DIR"
SAMPLE_NAME = "mnist-sample"
SAMPLE_NOTICE = (
    "this is a sample of MNIST, 4,000 training and 1,000 test images from its training set: its"
    " accuracy is not an MNIST result. For all 70,000 images, name the folder of the four IDX files"
    f" (--source DIR or {SOURCE_VARIABLE})"
)


class Dataset(ABC):
    """An image set to train on."""

    path: str
    """The file; empty for arrays."""

    @abstractmethod
    def read_info(self, stall_timeout: float = 0.0) -> DatasetInfo:
        """What the image set is. Arguments and errors as for ``distcnn.datasets.read_info``."""

    @abstractmethod
    def open(self, info: DatasetInfo, stall_timeout: float = 0.0) -> ExampleReader:
        """Open it for reading, given what ``read_info`` returned; close the reader after use."""

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
    """An image set in an HDF5 file, in the format of `docs/data_format.md`.

    Args:
        path: The file. Each rank opens it for itself, when it is read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)

    def __repr__(self) -> str:
        return f"HDF5Dataset({self.path!r})"

    def read_info(self, stall_timeout: float = 0.0) -> DatasetInfo:
        return hdf5.read_info(self.path, stall_timeout)

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
        given = {
            "train/images": train_images,
            "train/labels": train_labels,
            "test/images": test_images,
            "test/labels": test_labels,
        }
        arrays = {name: np.asarray(array) for name, array in given.items()}
        if problem := hdf5.form_problem(arrays, "{}_{}"):
            raise ArgumentError(problem)
        count = _count_classes(arrays, classes)
        names = tuple(class_names or ())
        if names and len(names) != count:
            raise ArgumentError(
                f"class_names has {len(names)} names for {count} classes: give one for each class"
            )
        height, width, *channels = arrays["train/images"].shape[1:]
        shape = (channels[0] if channels else 1, height, width)
        self.arrays: dict[str, tuple[Images, Labels]] = {
            split: (
                arrays[f"{split}/images"].reshape(-1, height, width, shape[0]),
                arrays[f"{split}/labels"].astype(np.int64),
            )
            for split in SPLITS
        }
        examples = {split: len(labels) for split, (_, labels) in self.arrays.items()}
        self._info = DatasetInfo(
            path=name,
            name=name,
            classes=count,
            image_shape=shape,
            examples=examples,
            # As in a file: with bounded memory, windows are cut at chunks.
            chunk_examples={
                split: chunk_examples(math.prod(shape), number)
                for split, number in examples.items()
            },
            classes_counted=classes is None,
            class_names=names,
        )

    def __repr__(self) -> str:
        info = self._info
        size = hdf5.by(self.arrays["train"][0].shape[1 : 3 + (info.image_shape[0] > 1)])
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
        InputError: The file is missing, damaged, or not in the format of `docs/data_format.md`.
    """
    hdf5.read_info(path)
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
    ensure_mnist(path, str(source) if source else None, print)
    return open(path)


def ensure_mnist(path: str | Path, source: str | None, report: Callable[[str], None]) -> None:
    """Prepare ``path`` if it is missing, or is only the sample although a folder is named."""
    folder = named_folder(source)
    try:
        os.stat(path)  # noqa: PTH116  (Path's raises for a name that is too long)
        is_missing = False
    except OSError as error:  # a stale handle, for example, does not mean that it is missing
        is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    if is_missing or (folder and hdf5.read_info(path).name == SAMPLE_NAME):
        from distcnn.datasets.prepare_mnist import prepare_mnist  # imports ssl and zipfile

        prepare_mnist(path, folder, report)


def named_folder(source: str | None) -> Path | None:
    """The folder named by the flag, else by the environment. ``InputError`` if it is none."""
    name = source or os.environ.get(SOURCE_VARIABLE)
    if name and not os.path.isdir(name):  # noqa: PTH112
        raise InputError(
            f"{'--source' if source else SOURCE_VARIABLE}: no such folder: {name}: name the folder"
            " that holds the four MNIST files (see docs/data_format.md)"
        )
    return Path(name) if name else None


def _count_classes(arrays: Mapping[str, NDArray[np.integer]], classes: int | None) -> int:
    """``classes``, or one more than the largest label. ``ArgumentError`` for invalid labels."""
    labels = {split: arrays[f"{split}/labels"] for split in SPLITS}
    largest = int(max(numbers.max() for numbers in labels.values()))
    count = largest + 1 if classes is None else classes
    problem = hdf5.class_count_problem(largest, "a label", sum(map(len, labels.values())))
    if classes is None and problem:
        raise ArgumentError(f"{problem} (classes=...)")
    if not 1 <= count <= hdf5.MOST_CLASSES:
        raise ArgumentError(f"classes (={count}) must be 1 to {hdf5.MOST_CLASSES:,}")
    for split, numbers in labels.items():
        if numbers.min() < 0 or numbers.max() >= count:
            raise ArgumentError(
                f"{split}_labels go from {numbers.min()} to {numbers.max()}: labels must be"
                f" numbered from 0 to {count - 1}"
            )
    return count
