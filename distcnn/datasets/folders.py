"""A folder of image files as an image set.

``layout`` finds the images and their classes, ``pictures`` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import SPLITS, Images
from distcnn.datasets.layout import Classes, Warn, find_layout
from distcnn.datasets.pictures import PictureForm, read_picture
from distcnn.datasets.writer import Split, chunk_examples, write_dataset
from distcnn.errors import InputError
from distcnn.random_streams import FOLDER_ORDER, FOLDER_SPLIT, MAX_SEED, generator
from distcnn.system.wording import counted, first_few

Files = list[tuple[Path, int]]
"""Each image's path and label."""


@dataclass(frozen=True)
class Listing:
    """Classes in the order of their labels, and the files of ``train`` and ``test``, shuffled."""

    class_names: list[str]
    files: dict[str, Files]

    def paths(self) -> list[Path]:
        """All images, those of ``train`` first."""
        return [path for split in SPLITS for path, _ in self.files[split]]

    def counts(self) -> dict[str, list[int]]:
        """How many images each class has in each split."""
        count = len(self.class_names)
        return {
            split: np.bincount([label for _, label in files], minlength=count).tolist()
            for split, files in self.files.items()
        }


def natural(name: str) -> tuple[list[str | int], str]:
    """A sort key: numbers in names by value (1, 2, 10), all else by characters."""
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name


CLASS_ORDERS: dict[str, Callable[[str], Any]] = {"natural": natural, "imagefolder": str}
"""How class names are sorted: ``imagefolder`` by characters (1, 10, 2), as in torchvision."""


def list_images(
    folder: Path, *, test_fraction: float, seed: int, class_order: str, warn: Warn
) -> Listing:
    """Find the images in ``folder``, and divide and shuffle them: a function of names and ``seed``.

    ``test_fraction`` is the share of each class that becomes the test set, if there is none.
    Otherwise like ``find_layout``.
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"--test-fraction is {test_fraction:g}: it must be above 0 and below 1")
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"--seed is {seed}: it must be 0 to {MAX_SEED}")
    train, test = find_layout(folder, warn)
    if test is None:
        train, test = _split_off(train, test_fraction, seed, warn)
    class_names = sorted(train, key=CLASS_ORDERS[class_order])
    files = {}
    for index, (split, classes) in enumerate(zip(SPLITS, (train, test), strict=True)):
        listed = [
            (path, class_names.index(name)) for name, paths in classes.items() for path in paths
        ]
        if not listed:
            raise InputError(
                f"{folder}: the {split} set would be empty: each class needs at least 2 images"
            )
        files[split] = [
            listed[place] for place in _shuffled(len(listed), seed, FOLDER_ORDER, index)
        ]
    if len(class_names) == 1:
        warn(f"there is only one class, '{class_names[0]}': there is nothing to distinguish")
    return Listing(class_names, files)


def write_image_folder(
    output: str | Path, folder: Path, listing: Listing, form: PictureForm, *, name: str, warn: Warn
) -> None:
    """Write the listed images as an image set, each in ``form``; warn about transparency."""
    transparent: list[Path] = []
    splits = {
        split: Split(len(files), _batches(files, form, transparent))
        for split, files in listing.files.items()
    }
    write_dataset(
        output,
        name=name,
        source=f"images in {folder.resolve()}",
        classes=len(listing.class_names),
        splits=splits,
        class_names=listing.class_names,
    )
    if transparent:
        warn(
            f"{counted(len(transparent), 'image')} with transparent pixels, which became"
            f" {form.background} (--background)"
        )


def _split_off(
    classes: Classes, test_fraction: float, seed: int, warn: Warn
) -> tuple[Classes, Classes]:
    """Divide the images of each class; the training set keeps at least one."""
    train, test = {}, {}
    for index, (name, paths) in enumerate(classes.items()):
        order = _shuffled(len(paths), seed, FOLDER_SPLIT, index)
        count = min(max(1, round(test_fraction * len(paths))), len(paths) - 1)
        test[name] = [paths[place] for place in order[:count]]
        train[name] = [paths[place] for place in order[count:]]
    if single := [name for name, paths in test.items() if not paths]:
        warn(f"no test image for classes with only one image: {first_few(single)}")
    return train, test


def _shuffled(count: int, seed: int, purpose: int, index: int) -> NDArray[np.intp]:
    """A random order, from the generator's raw words, which no NumPy version changes."""
    return np.argsort(generator(seed, purpose, index).random_raw(count), kind="stable")


def _batches(
    files: Files, form: PictureForm, transparent: list[Path]
) -> Iterator[tuple[Images, NDArray[np.int64]]]:
    size = chunk_examples(form.image_bytes)
    for start in range(0, len(files), size):
        paths, labels = zip(*files[start : start + size], strict=True)
        yield np.stack([read_picture(path, form, transparent) for path in paths]), np.array(labels)
