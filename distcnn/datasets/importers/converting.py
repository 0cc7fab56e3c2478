"""From a source to an image set: splits, class numbers, pixels, and the file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import SPLITS, Images
from distcnn.datasets.importers.labels import encode
from distcnn.datasets.importers.pixels import Form, find_form
from distcnn.datasets.importers.source import Notify, Options, Rows, Source, Stack
from distcnn.datasets.importers.splits import cut, order_of, with_validation
from distcnn.datasets.writer import Split, chunk_examples, write_dataset
from distcnn.errors import InputError


@dataclass(frozen=True)
class Chosen:
    """The examples of a split: ``rows`` of ``images``, or all in their order; ``codes`` are the
    class numbers of what is chosen. Without a ``form``, images are written as they are.
    """

    images: Stack
    codes: NDArray[np.int64]
    rows: Rows | None = None
    form: Form | None = None

    def batches(self) -> Iterator[tuple[Images, NDArray[np.int64]]]:
        """Images and labels, chunk by chunk."""
        size, start = chunk_examples(math.prod(self.images.shape[1:])), 0
        for piece in self._pieces(size):
            images = self.form.convert(piece) if self.form else piece
            yield images, self.codes[start : start + len(images)]
            start += len(images)

    def _pieces(self, size: int) -> Iterator[Images]:
        if self.rows is None:
            yield from self.images.pieces(size)
        else:
            for start in range(0, len(self.rows), size):
                yield self.images.rows(self.rows[start : start + size])


@dataclass(frozen=True)
class Prepared:
    """A set to be written: its splits, and the names of its classes where there are any."""

    splits: Mapping[str, Chosen]
    classes: int
    class_names: list[str]

    def counts(self) -> dict[str, list[int]]:
        """How many images each class has in each split."""
        return {
            split: np.bincount(chosen.codes, minlength=self.classes).tolist()
            for split, chosen in self.splits.items()
        }

    def write(self, output: str | Path, name: str, source: str) -> None:
        """Write the file, completely or not at all."""
        write_dataset(
            output,
            name=name,
            source=source,
            classes=self.classes,
            splits={
                split: Split(len(chosen.codes), chosen.batches())
                for split, chosen in self.splits.items()
            },
            class_names=self.class_names or None,
        )


def prepare(source: Source, options: Options, notify: Notify) -> Prepared:
    """Decide about splits, classes and pixels of a source; ``notify`` gets a line for each guess.

    Raises:
        InputError: When something cannot be known, or the source is not an image set.
    """
    examples = source.examples
    if not source.in_order:
        examples = with_validation(examples, options, notify)
    if "train" not in examples:
        raise InputError("these are test images only: name the files of the training images too")
    if "test" in examples and options.test_fraction is not None and not source.in_order:
        raise InputError("--test-fraction is given, but the source has a test split: leave it out")
    labels = {split: part.labels for split, part in examples.items()}
    codes, names = encode(labels, source.classes, options.class_names, notify)
    form = None
    if not source.in_form:
        stacks = [part.images for part in examples.values()]
        form = find_form(stacks, options, source.transposed, notify)
    images, own = examples["train"].images, codes["train"]
    if "test" not in examples:
        splits = {
            split: Chosen(images, own[rows], rows, form)
            for split, rows in cut(own, names, options, notify).items()
        }
    else:
        order = None if source.in_order else order_of(own, options, notify)
        splits = {
            "train": Chosen(images, own if order is None else own[order], order, form),
            "test": Chosen(examples["test"].images, codes["test"], None, form),
        }
    classes = max(len(names), *(int(chosen.codes.max()) + 1 for chosen in splits.values()))
    if classes == 1 and not source.in_order:
        notify("there is only one class, so there is nothing to distinguish")
    return Prepared({split: splits[split] for split in SPLITS}, classes, names)
