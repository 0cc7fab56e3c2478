"""What a network is to predict: image files, folders of them, and arrays of images in HDF5 and
NumPy files, one after the other, read in parts.

Letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.datasets.fitting import Fitting
from distcnn.datasets.hdf5 import MOST_CHANNELS_FIRST, Images
from distcnn.datasets.importers import hdf5_arrays, npz
from distcnn.datasets.importers.layout import read_images
from distcnn.datasets.importers.named_arrays import SPLIT_OF, NamedArray, role_of
from distcnn.datasets.importers.pixels import PIECE_BYTES, Form, find_form
from distcnn.datasets.importers.source import Array, Options, Rows
from distcnn.datasets.opening import SIGNATURE
from distcnn.datasets.pictures import NAMES, SUFFIXES, read_pixels
from distcnn.errors import InputError
from distcnn.spans import touch
from distcnn.system.files import open_named
from distcnn.system.wording import first_few, printable, width_of

HEAD_BYTES = 4096
NUMPY_MAGICS = (b"PK\x03\x04", b"\x93NUMPY")
Notify = Callable[[str], None]
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Source:
    """A file of one image, or of ``count`` images in an array with ``form``."""

    path: Path
    array: str = ""
    count: int = 1
    form: Form | None = None

    def name(self, index: int) -> str:
        """Of an image: ``digit.png``, ``set.h5[12]``."""
        return f"{self.path}[{index}]" if self.array else str(self.path)


@dataclass(frozen=True)
class Unreadable:
    """A file or image that cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Part:
    """Consecutive images as a network takes them: ``images`` (N, H, W, C) uint8.

    Those in ``unreadable``, by their place, are black. ``remarks`` counts what was done to images,
    by the keys of ``distcnn.datasets.fitting.REMARKS``.
    """

    names: list[str]
    images: Images
    unreadable: dict[int, str]
    remarks: Counter[str]


@dataclass(frozen=True)
class Inputs:
    """All images, in order: those of ``sources``; what cannot be read at all is ``unreadable``.

    ``notices`` are lines for the user.
    """

    sources: Sequence[Source]
    unreadable: Sequence[Unreadable] = ()
    notices: Sequence[str] = ()
    starts: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        counts = [0, *(source.count for source in self.sources)]
        object.__setattr__(self, "starts", np.cumsum(counts).tolist())

    def __len__(self) -> int:
        return self.starts[-1]

    def spans(self, span: range) -> Iterator[tuple[Source, range]]:
        """The sources of the images ``span``, and which of each one's images are meant."""
        number = int(np.searchsorted(self.starts, span.start, side="right")) - 1
        position = span.start
        while position < span.stop:
            source, start = self.sources[number], self.starts[number]
            stop = min(span.stop, start + source.count)
            yield source, range(position - start, stop - start)
            position, number = stop, number + 1

    def longest_name(self) -> int:
        """Characters of the longest name."""
        names = (printable(each.name(each.count - 1)) for each in self.sources)
        return max(map(width_of, names), default=0)

    def load(self, span: range, fitting: Fitting) -> Part:
        """Read and fit the images ``span``."""
        names: list[str] = []
        images = np.zeros((len(span), *fitting.shape), np.uint8)
        unreadable: dict[int, str] = {}
        remarks: Counter[str] = Counter()
        for source, indices in self.spans(span):
            for index, read in zip(indices, _read(source, indices, fitting), strict=True):
                name = source.name(index)
                try:
                    if isinstance(read, InputError):
                        raise read
                    images[len(names)], more = fitting.fit_picture(read[0], name)
                    remarks.update([*read[1], *more])
                except InputError as error:
                    unreadable[len(names)] = str(error)
                names.append(name)
                touch()
        return Part(names, images, unreadable, remarks)


Read = tuple[Images, list[str]] | InputError
"""An image with what was done to it, or why it cannot be read."""


def _read(source: Source, indices: range, fitting: Fitting) -> Iterator[Read]:
    """The images ``indices`` of a source."""
    if source.form is None:
        try:
            yield read_pixels(source.path, fitting.mode)
        except InputError as error:
            yield error
        return
    stack = _opened(source.path, source.array, fitting.shape)
    size = max(1, PIECE_BYTES // (math.prod(stack.shape[1:]) * 8))
    for start in range(indices.start, indices.stop, size):
        yield from _converted(stack, source.form, start, min(start + size, indices.stop))


def _converted(stack: _ArrayImages, form: Form, start: int, stop: int) -> Iterator[Read]:
    """Images of an array; if some are damaged, the others are still read."""
    try:
        images = form.convert(stack.part(start, stop))
    except InputError as error:
        if stop == start + 1:
            yield error
            return
        for row in range(start, stop):
            yield from _converted(stack, form, row, row + 1)
    else:
        for image in images:
            yield image, []


# -- finding them


def find_inputs(files: Sequence[str | Path], split: str, fitting: Fitting) -> Inputs:
    """The images in ``files`` and folders, in their order; folders are sorted by name.

    ``split``, "train" or "test", says which images are meant in a file that has both.
    """
    sources: list[Source] = []
    unreadable: list[Unreadable] = []
    notices: list[str] = []
    _opened.cache_clear()  # files may have changed since the last call
    for path in map(Path, files):
        try:
            sources += _sources(path, split, fitting, notices.append)
        except InputError as error:
            unreadable.append(Unreadable(str(path), str(error)))
    return Inputs(sources, unreadable, notices)


def _sources(path: Path, split: str, fitting: Fitting, notify: Notify) -> list[Source]:
    if _is_folder(path):
        images = read_images(path, notify).all_images()
        if not images:
            raise InputError(f"{path} has no {NAMES} files: name a folder with pictures")
        return [Source(each) for each in images]
    with open_named(path) as file:
        head = file.read(HEAD_BYTES)
    if path.suffix.lower() in SUFFIXES or not (head.startswith(NUMPY_MAGICS) or SIGNATURE in head):
        return [Source(path)]
    stack = _choose(path, split, fitting.shape)
    if not stack.shape[0]:
        raise InputError(f"{path}: {stack.array} has no images: name another file")
    form = _form_of(path, stack, fitting, notify)
    fitting.require_channels(path, form)
    notify(f"{path}: the images are those of {stack.array}")
    return [Source(path, stack.array.name, stack.shape[0], form)]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, a null character: open_named says so
        return False


@dataclass(frozen=True)
class _ArrayImages:
    """The images of an array, read in parts where the format can; else it is kept in memory."""

    array: NamedArray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def part(self, start: int, stop: int) -> Array:
        if self.array.read:
            return self.array.read(slice(start, stop))
        return self.array.load()[start:stop]

    def rows(self, indices: Rows) -> Array:
        return np.stack([self.part(index, index + 1)[0] for index in indices])

    def pieces(self, most: int) -> Iterator[Array]:
        for start in range(0, self.shape[0], most):
            yield self.part(start, start + most)


def _arrays(path: Path, image_shape: Shape) -> list[NamedArray]:
    """The arrays in a file. One that is a single image of the network becomes (1, H, W, C)."""
    with open_named(path) as file:
        is_numpy = file.read(HEAD_BYTES).startswith(NUMPY_MAGICS)
    arrays = npz.arrays_of(path) if is_numpy else hdf5_arrays.arrays_of(path)
    if len(arrays) == 1 and arrays[0].shape in (image_shape, image_shape[:2]):
        one = arrays[0]
        shape, load = (1, *one.shape), lambda: one.load()[np.newaxis]
        return [replace(one, shape=shape, load=load, read=None)]
    return arrays


def _choose(path: Path, split: str, image_shape: Shape) -> _ArrayImages:
    """The array of images in a file, known by its name. ``InputError`` if that is not clear."""
    arrays = _arrays(path, image_shape)
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
    return _opened(path, chosen[0].name, image_shape)


@lru_cache(maxsize=1)
def _opened(path: Path, name: str, image_shape: Shape) -> _ArrayImages:
    """The array ``name``, read once if its format cannot be read in parts."""
    arrays = _arrays(path, image_shape)
    array = next((array for array in arrays if array.name == name), None)
    if array is None:
        raise InputError(f"{path} has changed while it was read: restore it")
    return _ArrayImages(array if array.read else replace(array, load=lru_cache(array.load)))


def _form_of(path: Path, stack: _ArrayImages, fitting: Fitting, notify: Notify) -> Form:
    """How the images are stored: in our format, or as the importers find out."""
    stored = stack.shape[1:]
    if stack.dtype == np.uint8 and (
        stored in (fitting.shape, fitting.shape[:2])
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
