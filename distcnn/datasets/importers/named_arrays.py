"""Which of a file's named arrays are the images and labels of which split, known by their names.

For NumPy's, MATLAB's and HDF5 files. A name such as ``x_train``, ``train_images``, ``trainX`` or
``test_set_y`` is taken apart into words; what it does not say, the name of its group or file may.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distcnn.datasets.hdf5 import by
from distcnn.datasets.importers.source import (
    Array,
    ArrayStack,
    Examples,
    Options,
    Rows,
    Source,
    as_text,
    join,
)
from distcnn.errors import InputError
from distcnn.system.wording import first_few

SPLIT_WORDS = {
    "train": "train training trn tr",
    "test": "test testing tst te t10k",
    "val": "val valid validation dev",
}
ROLE_WORDS = {
    "images": "images image imgs img x data pixels features input inputs samples",
    "labels": "labels label y target targets class classes labs",
    "names": "names categories classnames",
}


def _by_word(words: Mapping[str, str]) -> dict[str, str]:
    return {word: meaning for meaning, text in words.items() for word in text.split()}


SPLIT_OF, ROLE_OF = _by_word(SPLIT_WORDS), _by_word(ROLE_WORDS)
COMPACT = re.compile(r"(x|y)(train|test|val|trn|tst|tr|te)\b|\b(train|test|val)(x|y)\b")
FEWEST_PIXELS = 4


@dataclass(frozen=True)
class NamedArray:
    """An array in a file: ``load`` reads it. ``name`` is without its ``file``.

    ``read`` reads some rows, where the format can.
    """

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    load: Callable[[], Array]
    read: Callable[[slice], Array] | None = None

    def __str__(self) -> str:
        return f"{self.name} {by(self.shape) or 'scalar'} {self.dtype}"

    @property
    def is_text(self) -> bool:
        return self.dtype.kind in "SUO"

    def part(self, start: int, stop: int) -> Array:
        """Some rows."""
        return self.read(slice(start, stop)) if self.read else self.load()[start:stop]

    def rows(self, indices: Rows) -> Array:
        return np.stack([self.part(index, index + 1)[0] for index in indices])

    def pieces(self, most: int) -> Iterator[Array]:
        for start in range(0, self.shape[0], most):
            yield self.part(start, start + most)

    def meaning(self, table: Mapping[str, str]) -> str:
        """What the words of the name mean, the last part of it first; empty if nothing."""
        for part in [*reversed(self.name.split("/")), self.file]:
            found = {table[word] for word in words_of(part) if word in table}
            if len(found) == 1:
                return found.pop()
        return ""


def words_of(name: str) -> list[str]:
    """A name's words: ``trainImages_2`` is train, images, 2."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    spaced = COMPACT.sub(lambda found: " ".join(filter(None, found.groups())), spaced.lower())
    return re.findall(r"t10k|[a-z]+|[0-9]+", spaced)


def split_of(name: str) -> str:
    """The split that a name says, empty if none."""
    found = {SPLIT_OF[word] for word in words_of(name) if word in SPLIT_OF}
    return found.pop() if len(found) == 1 else ""


def source_of(kind: str, arrays: Sequence[NamedArray], options: Options, **details: Any) -> Source:
    """The source that named arrays make up. ``InputError`` when it is not clear which are which."""
    if options.images or options.labels or options.test_images or options.test_labels:
        chosen = _named_by_user(arrays, options)
    else:
        chosen = _named_by_themselves(arrays)
    examples, notes = {}, []
    for split, pairs in chosen.items():
        parts = [_pair(images, labels) for images, labels in pairs]
        examples[split] = join(parts)
        notes += [f"{split} split: {', '.join(_shown(pair, arrays))}" for pair in pairs]
    names = {
        array.name: [as_text(value) for value in array.load().tolist()]
        for array in arrays
        if role_of(array) == "names"
    }
    classes: dict[int, str] = {}
    if len(names) == 1:
        name, texts = names.popitem()
        classes = dict(enumerate(texts))
        notes.append(f"class names: {name}")
    return Source(kind, examples, **{"classes": classes, "notes": notes} | details)


Pairs = dict[str, list[tuple[NamedArray, NamedArray]]]
"""Images and labels by split, one pair for each file or group that holds some."""


def _named_by_user(arrays: Sequence[NamedArray], options: Options) -> Pairs:
    """The arrays that flags name; of several files, each is of the split that its name says."""
    if not (options.images and options.labels):
        raise InputError(f"give both --images NAME and --labels NAME: {_listed(arrays)}")
    if bool(options.test_images) != bool(options.test_labels):
        raise InputError("give both --test-images NAME and --test-labels NAME, or neither")
    chosen: Pairs = {}
    files = list(dict.fromkeys(array.file for array in arrays))
    for split, *names in (
        ("train", options.images, options.labels),
        ("test", options.test_images, options.test_labels),
    ):
        count = len(chosen)
        for file in files if names[0] else ():
            images, labels = (_find(arrays, file, str(name)) for name in names)
            if images and labels:
                own = split_of(file) if split == "train" and len(files) > 1 else ""
                chosen.setdefault(own or split, []).append((images, labels))
        if names[0] and len(chosen) == count:
            raise InputError(f"no file holds {' and '.join(map(str, names))}: {_listed(arrays)}")
    return chosen


def _find(arrays: Sequence[NamedArray], file: str, name: str) -> NamedArray | None:
    wanted = name.strip("/")
    of_file = [array for array in arrays if array.file == file]
    found = [array for array in of_file if array.name == wanted]
    found = found or [array for array in of_file if array.name.rsplit("/", 1)[-1] == wanted]
    if len(found) > 1:
        raise InputError(f"{name} may be {first_few(found)}: give the whole name")
    return found[0] if found else None


def role_of(array: NamedArray) -> str:
    """Images, labels or class names, by name and type; empty if neither."""
    role, words = array.meaning(ROLE_OF), words_of(array.name.rsplit("/", 1)[-1])
    if array.is_text and len(array.shape) == 1 and {"names", "classes"} & {role, *words}:
        return "names"
    if role == "images":
        is_large = len(array.shape) > 1 and math.prod(sorted(array.shape)[:-1]) >= FEWEST_PIXELS
        return role if is_large and not array.is_text else ""
    is_flat = len(array.shape) in (1, 2) or (array.shape and math.prod(array.shape[1:]) == 1)
    return role if role != "names" and is_flat else ""


def _named_by_themselves(arrays: Sequence[NamedArray]) -> Pairs:
    by_split: dict[str, dict[str, list[NamedArray]]] = {}
    for array in arrays:
        if (role := role_of(array)) in ("images", "labels"):
            split = array.meaning(SPLIT_OF)
            by_split.setdefault(split, {"images": [], "labels": []})[role].append(array)
    chosen = {
        split: pairs
        for split, found in by_split.items()
        if (pairs := _pairs_of(found["images"], found["labels"], arrays))
    }
    if "" in chosen and "train" not in chosen:
        chosen["train"] = chosen.pop("")
    if "train" not in chosen or "" in chosen:
        raise InputError(f"it is not clear which are the training images: {_listed(arrays)}")
    return chosen


def _pairs_of(
    images: Sequence[NamedArray], labels: Sequence[NamedArray], arrays: Sequence[NamedArray]
) -> list[tuple[NamedArray, NamedArray]]:
    """Images with their labels, one pair for each file."""
    if len(images) == len(labels) == 1:  # perhaps from two files
        return [(images[0], labels[0])]
    pairs = []
    for file in dict.fromkeys(array.file for array in images) if labels else ():
        own = [[array for array in found if array.file == file] for found in (images, labels)]
        if [len(found) for found in own] != [1, 1]:
            raise InputError(f"cannot tell images and labels apart: {_listed(arrays)}")
        pairs.append((own[0][0], own[1][0]))
    return pairs


def _listed(arrays: Sequence[NamedArray]) -> str:
    """What there is, and the remedy."""
    listed = f"found {first_few(_shown(arrays, arrays), 12) or 'no arrays'}"
    if len(arrays) < 2:
        return f"{listed}: there must be images and labels; name all files that hold them"
    return f"{listed}: name them with --images NAME --labels NAME"


def _shown(some: Sequence[NamedArray], arrays: Sequence[NamedArray]) -> list[str]:
    """Arrays as texts, with their files where there are several."""
    several = len({array.file for array in arrays}) > 1
    return [f"{array.file}: {array}" if several else str(array) for array in some]


def _pair(images: NamedArray, labels: NamedArray) -> Examples:
    """The arrays, with the examples on the first axis of both."""
    pixels, found = images.load(), labels.load()
    if found.ndim > 2 and found.size == len(found):
        found = found.ravel()
    if found.ndim == 2 and found.shape[0] == 1:
        found = found.T
    count = len(found)
    if pixels.ndim > 1 and pixels.shape[0] != count:
        if pixels.shape[-1] == count:  # MATLAB's (H, W, C, N)
            pixels = np.moveaxis(pixels, -1, 0)
        elif found.ndim == 2 and found.shape[1] in (pixels.shape[0], pixels.shape[-1]):
            found = found.T
            pixels = pixels if pixels.shape[0] == len(found) else np.moveaxis(pixels, -1, 0)
    if pixels.ndim < 2 or len(pixels) != len(found) or not len(found):
        raise InputError(
            f"{images} and {labels} do not belong together: there must be one label for each image"
        )
    return Examples(f"{images.file}: {images.name}", ArrayStack(pixels), found)
