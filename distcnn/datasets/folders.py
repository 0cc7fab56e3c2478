"""A folder of class folders of PNG or JPEG files, as an image set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.datasets.hdf5 import SPLITS, Images
from distcnn.datasets.writer import CHUNK_EXAMPLES, Split, write_dataset
from distcnn.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class Form:
    """What every image is made into: (height, width), and Pillow's mode, "L" (gray) or "RGB"."""

    size: tuple[int, int]
    mode: str
    resize: bool


Files = list[tuple[Path, int]]
"""Each image's path and label."""


def write_image_folder(
    output: str | Path, folder: Path, *, name: str, size: tuple[int, int] | None, grayscale: bool, test_fraction: float, seed: int
) -> None:
    """Write ``folder``'s images as an image set, a batch at a time. Classes are numbered in the order of their folders' names.

    ``folder`` holds the class folders, of which ``test_fraction`` is put aside as the test set, or ``train`` and ``test`` with class
    folders in each. ``size`` (height, width) resizes. ``InputError`` for a folder without images, images that cannot be read or differ
    in size.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}: it must be 0 or more")
    files, class_names = list_images(folder, test_fraction, np.random.default_rng(seed))
    form = _common_form([path for split in SPLITS for path, _ in files[split]], size, grayscale)
    splits = {split: Split(len(files[split]), _batches(files[split], form)) for split in SPLITS}
    write_dataset(
        output, name=name, source=f"images in {folder.resolve()}", classes=len(class_names), splits=splits, class_names=class_names
    )


def list_images(folder: Path, test_fraction: float, rng: np.random.Generator) -> tuple[dict[str, Files], list[str]]:
    """The shuffled files of ``train`` and ``test``, and the classes' names."""
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}: name the folder that holds one folder of images for each class")
    if {each.name for each in folder.iterdir() if each.is_dir()} >= set(SPLITS):
        by_split = {split: _by_class(folder / split) for split in SPLITS}
        class_names = sorted(set().union(*by_split.values()))
    else:
        classes = _by_class(folder)
        class_names = list(classes)
        by_split = {split: {} for split in SPLITS}
        for class_name, paths in classes.items():
            order = rng.permutation(len(paths))
            count = min(max(1, round(test_fraction * len(paths))), len(paths) - 1)
            by_split["test"][class_name] = [paths[index] for index in order[:count]]
            by_split["train"][class_name] = [paths[index] for index in order[count:]]
    files = {}
    for split, classes in by_split.items():
        listed = [(path, class_names.index(class_name)) for class_name, paths in classes.items() for path in paths]
        if not listed:
            raise InputError(f"{folder}: no images for the {split} set: each class needs at least 2 PNG or JPEG files")
        files[split] = [listed[index] for index in rng.permutation(len(listed))]
    return files, class_names


def _by_class(folder: Path) -> dict[str, list[Path]]:
    classes = {
        each.name: sorted(path for path in each.rglob("*") if path.suffix.lower() in SUFFIXES)
        for each in sorted(folder.iterdir())
        if each.is_dir()
    }
    if not any(classes.values()):
        raise InputError(f"{folder} holds no folders with PNG or JPEG files: it must hold one folder for each class")
    return {name: paths for name, paths in classes.items() if paths}


def _common_form(paths: list[Path], size: tuple[int, int] | None, grayscale: bool) -> Form:
    """The one form for all: the first image's size unless ``size`` is given; gray when asked for or when all are gray."""
    sizes, modes = zip(*(_header(path) for path in paths), strict=True)
    if size is None:
        for path, each in zip(paths, sizes, strict=True):
            if each != sizes[0]:
                raise InputError(
                    f"{path} is {each[0]}x{each[1]} (height x width), {paths[0]} {sizes[0][0]}x{sizes[0][1]}: "
                    "images must be of one size, or give --size HxW to resize them"
                )
    gray = grayscale or all(mode in ("1", "L") for mode in modes)
    return Form(size or sizes[0], "L" if gray else "RGB", resize=size is not None)


def _batches(files: Files, form: Form) -> Iterator[tuple[Images, np.ndarray]]:
    for start in range(0, len(files), CHUNK_EXAMPLES):
        batch = files[start : start + CHUNK_EXAMPLES]
        yield np.stack([_pixels(path, form) for path, _ in batch]), np.array([label for _, label in batch])


def _header(path: Path) -> tuple[tuple[int, int], str]:
    """An image's (height, width) and Pillow's mode, without its pixels."""
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            raise InputError(f"{path} has more than 8 bits a pixel (mode {image.mode}): convert it to 8 bits")
        width, height = image.size
        return (height, width), image.mode


def _pixels(path: Path, form: Form) -> Images:
    with _opened(path) as image:
        converted = image.convert(form.mode)
        if form.resize:
            converted = converted.resize(form.size[::-1])
        return np.asarray(converted, np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("reading PNG and JPEG needs Pillow: pip install pillow") from error
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow says SyntaxError of some broken PNGs
        raise InputError(f"{path} is no image that can be read ({error}): replace or remove it") from error
