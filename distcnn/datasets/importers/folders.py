"""A folder of image files as a source.

``layout`` finds the images and their classes, ``pictures`` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.datasets.hdf5 import SPLITS, Images
from distcnn.datasets.importers.labels import natural
from distcnn.datasets.importers.layout import find_layout
from distcnn.datasets.importers.source import Examples, Notify, Options, Rows, Source
from distcnn.datasets.importers.splits import cut_notice, fraction_of, shuffled, split_off
from distcnn.datasets.pictures import Picture, PictureForm, common_form, read_picture
from distcnn.errors import InputError
from distcnn.random_streams import FOLDER_ORDER
from distcnn.system.wording import counted

Files = list[tuple[Path, int]]
"""Each image's path and label."""


@dataclass(frozen=True)
class Listing:
    """Classes in the order of their labels, and the files of ``train`` and ``test``, shuffled.

    ``is_cut`` says whether the test split was cut out of the training images.
    """

    class_names: list[str]
    files: dict[str, Files]
    is_cut: bool

    def paths(self) -> list[Path]:
        """All images, those of ``train`` first."""
        return [path for split in SPLITS for path, _ in self.files[split]]


CLASS_ORDERS: dict[str, Callable[[str], Any]] = {"natural": natural, "imagefolder": str}
"""How class names are sorted: ``imagefolder`` by characters (1, 10, 2), as in torchvision."""


@dataclass(frozen=True)
class PictureStack:
    """Image files, which are decoded whenever they are read, all in one ``form``.

    ``transparent`` collects those with transparent pixels.
    """

    pictures: Sequence[Picture]
    form: PictureForm
    transparent: list[Picture] = field(default_factory=list)
    dtype = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        channels = () if len(self.form.mode) == 1 else (len(self.form.mode),)
        return (len(self.pictures), *self.form.size, *channels)

    def rows(self, indices: Rows) -> Images:
        chosen = [self.pictures[index] for index in indices]
        return np.stack([read_picture(each, self.form, self.transparent) for each in chosen])

    def pieces(self, most: int) -> Iterator[Images]:
        for start in range(0, len(self.pictures), most):
            yield self.rows(np.arange(start, min(start + most, len(self.pictures))))


def list_images(folder: Path, options: Options, warn: Notify) -> Listing:
    """Find the images in ``folder``, and divide and shuffle them: a function of names and seed.

    ``warn`` gets a line for each guess, and for what is left out.
    """
    seed = options.seed
    fraction = fraction_of(options)
    train, test = find_layout(folder, warn, options.validation_split)
    is_cut = test is None
    if test is None:
        train, test = split_off(train, fraction, seed, warn)
    class_names = sorted(train, key=CLASS_ORDERS[options.class_order])
    files = {}
    for index, (split, classes) in enumerate(zip(SPLITS, (train, test), strict=True)):
        listed = [
            (path, class_names.index(name)) for name, paths in classes.items() for path in paths
        ]
        if not listed:
            raise InputError(
                f"{folder}: the {split} set would be empty: each class needs at least 2 images"
            )
        files[split] = [listed[row] for row in shuffled(len(listed), seed, FOLDER_ORDER, index)]
    if len(class_names) == 1:
        warn(f"there is only one class, '{class_names[0]}': there is nothing to distinguish")
    return Listing(class_names, files, is_cut)


def read_folder(folder: Path, options: Options, warn: Notify) -> Source:
    """A folder of class folders of images as a source."""
    listing = list_images(folder, options, warn)
    form = common_form(listing.paths(), options.size, options.grayscale, options.background, warn)
    transparent: list[Picture] = []
    examples = {}
    for split, files in listing.files.items():
        stack = PictureStack([path for path, _ in files], form, transparent)
        examples[split] = Examples(split, stack, np.array([label for _, label in files]))
    notes = [cut_notice(fraction_of(options), options.seed)] if listing.is_cut else []
    names = dict(enumerate(listing.class_names))
    return Source("images", examples, names, in_form=True, in_order=True, notes=notes)


def warn_of_transparency(source: Source, warn: Notify) -> None:
    """After the images were read: a warning if some were transparent."""
    stacks = [part.images for part in source.examples.values()]
    found = {
        each for stack in stacks if isinstance(stack, PictureStack) for each in stack.transparent
    }
    if found:
        background = next(s.form.background for s in stacks if isinstance(s, PictureStack))
        warn(
            f"{counted(len(found), 'image')} with transparent pixels, which became"
            f" {background} (--background)"
        )
