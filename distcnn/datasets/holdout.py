"""Validation sets: a part of the training set is held out, the same on any number of ranks.

A ``HoldOut`` is an image set with three splits: "train" is what was kept, "validation" what was
held out, and "test" as before. Shards and windows are cut from the kept examples, as from any set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing

import numpy as np

from distcnn.datasets.dataset import Dataset
from distcnn.datasets.examples import ExampleReader, piece_size, pieces_of
from distcnn.datasets.hdf5 import VALIDATION, DatasetInfo, Images, Indices, Labels
from distcnn.random_streams import HOLD_OUT, generator


def choose_rows(labels: Labels, count: int) -> Indices:
    """The rows of ``count`` examples, sorted: random ones, with as many of each class as its share.

    They depend on ``labels`` (N,) alone, so runs with other seeds have the same validation set.
    """
    words = generator(0, HOLD_OUT).random_raw(len(labels))
    by_class = np.lexsort((words, labels))  # class after class, each in a random order
    evenly_spaced = (2 * np.arange(count) + 1) * len(labels) // (2 * count)
    return np.sort(by_class[evenly_spaced])


def hold_out_rows(dataset: Dataset, info: DatasetInfo, count: int, stall_timeout: float) -> Indices:
    """``choose_rows`` for an image set. Raises ``InputError`` as ``ExampleReader.read``."""
    with closing(dataset.open(info, stall_timeout)) as reader:
        return choose_rows(reader.read_labels("train", range(info.examples["train"])), count)


class HoldOut(Dataset):
    """``dataset``, which ``info`` describes, with the ``rows`` of its training set held out."""

    def __init__(self, dataset: Dataset, info: DatasetInfo, rows: Indices) -> None:
        self.path, self._dataset, self._whole = dataset.path, dataset, info
        kept = {"train": info.examples["train"] - len(rows), VALIDATION: len(rows)}
        self._info = dataclasses.replace(
            info,
            examples={**info.examples, **kept},
            chunk_examples={**info.chunk_examples, VALIDATION: info.chunk_examples["train"]},
            held_out=rows,
        )

    def read_info(self, stall_timeout: float = 0.0) -> DatasetInfo:
        return self._info

    def open(self, info: DatasetInfo, stall_timeout: float = 0.0) -> ExampleReader:
        return HoldOutReader(self._dataset.open(self._whole, stall_timeout), info)

    def content_sha256(self) -> str:
        return self._dataset.content_sha256()


class HoldOutReader(ExampleReader):
    """Reads the splits of a ``HoldOut``, which ``info`` describes, from the whole image set."""

    def __init__(self, whole: ExampleReader, info: DatasetInfo) -> None:
        self.info, self._whole = info, whole

    def read(self, split: str, span: range, images: Images, labels: Labels) -> None:
        list(self.read_in_pieces(split, span, images, labels))

    def read_in_pieces(
        self, split: str, span: range, images: Images, labels: Labels
    ) -> Iterator[range]:
        if split == "test":
            yield from self._whole.read_in_pieces(split, span, images, labels)
            return
        rows = self.info.rows(split, np.arange(span.start, span.stop))
        whole = range(int(rows[0]), int(rows[-1]) + 1) if len(rows) else range(0)
        for piece in pieces_of(whole, piece_size(self.info, split)):  # whole chunks of the file
            first, stop = np.searchsorted(rows, (piece.start, piece.stop)).tolist()
            wanted = rows[first:stop]
            if len(wanted):
                read = range(int(wanted[0]), int(wanted[-1]) + 1)
                around_images, around_labels = self._whole.load("train", read)
                images[first:stop] = around_images[wanted - read.start]
                labels[first:stop] = around_labels[wanted - read.start]
                yield span[first:stop]

    def read_labels(self, split: str, span: range) -> Labels:
        return self.load(split, span)[1]

    def close(self) -> None:
        self._whole.close()
