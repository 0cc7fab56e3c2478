"""Reading an image set in HDF5, in the format of `docs/data_format.md`.

``/train/images`` uint8 (N, H, W) or (N, H, W, C), ``/train/labels`` integers (N,), ``/test/...``
likewise. Each process opens the file, read-only, without collective calls and without
file locks, which Lustre and NFS may refuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.opening import OpenFiles, input_errors
from distcnn.datasets.storage import find_dataset, require_stored
from distcnn.errors import InputError
from distcnn.spans import touch

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]

SPLITS = ("train", "test")
VALIDATION = "validation"
"""The split of the training examples that are held out, if some are."""
LABELS_AT_ONCE = 2**17
MOST_CLASSES = 2**20
MOST_COUNTED_CLASSES = 1000
"""The largest number of classes that labels may imply, unless there are as many examples."""
MOST_CHANNELS_FIRST = 4
"""A first axis of at most this many, before two longer ones, holds channels."""


@dataclass(frozen=True)
class DatasetInfo:
    """Description of an image set.

    Attributes:
        path: The file; a name for arrays.
        classes: The number of classes.
        image_shape: (channels, height, width).
        examples: The number of examples in ``train`` and in ``test``.
        chunk_examples: Images in a chunk, the unit in which HDF5 reads, of ``train`` and ``test``;
            1 where there are no chunks.
        name, source, sha256, blocks_sha256: Texts that the file states; empty by default.
        mean, std: Of the training pixels / 255, for each channel; None where the file has none.
        classes_counted: Whether the number of classes is only the largest label + 1.
        class_names: In the order of the labels; empty where the file has none.
        held_out: Rows of the file's training set, sorted, that are the split "validation" and not
            in "train"; empty by default.
    """

    path: str
    classes: int
    image_shape: tuple[int, int, int]
    examples: Mapping[str, int]
    chunk_examples: Mapping[str, int]
    name: str = ""
    source: str = ""
    sha256: str = ""
    blocks_sha256: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes_counted: bool = False
    class_names: tuple[str, ...] = ()
    held_out: Indices = field(
        default_factory=lambda: np.empty(0, np.int64), compare=False, repr=False
    )

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.image_shape)

    @property
    def whole(self) -> DatasetInfo:
        """The image set as the file has it, with nothing held out."""
        train = self.examples["train"] + len(self.held_out)
        examples = {"train": train, "test": self.examples["test"]}
        return replace(self, examples=examples, held_out=self.held_out[:0])

    def rows(self, split: str, indices: Indices) -> Indices:
        """Where the examples ``indices`` of a split are in the file's training or test set."""
        if split == VALIDATION:
            return self.held_out[indices]
        if split == "train" and len(self.held_out):
            kept_before = self.held_out - np.arange(len(self.held_out))
            return indices + np.searchsorted(kept_before, indices, side="right")
        return indices


class ImageFile:
    """An open image set: ``datasets`` has its four datasets by name, wherever they are stored.

    The process ends when HDF5 waits ``stall_timeout`` seconds (0: never). Raises ``InputError``
    when a dataset is missing, malformed, or not completely stored.
    """

    def __init__(self, path: str | Path, stall_timeout: float = 0.0) -> None:
        self.path, self.datasets = str(path), dict[str, h5py.Dataset]()
        self._files = OpenFiles(stall_timeout)
        try:
            self.file = self._files.open(self.path)
            with input_errors(self.path):
                for name in (f"{split}/{key}" for split in SPLITS for key in ("images", "labels")):
                    found = find_dataset(self._files, self.file, name)
                    if found is None:
                        raise InputError(
                            f"{self.path}: dataset /{name} is missing: the format needs images and"
                            " labels in /train and /test (python -m distcnn.convert renames them)"
                        )
                    self.datasets[name] = found
                if problem := form_problem(self.datasets, "/{}/{}"):
                    raise InputError(f"{self.path}: {problem}")
                for name, dataset in self.datasets.items():
                    require_stored(self._files, dataset, f"/{name}")
        except BaseException:
            self.close()
            raise

    def require_unchanged(self) -> None:
        """Raise ``InputError`` when a file of the set has changed since it was opened."""
        self._files.require_unchanged()

    def close(self) -> None:
        self._files.close()


def read_info(path: str | Path, stall_timeout: float = 0.0) -> DatasetInfo:
    """Read and check what an image set is, without reading its images.

    Args:
        path: The HDF5 file.
        stall_timeout: The process ends when HDF5 waits this many seconds (0: never end it).

    Raises:
        InputError: Says what is wrong with the file.
    """
    with closing(ImageFile(path, stall_timeout)) as opened, input_errors(opened.path):
        images = {split: opened.datasets[f"{split}/images"] for split in SPLITS}
        height, width, *channels = images["train"].shape[1:]
        image_shape = (channels[0] if channels else 1, height, width)
        attributes = opened.file.attrs
        texts: dict[str, Any] = {name: _text(attributes.get(name, "")) for name in TEXTS}
        classes, class_names = _classes(opened)
        return DatasetInfo(
            path=opened.path,
            classes=classes,
            image_shape=image_shape,
            examples={split: images[split].shape[0] for split in SPLITS},
            chunk_examples={split: int((images[split].chunks or (1,))[0]) for split in SPLITS},
            **texts | {"name": texts["name"] or Path(path).stem},
            mean=_statistic(opened, "mean", image_shape[0]),
            std=_statistic(opened, "std", image_shape[0]),
            classes_counted="classes" not in attributes,
            class_names=class_names,
        )


TEXTS = ("name", "source", "sha256", "blocks_sha256")


def form_problem(arrays: Mapping[str, Any], name: str) -> str | None:
    """What is wrong with the types and shapes of ``train/images``, ``train/labels`` and so on.

    ``name`` says how a message names them: "/{}/{}" or "{}_{}".
    """
    for split in SPLITS:
        images, labels = arrays[f"{split}/images"], arrays[f"{split}/labels"]
        image_name, label_name = name.format(split, "images"), name.format(split, "labels")
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
                f"{label_name} has shape {labels.shape}, it must be ({shape[0]},): one label for"
                " each image"
            )
        if shape[0] == 0:
            return f"{image_name} is empty: it must hold at least one example"
        if 0 in shape:
            return f"{image_name} has shape {shape}: height, width and channels must be at least 1"
    train, test = (arrays[f"{split}/images"].shape for split in SPLITS)
    train_name, test_name = (name.format(split, "images") for split in SPLITS)
    if train[1:] != test[1:]:
        return (
            f"{train_name} are {by(train[1:])} and {test_name} {by(test[1:])}: they must be of one"
            " size"
        )
    if len(train) == 4 and train[1] <= MOST_CHANNELS_FIRST < min(train[2:]):
        return (
            f"{train_name} has shape {train}, which would be images of {by(train[1:3])} pixels"
            f" with {train[3]} channels: channels come last, so write images.transpose(0, 2, 3, 1),"
            " for train and test"
        )
    return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _classes(opened: ImageFile) -> tuple[int, tuple[str, ...]]:
    """The number of classes, by default one more than the largest label, and their names if known.

    Attribute ``classes`` is their number or their names.
    """
    attributes = opened.file.attrs
    value = np.asarray(attributes.get("classes", ()))
    are_names = value.dtype.kind in "OSU" and value.ndim == 1
    classes = value.size if are_names else 0
    if "classes" not in attributes:
        classes = _count_classes(opened)
    elif value.dtype.kind in "iuf" and value.size == 1 and float(value.item()).is_integer():
        classes = int(value.item())  # MATLAB writes 10.0
    if not 1 <= classes <= MOST_CLASSES:
        raise InputError(
            f"{opened.path}: attribute 'classes' is {value.tolist()!r}: it must be the number of"
            f" classes, at least 1 and at most {MOST_CLASSES:,}, or their names"
        )
    names = np.asarray(attributes.get("class_names", value if are_names else ()))
    if names.size not in (0, classes):
        raise InputError(
            f"{opened.path}: attribute 'class_names' has {names.size} names for {classes} classes:"
            " give one name for each class"
        )
    return classes, tuple(_text(name) for name in names.reshape(-1).tolist())


def _count_classes(opened: ImageFile) -> int:
    largest, where, examples = -1, "", 0
    for split in SPLITS:
        labels = opened.datasets[f"{split}/labels"]
        examples += labels.shape[0]
        for start in range(0, labels.shape[0], LABELS_AT_ONCE):
            numbers = labels[start : start + LABELS_AT_ONCE]
            index = int(numbers.argmax())
            if int(numbers[index]) > largest:
                largest, where = int(numbers[index]), f"/{split}/labels[{start + index}]"
            touch()
    if problem := class_count_problem(largest, where, examples):
        raise InputError(f"{opened.path}: {problem} (attribute 'classes')")
    return max(1, largest + 1)


def class_count_problem(largest: int, where: str, examples: int) -> str | None:
    """Why ``largest`` + 1 cannot be the number of classes, if most of them would have no image."""
    if largest < min(max(MOST_COUNTED_CLASSES, examples), MOST_CLASSES):
        return None
    return (
        f"{where} is {largest}, but {examples:,} examples cannot have that many classes: correct"
        " it, number the labels from 0, or give the number of classes"
    )


def _statistic(opened: ImageFile, name: str, channels: int) -> tuple[float, ...] | None:
    stated = opened.file.attrs.get(name)
    if stated is None:
        return None
    try:
        values = np.asarray(stated, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.array([math.nan])
    if values.size not in (1, channels) or not np.all((values >= 0) & (values <= 1)):
        several = f", or {channels} for the channels" if channels > 1 else ""
        raise InputError(
            f"{opened.path}: attribute '{name}' is {np.asarray(stated).tolist()!r}: it must be one"
            f" finite number{several}, from 0 to 1 as of pixels / 255: divide it by 255, or leave"
            " it out to have it computed"
        )
    return tuple(np.broadcast_to(values, (channels,)).tolist())


def by(shape: tuple[int, ...]) -> str:
    """A shape as text, such as 28x28."""
    return "x".join(map(str, shape))
