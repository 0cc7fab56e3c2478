"""What readers take and return: a source's images and labels as they were found.

Letters: N examples, H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError
from distcnn.system.host import free_memory
from distcnn.system.wording import printable

Array = NDArray[Any]
Rows = NDArray[np.intp]
Notify = Callable[[str], None]

MOST_EXPANSION = 1032
"""How far deflate, the compression of gzip and ZIP files, can shrink data."""
SPARE_BYTES = 2**16


@dataclass(frozen=True)
class Options:
    """What the user says about a source; None where it is to be guessed.

    Attributes:
        images, labels, test_images, test_labels: Names of arrays or columns.
        image_size: (H, W) or (H, W, C) of images stored as rows of pixels.
        layout: "NHWC" or "NCHW".
        transpose: Whether rows and columns of the images are swapped in the source.
        scale: The values that are black and white.
        coarse: Use the 20 superclasses of CIFAR-100.
        size, grayscale, background, class_order: As for ``distcnn.datasets.pictures`` and folders.
        test_fraction: Fraction of each class that becomes the test split, if there is none.
        seed: For that choice, and for shuffling.
        validation_split: What becomes of a validation split: "train", "test" or "drop".
        class_names: In the order of the labels.
    """

    images: str | None = None
    labels: str | None = None
    test_images: str | None = None
    test_labels: str | None = None
    image_size: tuple[int, ...] | None = None
    layout: str | None = None
    transpose: bool | None = None
    scale: tuple[float, float] | None = None
    coarse: bool = False
    size: tuple[int, int] | None = None
    grayscale: bool = False
    background: str = "white"
    class_order: str = "natural"
    test_fraction: float | None = None
    seed: int = 0
    validation_split: str | None = None
    class_names: Sequence[str] = ()


class Stack(Protocol):
    """Images (N, ...), not necessarily in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def rows(self, indices: Rows) -> Array:
        """The images with these indices."""

    def pieces(self, most: int) -> Iterator[Array]:
        """All images in order, at most ``most`` at a time."""


@dataclass(frozen=True)
class ArrayStack:
    """Images in an array."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def rows(self, indices: Rows) -> Array:
        found: Array = self.array[indices]
        return found

    def pieces(self, most: int) -> Iterator[Array]:
        for start in range(0, len(self.array), most):
            yield self.array[start : start + most]


@dataclass(frozen=True)
class Joined:
    """Images of several stacks in a row."""

    stacks: Sequence[Stack]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(stack.shape[0] for stack in self.stacks), *self.stacks[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(stack.dtype for stack in self.stacks))

    def rows(self, indices: Rows) -> Array:
        found, first = np.empty((len(indices), *self.shape[1:]), self.dtype), 0
        for stack in self.stacks:
            places = np.flatnonzero((first <= indices) & (indices < first + stack.shape[0]))
            if places.size:
                found[places] = stack.rows(indices[places] - first)
            first += stack.shape[0]
        return found

    def pieces(self, most: int) -> Iterator[Array]:
        for stack in self.stacks:
            yield from stack.pieces(most)


@dataclass(frozen=True)
class Examples:
    """Some examples: ``images`` (N, ...) and their ``labels``; ``name`` is for messages."""

    name: str
    images: Stack
    labels: Array


@dataclass(frozen=True)
class Source:
    """What a reader found.

    Attributes:
        kind: The format, for messages: "NumPy archive".
        examples: By split: "train", and perhaps "test" and "val".
        classes: The name of each label; the order decides the class numbers. Empty: by the labels.
        in_form: Whether images are uint8 (N, H, W) or (N, H, W, C), to be written as they are.
        in_order: Whether there is a test split, and the order is random.
        transposed: Rows and columns of the images are swapped; None if unknown.
        notes: What was found and guessed.
    """

    kind: str
    examples: Mapping[str, Examples]
    classes: Mapping[int, str] = field(default_factory=dict)
    in_form: bool = False
    in_order: bool = False
    transposed: bool | None = False
    notes: Sequence[str] = ()


def join(parts: Sequence[Examples]) -> Examples:
    """The examples of all ``parts`` in a row. ``InputError`` when their images differ in shape."""
    first = parts[0]
    for part in parts[1:]:
        if part.images.shape[1:] != first.images.shape[1:]:
            raise InputError(
                f"{part.name} has images of shape {part.images.shape[1:]}, {first.name} of"
                f" {first.images.shape[1:]}: images must have the same size"
            )
    if len(parts) == 1:
        return first
    labels = np.concatenate([part.labels for part in parts])
    return Examples(first.name, Joined([part.images for part in parts]), labels)


def as_text(value: Any) -> str:
    """A text or bytes of a file as text."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


@contextmanager
def damage_named(name: object, remedy: str = "fetch or write it again") -> Iterator[None]:
    """Turn whatever a library raises for a damaged or hostile file into an ``InputError``."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise nearly everything of such files
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{name} is damaged ({printable(reason)}): {remedy}") from error


def require_room(name: str, needed: int, stored: int | None = None) -> None:
    """``InputError`` when arrays of ``needed`` bytes cannot come from ``stored`` compressed bytes,
    or do not fit into memory.
    """
    if stored is not None and needed > MOST_EXPANSION * stored + SPARE_BYTES:
        raise InputError(
            f"{name} claims {needed:,} bytes, but only {stored:,} are stored: it is damaged"
        )
    free = free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"{name} needs {needed / 2**30:,.1f} GiB of memory, but only {free / 2**30:,.1f} GiB"
            " are free: convert it on a larger machine, or write it in pieces (docs/data_format.md)"
        )
