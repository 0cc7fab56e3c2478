"""Statistics of all examples of an image set, and likely mistakes in it.

Each rank surveys the examples it reads (``Survey``); ``judge`` combines the findings of all ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.examples import ExampleFile, piece_size, pieces_of
from distcnn.datasets.hashing import BlockHashes, WholeHash, blocks_sha256, leaves_of
from distcnn.datasets.hdf5 import SPLITS, VALIDATION, DatasetInfo, Images, Indices, Labels, by
from distcnn.errors import InputError
from distcnn.system.wording import being, counted, first_few, plural

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]

WORDS = {"train": "training", "test": "test"}
LARGE_SHARE = 0.95
"""A class with a larger share of a split is reported."""
FAR = 10
"""Statistics that are wrong by more than this factor, or standard deviations, are reported."""
LEAST_UNWRITTEN = 16
"""HDF5 allocates a whole dataset when its first row is written. More black images than this at its
end were never written.
"""
FLAT = (4, 64)
"""Images with at most 4 rows and at least 64 columns, or vice versa, are reported."""
PIXELS_AT_ONCE = 2**17
"""Counting takes eight times their memory."""


def pixel_sums(by_channel: Images) -> NDArray[np.int64]:
    """Sums of the pixels (n, C) and of their squares: (2, C).

    They are integers, so they are exact in any order and on any number of ranks.
    """
    values = np.arange(256, dtype=np.int64)
    counts = np.zeros((by_channel.shape[1], 256), np.int64)
    for start in range(0, len(by_channel), PIXELS_AT_ONCE):
        pixels = by_channel[start : start + PIXELS_AT_ONCE]
        counts += [np.bincount(channel, minlength=256) for channel in pixels.T]
    return np.stack([counts @ values, counts @ np.square(values)])


def mean_and_std(sums: NDArray[np.int64], pixels: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the pixels / 255, (C,) each, from their ``pixel_sums``."""
    mean = sums[0] / pixels
    variance = np.maximum(sums[1] / pixels - mean * mean, 0)
    return mean / 255, np.sqrt(variance) / 255


@dataclass
class Found:
    """Findings about some examples of one split. Can be sent to another rank."""

    label_counts: NDArray[np.int64]
    blocks: BlockHashes
    blank: int = 0
    """The number of images that are completely black."""
    first_blank: int = 2**63
    last_written: int = -1
    """The index of the last image that is not completely black."""
    brightest: int = 0
    hashes: tuple[int, int] = (2**64, -1)
    """The lowest and the highest of all images."""
    repeated: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Hashes of training images that are also test images, except black ones."""
    sample: tuple[Floats, Floats] | None = None
    """Mean and standard deviation of the split's first images."""

    def merge(self, other: Found) -> None:
        """Include the findings of ``other`` about more examples of the split."""
        self.label_counts += other.label_counts
        self.blocks.merge(other.blocks)
        self.blank += other.blank
        self.first_blank = min(self.first_blank, other.first_blank)
        self.last_written = max(self.last_written, other.last_written)
        self.brightest = max(self.brightest, other.brightest)
        (low, high), (other_low, other_high) = self.hashes, other.hashes
        self.hashes = min(low, other_low), max(high, other_high)
        if other.repeated.size:  # union1d takes a MiB
            self.repeated = np.union1d(self.repeated, other.repeated)
        self.sample = self.sample or other.sample


Findings = dict[str, Found]
"""By split."""


def no_findings(info: DatasetInfo) -> Findings:
    return {
        split: Found(np.zeros(info.classes, np.int64), BlockHashes(count))
        for split, count in info.examples.items()
    }


class Survey:
    """Findings about a rank's examples: first add all test examples, then call ``look_for`` with
    the hashes of those of all ranks, then add the training examples.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self.info, self._whole = info, info.whole
        self.found = no_findings(self._whole)
        self._test_hashes: list[Hashes] = []
        self._wanted = np.zeros(0, np.uint64)

    @property
    def test_hashes(self) -> Hashes:
        """The hashes of the test images so far, in their order."""
        return np.concatenate([np.zeros(0, np.uint64), *self._test_hashes])

    def look_for(self, test_hashes: Hashes) -> None:
        self._wanted = np.sort(test_hashes)

    def add(self, split: str, first: int, images: Images, labels: Labels) -> None:
        """Add the examples from ``first`` on: images (n, H, W, C) and labels (n,).

        Those of the split "validation" count as the training examples that they are in the file.
        """
        if not len(labels):
            return
        rows, sampled = self.info.rows(split, first + np.arange(len(labels))), split
        split = "train" if split == VALIDATION else split
        brightest, leaves = images.reshape(len(labels), -1).max(axis=1), leaves_of(images, labels)
        hashes: Hashes = leaves[:, :8].copy().view("<u8").ravel()
        found = no_findings(self._whole)[split]
        self.add_labels(split, labels)
        if self.info.blocks_sha256:
            for part in _consecutive(rows):
                found.blocks.add(int(rows[part.start]), leaves[part])
        written, blank = np.flatnonzero(brightest), np.flatnonzero(brightest == 0)
        if written.size:
            found.last_written = int(rows[written[-1]])
        if blank.size:
            found.blank, found.first_blank = blank.size, int(rows[blank[0]])
        found.brightest = int(brightest.max())
        found.hashes = int(hashes.min()), int(hashes.max())
        if split == "test":
            self._test_hashes.append(hashes)
        else:
            compared, wanted = hashes[written], self._wanted
            places = np.minimum(np.searchsorted(wanted, compared), len(wanted) - 1)
            found.repeated = compared[wanted[places] == compared]
        if first == 0 and sampled != VALIDATION:
            by_channel = images.reshape(-1, images.shape[3])
            found.sample = mean_and_std(pixel_sums(by_channel), len(by_channel))
        self.found[split].merge(found)

    def add_labels(self, split: str, labels: Labels) -> None:
        """Add labels without their images."""
        self.found[split].label_counts += np.bincount(labels, minlength=self.info.classes)


def _consecutive(rows: Indices) -> Iterator[slice]:
    """The parts of ``rows``, at least one row, that count up without a gap."""
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return itertools.starmap(slice, itertools.pairwise(cuts))


def judge(info: DatasetInfo, parts: Sequence[Findings], test_hashes: Hashes) -> list[str]:
    """Warnings about the set, one line each, from the findings of all ranks.

    ``test_hashes`` are those of all test images, in order. Raises ``InputError`` when the examples
    do not match the file's own hash, were never written, or all training images are the same.
    """
    found = no_findings(info)
    for split, whole in found.items():
        for part in parts:
            whole.merge(part[split])
    _require_hash(info, found)
    for split, whole in found.items():
        last, count = whole.last_written, info.examples[split]
        if 0 <= last < count - LEAST_UNWRITTEN:
            raise InputError(
                f"{info.path}: /{split}/images[{last + 1}:{count}] are all zero, so they were never"
                " written: write them, or resize images and labels to those that were; if black"
                " images are intended, write the set in random order"
            )
    lowest, highest = found["train"].hashes
    if lowest == highest and info.examples["train"] > 1:
        raise InputError(
            f"{info.path}: all {info.examples['train']:,} training images are the same: there is"
            " nothing to learn; make the set again"
        )
    warnings = _image_warnings(info, found, test_hashes)
    return judge_labels(info, found) + [f"{info.path}: {warning}" for warning in warnings]


def judge_labels(info: DatasetInfo, found: Findings) -> list[str]:
    """The warnings about labels alone."""
    return [f"{info.path}: {warning}" for warning in _label_warnings(info, found)]


def _require_hash(info: DatasetInfo, found: Findings) -> None:
    name, stated, actual = "sha256", info.sha256, ""
    if info.blocks_sha256:
        name, stated = "blocks_sha256", info.blocks_sha256
        actual = blocks_sha256(info.sha256, {split: found[split].blocks for split in SPLITS})
    elif info.sha256:
        actual = _whole_sha256(info)
    if stated.strip().lower() != actual:
        raise InputError(
            f"{info.path}: the examples do not match the file's SHA-256 (attribute '{name}' is"
            f" {stated[:64]!r}, that of the examples is {actual}): damaged or edited; copy or"
            " prepare the file again, or, if the change is intended, delete the attributes"
            " 'sha256' and 'blocks_sha256'"
        )


def _whole_sha256(info: DatasetInfo) -> str:
    """The hash that files without ``blocks_sha256`` state. One process must read all examples."""
    whole = WholeHash()
    with closing(ExampleFile(info)) as file:
        for split, count in info.examples.items():
            for piece in pieces_of(range(count), piece_size(info, split)):
                whole.add(split, *file.load(split, piece))
    return whole.hexdigest()


def _label_warnings(info: DatasetInfo, found: Findings) -> Iterator[str]:
    is_used = found["train"].label_counts + found["test"].label_counts > 0
    used, unused = np.flatnonzero(is_used), np.flatnonzero(~is_used)
    if info.classes_counted and unused.size:
        yield (
            f"the labels are {used[0]} to {used[-1]}, and no image has {_named(unused)}:"
            f" {being(info.classes, 'class')} trained; number the labels 0 to {len(used) - 1}, or"
            " set the attribute 'classes'"
        )
    for split, word in WORDS.items():
        here = found[split].label_counts
        missing = np.flatnonzero((here == 0) & is_used if info.classes_counted else here == 0)
        most, total = int(here.argmax()), int(here.sum())
        share = here[most] / total
        if share == 1 and total > 1:
            yield f"all {total:,} {word} images have label {most}: there is nothing to distinguish"
            continue
        if missing.size:
            result = "cannot be learned" if split == "train" else "are not tested"
            yield f"no {word} image has {_named(missing)}: such images {result}"
        if LARGE_SHARE < share < 1:
            yield (
                f"{share:.1%} of the {word} images have label {most}: always answering {most} would"
                " reach the same accuracy"
            )


def _image_warnings(info: DatasetInfo, found: Findings, test_hashes: Hashes) -> Iterator[str]:
    channels, height, width = info.image_shape
    if channels == width != height and channels > FLAT[0]:
        yield (
            f"images are read as {by((height, width))} pixels with {channels} channels: channels"
            " come last; if yours come first, write images.transpose(0, 2, 3, 1)"
        )
    elif min(height, width) <= FLAT[0] and max(height, width) >= FLAT[1]:
        yield (
            f"images are {by((height, width))} pixels: if they were flattened, write them as"
            " (height, width) or (height, width, channels)"
        )
    for split, whole in found.items():
        if whole.blank:
            yield (
                f"{being(whole.blank, f'{WORDS[split]} image')} all zero (the first:"
                f" /{split}/images[{whole.first_blank}]): probably never written"
            )
    train, test = found["train"], found["test"]
    if train.brightest == 1:
        yield (
            "no training pixel is above 1: if the images were scaled to 0..1 before they became"
            " uint8, multiply them by 255 first"
        )
    if train.sample and np.all(train.sample[1] > 0):
        yield from _statistics_warnings(info, *train.sample)
    if len(test_hashes) > 1 and test.hashes[0] == test.hashes[1]:
        yield (
            f"all {len(test_hashes):,} test images are the same: the test accuracy says little"
            " about other images"
        )
    places = np.flatnonzero(np.isin(test_hashes, train.repeated))
    if places.size:
        yield (
            f"the training set contains {places.size:,} of"
            f" {counted(len(test_hashes), 'test image')} (the first: /test/images[{places[0]}]):"
            " expect a lower accuracy on new images"
        )


def _statistics_warnings(info: DatasetInfo, mean: Floats, std: Floats) -> Iterator[str]:
    """Compare the file's mean and standard deviation with those of its first images."""
    ratios = np.array(info.std or std) / std
    distances = np.abs(np.array(info.mean or mean) - mean) / std
    is_std_far = np.any((ratios > FAR) | (ratios < 1 / FAR))
    for name, is_far, stated, actual in (
        ("std", is_std_far, info.std or (), std),
        ("mean", np.any(distances > FAR), info.mean or (), mean),
    ):
        if is_far:
            texts = [", ".join(f"{x:.4g}" for x in values) for values in (stated, actual)]
            yield (
                f"attribute '{name}' is {texts[0]}, but that of the first images is {texts[1]} (of"
                " pixels / 255): delete the attribute to have it computed"
            )


def _named(labels: NDArray[np.int64]) -> str:
    return f"{plural(len(labels), 'label')} {first_few(labels.tolist())}"
