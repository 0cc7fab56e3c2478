"""The images in an HDF5 or NumPy file: which array they are, and how they are stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from distcnn.datasets.hdf5 import MOST_CHANNELS_FIRST
from distcnn.datasets.importers import hdf5_arrays, npz
from distcnn.datasets.importers.named_arrays import SPLIT_OF, NamedArray, role_of
from distcnn.datasets.importers.pixels import Form, find_form
from distcnn.datasets.importers.source import Notify, Options
from distcnn.datasets.opening import SIGNATURE
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.system.wording import first_few

HEAD_BYTES = 4096
NUMPY_MAGICS = (b"PK\x03\x04", b"\x93NUMPY")
Shape = tuple[int, int, int]
"""(H, W, C) of the images of a network."""


def has_arrays(path: Path) -> bool:
    """Whether it is an HDF5 or NumPy file, by its first bytes."""
    with open_named(path) as file:
        head = file.read(HEAD_BYTES)
    return head.startswith(NUMPY_MAGICS) or SIGNATURE in head


def _arrays(path: Path, shape: Shape) -> list[NamedArray]:
    """The arrays in a file. One that is a single image of the network becomes (1, H, W, C)."""
    with open_named(path) as file:
        is_numpy = file.read(HEAD_BYTES).startswith(NUMPY_MAGICS)
    arrays = npz.arrays_of(path) if is_numpy else hdf5_arrays.arrays_of(path)
    if len(arrays) == 1 and arrays[0].shape in (shape, shape[:2]):
        one = arrays[0]
        load = lambda: one.load()[np.newaxis]  # noqa: E731
        return [replace(one, shape=(1, *one.shape), load=load, read=None)]
    return arrays


def choose_images(path: Path, split: str, shape: Shape) -> NamedArray:
    """The array of images in a file, known by its name. ``InputError`` if that is not clear."""
    arrays = _arrays(path, shape)
    images = [array for array in arrays if role_of(array) == "images"]
    images = images or [array for array in arrays if len(array.shape) > 2 and not array.is_text]
    of_split = [array for array in images if array.meaning(SPLIT_OF) == split]
    chosen = of_split or [array for array in images if not array.meaning(SPLIT_OF)] or images
    for array in () if chosen else arrays:
        if array.dtype == object:
            array.load()  # says that pickled objects are not read
    if len(chosen) != 1:
        raise InputError(
            f"{path}: it is not clear which array has the images: found"
            f" {first_few(arrays) or 'none'}; name one 'images' (N, H, W) or (N, H, W, C)"
        )
    return open_images(path, chosen[0].name, shape)


def open_images(path: Path, name: str, shape: Shape) -> NamedArray:
    """The array ``name``, which is read now if its format cannot be read in parts."""
    arrays = _arrays(path, shape)
    array = next((array for array in arrays if array.name == name), None)
    if array is None:
        raise InputError(f"{path} has changed while it was read: restore it")
    if array.read:
        return array
    whole = array.load()  # now, so that damage is found once, and not for each image
    return replace(array, load=lambda: whole)


def form_of(path: Path, stack: NamedArray, shape: Shape, notify: Notify) -> Form:
    """How the images are stored: in our format, or as the importers find out."""
    stored = stack.shape[1:]
    if 0 in stored:
        raise InputError(f"{path}: the images of {stack} have no pixels: name another file")
    if stack.dtype == np.uint8 and (
        stored == shape
        or len(stored) == 2
        or (len(stored) == 3 and stored[2] <= MOST_CHANNELS_FIRST < stored[0])
    ):
        return Form(stored, channels_first=False, transpose=False, scale=(0, 255))
    try:
        return find_form([stack], Options(), False, lambda text: notify(f"{path}: {text}"))
    except InputError as error:
        raise InputError(
            f"{path}: {error} (flags of python -m distcnn.convert, which makes an image set of it)"
        ) from error
