"""Reading an image set in HDF5, in the format of `data/README.md`.

``/train/images`` uint8 (N, H, W) or (N, H, W, C), ``/train/labels`` integers (N,), ``/test/...``
likewise. Each process opens the file, read-only, without collective calls and without
file locks, which Lustre and NFS may refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.opening import OpenFiles, input_errors, read_error
from distcnn.datasets.storage import find_dataset, require_stored
from distcnn.errors import InputError
from distcnn.spans import touch

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

SPLITS = ("train", "test")
LABELS_AT_ONCE = 2**17
MOST_CLASSES = 2**20
LEAST_LARGE_LABEL = 1000
"""Labels below this are always accepted, however few examples there are."""
MOST_CHANNELS_FIRST = 4
"""A first axis of at most this many, before two longer ones, holds channels."""


@dataclass(frozen=True)
class DatasetInfo:
    """Description of an image set.

    Attributes:
        path: The file; a name for arrays.
        name, source, sha256, blocks_sha256: Texts that the file states; empty by default.
        classes: The number of classes.
        image_shape: (channels, height, width).
        examples: The number of examples in ``train`` and in ``test``.
        mean, std: Of the training pixels / 255, for each channel; None where the file has none.
        chunk_examples: Images in a chunk, the unit in which HDF5 reads, of ``train`` and ``test``;
            1 where there are no chunks.
        classes_counted: Whether the number of classes is only the largest label + 1.
        class_names: In the order of the labels; empty where the file has none.
    """

    path: str
    name: str
    source: str
    sha256: str
    classes: int
    image_shape: tuple[int, int, int]
    examples: Mapping[str, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    chunk_examples: Mapping[str, int]
    blocks_sha256: str = ""
    classes_counted: bool = False
    class_names: tuple[str, ...] = ()

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.image_shape)


class ImageFile:
    """An open image set: its four datasets, wherever they are stored.

    Args:
        path: The file.
        stall_timeout: The process ends when HDF5 waits this many seconds (0: never end it).

    Raises:
        InputError: When a dataset is missing, malformed, or not completely stored.
    """

    def __init__(self, path: str | Path, stall_timeout: float = 0.0) -> None:
        self.path = str(path)
        self._files = OpenFiles(stall_timeout)
        try:
            self.file = self._files.open(self.path)
            with input_errors(self.path):
                self.datasets = {name: self._dataset(name) for name in _NAMES}
                for split in SPLITS:
                    names = f"{split}/images", f"{split}/labels"
                    forms = (self.datasets[name] for name in names)
                    if problem := form_problem(*forms, *(f"/{name}" for name in names)):
                        raise InputError(f"{self.path}: {problem}")
                for name, dataset in self.datasets.items():
                    require_stored(self._files, dataset, f"/{name}", range(dataset.shape[0]))
        except BaseException:
            self.close()
            raise

    def _dataset(self, name: str) -> h5py.Dataset:
        found = find_dataset(self._files, self.file, name)
        if found is None:
            raise InputError(
                f"{self.path}: dataset /{name} is missing: the format needs images and labels in"
                " /train and /test (data/README.md)"
            )
        return found

    def require_unchanged(self) -> None:
        """Raise ``InputError`` when a file of the set has changed since it was opened."""
        self._files.require_unchanged()

    def close(self) -> None:
        """Close all files."""
        self._files.close()


_NAMES = tuple(f"{split}/{key}" for split in SPLITS for key in ("images", "labels"))


def read_info(path: str | Path, stall_timeout: float = 0.0) -> DatasetInfo:
    """Read and check what an image set is, without reading its images.

    Args:
        path: The HDF5 file.
        stall_timeout: As for ``ImageFile``.

    Raises:
        InputError: Says what is wrong with the file.
    """
    with closing(ImageFile(path, stall_timeout)) as opened, input_errors(opened.path):
        file = opened.file
        images = {split: opened.datasets[f"{split}/images"] for split in SPLITS}
        if problem := sizes_problem(
            images["train"], images["test"], "/train/images", "/test/images"
        ):
            raise InputError(f"{path}: {problem}")
        height, width, *channels = images["train"].shape[1:]
        classes = _classes(opened)
        image_shape = (channels[0] if channels else 1, height, width)
        return DatasetInfo(
            path=opened.path,
            name=_text(file, "name") or Path(path).stem,
            source=_text(file, "source"),
            sha256=_text(file, "sha256"),
            classes=classes,
            image_shape=image_shape,
            examples={split: images[split].shape[0] for split in SPLITS},
            mean=_statistic(file, opened.path, "mean", image_shape[0]),
            std=_statistic(file, opened.path, "std", image_shape[0]),
            chunk_examples={split: int((images[split].chunks or (1,))[0]) for split in SPLITS},
            blocks_sha256=_text(file, "blocks_sha256"),
            classes_counted="classes" not in file.attrs,
            class_names=_class_names(file, opened.path, classes),
        )


class Form(Protocol):
    """Common interface of an HDF5 dataset and an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...


def form_problem(images: Form, labels: Form, image_name: str, label_name: str) -> str | None:
    """What is wrong with the types and shapes of a split's images and labels, with their names."""
    shape = images.shape
    if images.dtype != np.uint8:
        return f"{image_name} is {images.dtype}, it must be uint8 (0 to 255)"
    if len(shape) not in (3, 4):
        return (
            f"{image_name} has shape {shape}, it must be (N, height, width) or"
            " (N, height, width, channels)"
        )
    if labels.dtype.kind not in "iu":
        return f"{label_name} is {labels.dtype}, it must be an integer type"
    if labels.shape != shape[:1]:
        return (
            f"{label_name} has shape {labels.shape}, it must be ({shape[0]},): one label for each"
            " image"
        )
    if shape[0] == 0:
        return f"{image_name} is empty: it must hold at least one example"
    if 0 in shape:
        return f"{image_name} has shape {shape}: height, width and channels must be at least 1"
    return None


def sizes_problem(train: Form, test: Form, train_name: str, test_name: str) -> str | None:
    """What is wrong with the sizes of the images of both splits, with the names of the arrays."""
    shape = train.shape
    if shape[1:] != test.shape[1:]:
        return (
            f"{train_name} are {by(shape[1:])} and {test_name} {by(test.shape[1:])}: they must be"
            " of one size"
        )
    if len(shape) == 4 and shape[1] <= MOST_CHANNELS_FIRST < min(shape[2:]):
        return (
            f"{train_name} has shape {shape}, which would be images of {by(shape[1:3])} pixels"
            f" with {shape[3]} channels: channels come last, so write images.transpose(0, 2, 3, 1),"
            " for train and test"
        )
    return None


def class_count_problem(largest: int, where: str, examples: int) -> str | None:
    """Why ``largest`` + 1 cannot be the number of classes, if most of them would have no image."""
    if largest < min(max(LEAST_LARGE_LABEL, examples), MOST_CLASSES):
        return None
    return (
        f"{where} is {largest}, far more than {examples:,} examples can have classes: correct it,"
        " number the labels from 0, or set the attribute 'classes'"
    )


def _text(file: h5py.File, name: str) -> str:
    try:
        value = file.attrs.get(name, "")
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file.filename}: attribute '{name}' is not UTF-8 ({error}): write it as UTF-8"
        ) from error


def _classes(opened: ImageFile) -> int:
    """Attribute ``classes``, a number or names; by default one more than the largest label."""
    if "classes" not in opened.file.attrs:
        return _count_classes(opened)
    value = np.asarray(opened.file.attrs["classes"])
    classes = None
    if value.dtype.kind in "iuf" and value.size == 1 and float(value.item()).is_integer():
        classes = int(value.item())  # MATLAB writes 10.0
    elif value.dtype.kind in "OSU" and value.ndim == 1:
        classes = value.size
    if classes is None or not 1 <= classes <= MOST_CLASSES:
        raise InputError(
            f"{opened.path}: attribute 'classes' is {value.tolist()!r}: it must be the number of"
            f" classes, at least 1 and at most {MOST_CLASSES:,}, or their names"
        )
    return classes


def _count_classes(opened: ImageFile) -> int:
    largest, where, examples = -1, "", 0
    for split in SPLITS:
        labels = opened.datasets[f"{split}/labels"]
        examples += labels.shape[0]
        for start in range(0, labels.shape[0], LABELS_AT_ONCE):
            try:
                numbers = labels[start : start + LABELS_AT_ONCE]
            except OSError as error:
                damage = f"{opened.path}: the {split} labels are damaged"
                raise read_error(opened.path, error, damage) from error
            touch()
            index = int(numbers.argmax())
            if int(numbers[index]) > largest:
                largest, where = int(numbers[index]), f"/{split}/labels[{start + index}]"
    if problem := class_count_problem(largest, where, examples):
        raise InputError(f"{opened.path}: {problem} (attribute 'classes')")
    return max(1, largest + 1)


def _class_names(file: h5py.File, path: str, classes: int) -> tuple[str, ...]:
    """Attribute ``class_names``, else the names in ``classes``, else none."""
    for name in ("class_names", "classes"):
        values = np.asarray(file.attrs.get(name, ()))
        if values.ndim == 1 and values.size and values.dtype.kind in "OSU":
            if values.size != classes:
                raise InputError(
                    f"{path}: attribute '{name}' has {values.size} names for {classes} classes:"
                    " give one name for each class"
                )
            texts = [
                value if isinstance(value, bytes) else str(value).encode(errors="replace")
                for value in values.tolist()
            ]
            return tuple(text.decode(errors="replace") for text in texts)
    return ()


def _statistic(file: h5py.File, path: str, name: str, channels: int) -> tuple[float, ...] | None:
    if name not in file.attrs:
        return None
    try:
        values = np.asarray(file.attrs[name], dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.array([math.nan])
    if values.size not in (1, channels) or not np.all(np.isfinite(values)):
        several = f", or {channels} for the channels" if channels > 1 else ""
        raise InputError(
            f"{path}: attribute '{name}' is {np.asarray(file.attrs[name]).tolist()!r}: it must be"
            f" one finite number{several} (of the pixels / 255); leave it out to have it computed"
        )
    if np.any((values < 0) | (values > 1)):
        remedy = "leave it out" if np.any(values < 0) else "divide it by 255, or leave it out"
        raise InputError(
            f"{path}: attribute '{name}' is {values.tolist()}, but it must be from 0 to 1, as of"
            f" pixels / 255: {remedy} to have it computed"
        )
    return tuple(np.broadcast_to(values, (channels,)).tolist())


def by(shape: tuple[int, ...]) -> str:
    """A shape as text, such as 28x28."""
    return "x".join(map(str, shape))
