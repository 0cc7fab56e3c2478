"""What a network is to predict: image files, folders of them, and arrays of images in HDF5 and
NumPy files, one after the other, read in parts.

Letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distcnn.datasets.fitting import Fitting
from distcnn.datasets.hdf5 import Images
from distcnn.datasets.importers.layout import read_images
from distcnn.datasets.importers.named_arrays import NamedArray
from distcnn.datasets.importers.pixels import PIECE_BYTES, Form
from distcnn.datasets.importers.source import Notify
from distcnn.datasets.pictures import NAMES, SUFFIXES, read_pixels
from distcnn.datasets.stored_images import choose_images, form_of, has_arrays, open_images
from distcnn.errors import InputError
from distcnn.spans import touch
from distcnn.system.wording import printable, width_of


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
    _opened: dict[str, NamedArray] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

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
            for index, read in zip(indices, self._read(source, indices, fitting), strict=True):
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

    def _read(self, source: Source, indices: range, fitting: Fitting) -> Iterator[Read]:
        """The images ``indices`` of a source."""
        if source.form is None:
            try:
                yield read_pixels(source.path, fitting.mode)
            except InputError as error:
                yield error
            return
        stack = self._open(source, fitting)
        size = max(1, PIECE_BYTES // (math.prod(stack.shape[1:]) * 8))
        for start in range(indices.start, indices.stop, size):
            yield from _converted(stack, source.form, start, min(start + size, indices.stop))

    def _open(self, source: Source, fitting: Fitting) -> NamedArray:
        """The array of a source; the one that was opened last is kept."""
        if (key := source.name(0)) not in self._opened:
            self._opened.clear()
            self._opened[key] = open_images(source.path, source.array, fitting.shape)
        return self._opened[key]


Read = tuple[Images, list[str]] | InputError
"""An image with what was done to it, or why it cannot be read."""


def _converted(stack: NamedArray, form: Form, start: int, stop: int) -> Iterator[Read]:
    """Images of an array; if some are damaged, the others are still read."""
    try:
        images = form.convert(stack.part(start, stop))
        if len(images) < stop - start:
            raise InputError(f"{stack} was shortened while it was read: restore its file")
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
    for name in files:
        path = Path(name)
        try:
            if name == "":  # Path would make it the current folder
                raise InputError("the name of a file is empty: name files or folders")
            sources += _sources(path, split, fitting, notices.append)
        except InputError as error:
            unreadable.append(Unreadable(str(path), str(error)))
    return Inputs(sources, unreadable, notices)


def _sources(path: Path, split: str, fitting: Fitting, notify: Notify) -> list[Source]:
    if os.path.isdir(path):  # noqa: PTH112  (Path's raises for a name that is too long)
        images = read_images(path, notify).all_images()
        if not images:
            raise InputError(f"{path} has no {NAMES} files: name a folder with pictures")
        return [Source(each) for each in images]
    if not has_arrays(path) or path.suffix.lower() in SUFFIXES:
        return [Source(path)]
    stack = choose_images(path, split, fitting.shape)
    if not stack.shape[0]:
        raise InputError(f"{path}: {stack} has no images: name another file")
    if stack.read:
        stack.part(0, 0)  # refuses what was never stored: its zeros would pass for images
    form = form_of(path, stack, fitting.shape, notify)
    fitting.require_channels(path, form)
    notify(f"{path}: the images are those of {stack}")
    return [Source(path, stack.name, stack.shape[0], form)]
