"""Statistics of all examples of an image set, and likely mistakes in it.

Each rank surveys its part (``Survey``); ``judge`` combines the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.examples import ExampleFile, piece_size, pieces_of
from distcnn.datasets.hashing import BlockHashes, WholeHash, blocks_sha256, leaves_of
from distcnn.datasets.hdf5 import SPLITS, DatasetInfo, Images, Labels, by
from distcnn.errors import InputError
from distcnn.system.wording import being, counted, plural

Floats = NDArray[np.float64]

WORDS = {"train": "training", "test": "test"}
MOST_NAMED = 5
LARGE_SHARE = 0.95
"""A class with a larger share of a split than this is reported."""
FAR = 10
"""Statistics that differ from those of the pixels by more than this are reported: a factor, or a
number of standard deviations.
"""
LEAST_UNWRITTEN = 16
"""More black images than this at the end of a split were never written: HDF5 allocates a whole
dataset when its first row is written.
"""
FLAT = (4, 64)
"""The most rows and the fewest columns (or vice versa) of images that are reported as odd."""
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
    """Mean and standard deviation of the pixels / 255, (C,) each, from ``pixel_sums`` over
    ``pixels`` pixels.
    """
    mean = sums[0] / pixels
    variance = np.maximum(sums[1] / pixels - mean**2, 0)
    return mean / 255, np.sqrt(variance) / 255


@dataclass
class Found:
    """Findings about the examples of one part; can be sent to another rank."""

    label_counts: dict[str, NDArray[np.int64]]
    blocks: dict[str, BlockHashes]
    blank: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """The number of images that are black throughout."""
    first_blank: dict[str, int] = field(default_factory=dict)
    last_written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, -1))
    """The index of the last image that is not black throughout."""
    pixel_range: tuple[int, int] = (255, 0)
    """Lowest and highest training pixel."""
    hash_range: tuple[int, int] = (2**64 - 1, 0)
    """Lowest and highest hash of a training image."""
    repeated: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Which test images, sorted by their hashes, are also training images; of equal ones, the
    first. Black images do not count.
    """
    sample: tuple[Floats, Floats] | None = None
    """Mean and standard deviation of the first training images, if this part has them."""


def merge(parts: Sequence[Found]) -> Found:
    """The findings of all ``parts`` together."""
    first_blank = {
        split: min(part.first_blank[split] for part in parts if split in part.first_blank)
        for split in SPLITS
        if any(split in part.first_blank for part in parts)
    }
    return Found(
        {split: np.sum([part.label_counts[split] for part in parts], axis=0) for split in SPLITS},
        {split: BlockHashes.merged([part.blocks[split] for part in parts]) for split in SPLITS},
        {split: sum(part.blank[split] for part in parts) for split in SPLITS},
        first_blank,
        {split: max(part.last_written[split] for part in parts) for split in SPLITS},
        _widest([part.pixel_range for part in parts]),
        _widest([part.hash_range for part in parts]),
        np.any([part.repeated for part in parts], axis=0),
        next((part.sample for part in parts if part.sample), None),
    )


def _widest(ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return min(low for low, _ in ranges), max(high for _, high in ranges)


class Survey:
    """Collects findings about a rank's examples as they are read.

    Add all test examples first, then call ``look_for`` with those of all ranks, then add the
    training examples.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info
        counts = {split: np.zeros(info.classes, np.int64) for split in SPLITS}
        self.found = Found(counts, {split: BlockHashes(info.examples[split]) for split in SPLITS})
        self._test_hashes: list[NDArray[np.uint64]] = []
        self._wanted = np.zeros(0, np.uint64)

    @property
    def test_hashes(self) -> NDArray[np.uint64]:
        """The hashes of the test images so far, in their order."""
        return np.concatenate([np.zeros(0, np.uint64), *self._test_hashes])

    def look_for(self, test_hashes: NDArray[np.uint64]) -> None:
        """Find training images among these: the ``test_hashes`` of all ranks, in order."""
        self._wanted = np.sort(test_hashes)
        self.found.repeated = np.zeros(len(self._wanted), bool)

    def add(self, split: str, first: int, images: Images, labels: Labels) -> None:
        """Add the examples from ``first`` on: images (n, H, W, C) and labels (n,)."""
        if not len(labels):
            return
        found, brightest = self.found, images.reshape(len(labels), -1).max(axis=1)
        leaves = leaves_of(images, labels)
        hashes: NDArray[np.uint64] = leaves[:, :8].copy().view("<u8").ravel()
        if self.info.blocks_sha256:
            found.blocks[split].add(first, leaves)
        self.add_labels(split, labels)
        written, blank = np.flatnonzero(brightest), np.flatnonzero(brightest == 0)
        if written.size:
            found.last_written[split] = first + int(written[-1])
        if blank.size:
            found.blank[split] += blank.size
            found.first_blank.setdefault(split, first + int(blank[0]))
        if split == "test":
            self._test_hashes.append(hashes)
            return
        pixels = int(images.min()), int(brightest.max())
        found.pixel_range = _widest([found.pixel_range, pixels])
        found.hash_range = _widest([found.hash_range, (int(hashes.min()), int(hashes.max()))])
        self._note_repeated(hashes[written])
        if first == 0:
            by_channel = images.reshape(-1, images.shape[3])
            found.sample = mean_and_std(pixel_sums(by_channel), len(by_channel))

    def add_labels(self, split: str, labels: Labels) -> None:
        """Add labels without their images."""
        self.found.label_counts[split] += np.bincount(labels, minlength=self.info.classes)

    def _note_repeated(self, hashes: NDArray[np.uint64]) -> None:
        if len(self._wanted):
            places = np.minimum(np.searchsorted(self._wanted, hashes), len(self._wanted) - 1)
            self.found.repeated[places[self._wanted[places] == hashes]] = True


def judge(info: DatasetInfo, parts: Sequence[Found], test_hashes: NDArray[np.uint64]) -> list[str]:
    """Warnings about the set, one line each, from ``parts`` that cover all of it.

    Args:
        info: The image set.
        parts: What each rank has found.
        test_hashes: The hashes of all test images, in order.

    Raises:
        InputError: When the examples do not match the file's own hash, were never written, or all
            training images are the same.
    """
    found = merge(parts)
    _require_hash(info, found)
    _require_written(info, found)
    problem = ""
    if found.pixel_range[0] == found.pixel_range[1]:
        problem = f"every pixel of every training image is {found.pixel_range[0]}"
    elif found.hash_range[0] == found.hash_range[1] and info.examples["train"] > 1:
        problem = f"all {info.examples['train']:,} training images are the same"
    if problem:
        raise InputError(f"{info.path}: {problem}: there is nothing to learn; make the set again")
    warnings = [*_pixel_warnings(info, found), *_test_image_warnings(found, test_hashes)]
    return judge_labels(info, parts) + [f"{info.path}: {warning}" for warning in warnings]


def judge_labels(info: DatasetInfo, parts: Sequence[Found]) -> list[str]:
    """The warnings that need only the labels."""
    counts = {split: np.sum([part.label_counts[split] for part in parts], 0) for split in SPLITS}
    return [f"{info.path}: {warning}" for warning in _label_warnings(info, counts)]


def _require_hash(info: DatasetInfo, found: Found) -> None:
    if info.blocks_sha256:
        name, stated = "blocks_sha256", info.blocks_sha256
        actual = blocks_sha256(info.sha256, found.blocks)
    elif info.sha256:
        name, stated, actual = "sha256", info.sha256, _whole_sha256(info)
    else:
        return
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


def _require_written(info: DatasetInfo, found: Found) -> None:
    for split, last in found.last_written.items():
        count = info.examples[split]
        if 0 <= last < count - LEAST_UNWRITTEN:
            raise InputError(
                f"{info.path}: /{split}/images[{last + 1}:{count}] are all zero, so they were never"
                " written: write them, or resize images and labels to those that were; if black"
                " images are intended, write the set in random order"
            )


def _test_image_warnings(found: Found, hashes: NDArray[np.uint64]) -> Iterator[str]:
    if len(hashes) > 1 and np.all(hashes == hashes[0]):
        yield (
            f"all {len(hashes):,} test images are the same: the test accuracy says little about"
            " other images"
        )
    places = np.flatnonzero(found.repeated[np.searchsorted(np.sort(hashes), hashes)])
    if places.size:
        yield (
            f"{places.size:,} of {counted(len(hashes), 'test image')} {_are(places.size)} also in"
            f" the training set (the first: /test/images[{places[0]}]): expect a lower accuracy on"
            " new images"
        )


def _label_warnings(info: DatasetInfo, counts: dict[str, NDArray[np.int64]]) -> Iterator[str]:
    is_used = counts["train"] + counts["test"] > 0
    used, unused = np.flatnonzero(is_used), np.flatnonzero(~is_used)
    if info.classes_counted and unused.size:
        yield (
            f"the labels are {used[0]} to {used[-1]}, and no image has {_named(unused)}:"
            f" {being(info.classes, 'class')} trained; number the labels 0 to {len(used) - 1}, or"
            " set the attribute 'classes'"
        )
    for split in SPLITS:
        here, word = counts[split], WORDS[split]
        missing = np.flatnonzero((here == 0) & is_used if info.classes_counted else here == 0)
        most, total = int(here.argmax()), int(here.sum())
        share = here[most] / total
        if share == 1 and total > 1:
            yield f"all {total:,} {word} images have label {most}: there is nothing to distinguish"
            continue
        if missing.size:
            they = "it" if missing.size == 1 else "they"
            verb = "cannot be learned" if split == "train" else f"{_are(missing.size)} not tested"
            yield f"no {word} image has {_named(missing)}: {they} {verb}"
        if LARGE_SHARE < share < 1:
            yield (
                f"{share:.1%} of the {word} images have label {most}: always answering {most} would"
                " reach the same accuracy"
            )


def _pixel_warnings(info: DatasetInfo, found: Found) -> Iterator[str]:
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
    for split in SPLITS:
        if number := found.blank[split]:
            yield (
                f"{being(number, f'{WORDS[split]} image')} all zero (the first:"
                f" /{split}/images[{found.first_blank[split]}]): probably never written"
            )
    if found.pixel_range[1] == 1:
        yield (
            "no training pixel is above 1: if the images were scaled to 0..1 before they became"
            " uint8, multiply them by 255 first"
        )
    if found.sample:
        yield from _statistics_warnings(info, *found.sample)


def _statistics_warnings(info: DatasetInfo, mean: Floats, std: Floats) -> Iterator[str]:
    """The file's mean and standard deviation, compared with those of its first images."""
    if not np.all(std > 0):
        return
    ratios = np.array(info.std or std) / std
    if np.any((ratios > FAR) | (ratios < 1 / FAR)):
        yield _far("std", info.std or (), std)
    if np.any(np.abs(np.array(info.mean or mean) - mean) > FAR * std):
        yield _far("mean", info.mean or (), mean)


def _far(name: str, stated: Sequence[float], actual: Floats) -> str:
    texts = [", ".join(f"{value:.4g}" for value in values) for values in (stated, actual)]
    return (
        f"attribute '{name}' is {texts[0]}, but that of the first images is {texts[1]} (of pixels /"
        " 255): delete the attribute to have it computed"
    )


def _named(labels: NDArray[np.int64]) -> str:
    """Labels in words: "label 3", "any of the labels 0, 1, 2, 3, 4 and 7 more"."""
    named = ", ".join(map(str, labels[:MOST_NAMED].tolist()))
    more = f" and {len(labels) - MOST_NAMED:,} more" if len(labels) > MOST_NAMED else ""
    return f"{'any of the ' if len(labels) > 1 else ''}{plural(len(labels), 'label')} {named}{more}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
