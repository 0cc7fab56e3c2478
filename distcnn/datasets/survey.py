"""What reading all examples of an image set shows, part by part on any number of ranks, and what is
to be said about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hashing import BlockHashes, WholeHash, blocks_sha256, leaves_of
from distcnn.datasets.hdf5 import SPLITS, DatasetInfo, Images, Labels, by
from distcnn.datasets.statistics import mean_and_std, pixel_sums
from distcnn.errors import InputError
from distcnn.system.wording import being, counted, plural

WORDS = {"train": "training", "test": "test"}
MOST_NAMED = 5
LARGE_SHARE = 0.95
"""A class that has more of a split than this is mentioned."""
FAR = 10
"""Statistics further than this from those of the pixels are mentioned: a factor, or a number of
standard deviations.
"""
LEAST_UNWRITTEN = 16
"""This many images of zeros at the end of a split were never written: HDF5 makes room for all of a
dataset at its first row.
"""
FLAT = (4, 64)
"""Images with at most this many rows and at least this many columns, or the other way round, are
mentioned.
"""


@dataclass
class Found:
    """What the examples of one part show. It can be sent to another rank."""

    label_counts: dict[str, NDArray[np.int64]]
    blocks: dict[str, BlockHashes]
    blank: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    """How many images are zeros throughout."""
    first_blank: dict[str, int] = field(default_factory=dict)
    last_written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, -1))
    """The index of the last image that is not zeros throughout."""
    lowest: int = 255
    highest: int = 0
    """Of the training pixels."""
    lowest_hash: int = 2**64 - 1
    highest_hash: int = 0
    """Of the training images."""
    repeated: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """Which of the test images, in the order of their hashes, are training images too: of equal
    ones, the first. Never one of zeros.
    """
    sample: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """Mean and standard deviation of the pixels / 255 of the first training images, where this part
    has them.
    """

    def merge(self, other: Found) -> None:
        """Let this be of both parts."""
        for split in SPLITS:
            self.label_counts[split] = self.label_counts[split] + other.label_counts[split]
            self.blocks[split].merge(other.blocks[split])
            self.blank[split] += other.blank[split]
            self.last_written[split] = max(self.last_written[split], other.last_written[split])
            if split in other.first_blank:
                self.first_blank[split] = min(
                    self.first_blank.get(split, other.first_blank[split]), other.first_blank[split]
                )
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.lowest_hash = min(self.lowest_hash, other.lowest_hash)
        self.highest_hash = max(self.highest_hash, other.highest_hash)
        self.repeated = self.repeated | other.repeated
        self.sample = self.sample or other.sample


class Survey:
    """Looks at examples as they are read. All test examples come first, then ``look_for`` those of
    all ranks, then the training examples.

    With ``whole`` this one gets all examples of the set in their order, if only to hash them.
    """

    def __init__(self, info: DatasetInfo, whole: bool = False) -> None:
        self.info = info
        counts = {split: np.zeros(info.classes, np.int64) for split in SPLITS}
        self.found = Found(counts, {split: BlockHashes(info.examples[split]) for split in SPLITS})
        self._whole = WholeHash() if whole and info.is_hashed_as_a_whole else None
        self._test_hashes: list[NDArray[np.uint64]] = []
        self._all_test_hashes = self._wanted = np.zeros(0, np.uint64)

    @property
    def test_hashes(self) -> NDArray[np.uint64]:
        """Of the test images so far, in their order."""
        return np.concatenate([np.zeros(0, np.uint64), *self._test_hashes])

    def look_for(self, test_hashes: NDArray[np.uint64]) -> None:
        """Find training images that are among these: the ``test_hashes`` of all ranks, in their
        order.
        """
        self._all_test_hashes, self._wanted = test_hashes, np.sort(test_hashes)
        self.found.repeated = np.zeros(len(self._wanted), bool)

    def add(self, split: str, first: int, images: Images, labels: Labels) -> None:
        """Look at the examples from ``first`` on: images (n, H, W, C) and labels (n,)."""
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
        else:
            found.lowest, found.highest = (
                min(found.lowest, int(images.min())),
                max(found.highest, int(brightest.max())),
            )
            found.lowest_hash = min(found.lowest_hash, int(hashes.min()))
            found.highest_hash = max(found.highest_hash, int(hashes.max()))
            self._note_repeated(hashes[written])
            if first == 0:
                by_channel = images.reshape(-1, images.shape[3])
                found.sample = mean_and_std(pixel_sums(by_channel), len(by_channel))
        self.add_to_hash(split, images, labels)

    def add_labels(self, split: str, labels: Labels) -> None:
        """Look at labels alone."""
        self.found.label_counts[split] += np.bincount(labels, minlength=self.info.classes)

    def add_to_hash(self, split: str, images: Images, labels: Labels) -> None:
        """Hash examples that others look at."""
        if self._whole:
            self._whole.add(split, images, labels)

    def _note_repeated(self, hashes: NDArray[np.uint64]) -> None:
        if len(self._wanted):
            places = np.minimum(np.searchsorted(self._wanted, hashes), len(self._wanted) - 1)
            self.found.repeated[places[self._wanted[places] == hashes]] = True

    def judge(self, others: Sequence[Found] = ()) -> list[str]:
        """What a user may not have meant, a line each, once ``others`` show the rest of the set.

        ``InputError`` for examples that do not match the file's own hash, and for training images
        that are all alike.
        """
        info, found = self.info, self.found
        for other in others:
            found.merge(other)
        self._check_hashes()
        self._check_ends()
        if found.lowest == found.highest:
            raise InputError(
                f"{info.path}: every pixel of every training image is {found.lowest}: there is"
                " nothing to learn; make the file again"
            )
        if found.lowest_hash == found.highest_hash and info.examples["train"] > 1:
            raise InputError(
                f"{info.path}: all {info.examples['train']:,} training images are the same: there"
                " is nothing to learn; make the file again"
            )
        remarks = [*_on_pixels(info, found), *self._on_test_images()]
        return self.judge_labels() + [f"{info.path}: {remark}" for remark in remarks]

    def judge_labels(self) -> list[str]:
        """The same of the labels alone."""
        return [
            f"{self.info.path}: {remark}"
            for remark in _on_labels(self.info, self.found.label_counts)
        ]

    def _check_hashes(self) -> None:
        info = self.info
        if info.blocks_sha256:
            name, stored, now = (
                "blocks_sha256",
                info.blocks_sha256,
                blocks_sha256(info.sha256, self.found.blocks),
            )
        elif self._whole:
            name, stored, now = "sha256", info.sha256, self._whole.hexdigest()
        else:
            return
        if stored.strip().lower() != now:
            raise InputError(
                f"{info.path}: its examples do not match its own SHA-256 (attribute '{name}' is"
                f" {stored[:64]!r}, they have {now}): they were damaged or changed; copy or prepare"
                " the file again, or, if the change is meant, delete the attributes 'sha256' and"
                " 'blocks_sha256'"
            )

    def _check_ends(self) -> None:
        for split, last in self.found.last_written.items():
            count = self.info.examples[split]
            if 0 <= last < count - LEAST_UNWRITTEN:
                raise InputError(
                    f"{self.info.path}: /{split}/images[{last + 1}:{count}] are zero throughout, so"
                    " they were never written: write them, or resize images and labels to those"
                    " that were; if such images are meant, write the set in random order"
                )

    def _on_test_images(self) -> Iterator[str]:
        hashes = self._all_test_hashes
        if len(hashes) > 1 and np.all(hashes == hashes[0]):
            yield (
                f"all {len(hashes):,} test images are the same: the test accuracy says little about"
                " other images"
            )
        places = np.flatnonzero(self.found.repeated[np.searchsorted(self._wanted, hashes)])
        if places.size:
            yield (
                f"{places.size:,} of {counted(len(hashes), 'test image')} {_are(places.size)} also"
                f" in the training set (the first: /test/images[{places[0]}]): expect a lower"
                " accuracy on new images"
            )


def _on_labels(info: DatasetInfo, counts: dict[str, NDArray[np.int64]]) -> Iterator[str]:
    is_used = counts["train"] + counts["test"] > 0
    used, unused = np.flatnonzero(is_used), np.flatnonzero(~is_used)
    if info.classes_counted and unused.size:
        yield (
            f"the labels are {used[0]} to {used[-1]}, and no image has {_named(unused)}:"
            f" {being(info.classes, 'class')} trained; number the labels 0 to {len(used) - 1}, or"
            " say how many classes there are (attribute 'classes')"
        )
    for split in SPLITS:
        here, word = counts[split], WORDS[split]
        missing = np.flatnonzero((here == 0) & is_used if info.classes_counted else here == 0)
        most, total = int(here.argmax()), int(here.sum())
        share = here[most] / total
        if share == 1 and total > 1:
            yield f"all {total:,} {word} images have label {most}: there is nothing to tell apart"
            continue
        if missing.size:
            they = "it" if missing.size == 1 else "they"
            lack = (
                f"{they} cannot be learned"
                if split == "train"
                else f"{they} {_are(missing.size)} not tested"
            )
            yield f"no {word} image has {_named(missing)}: {lack}"
        if LARGE_SHARE < share < 1:
            yield (
                f"{share:.1%} of the {word} images have label {most}: always answering {most} would"
                " be right as often"
            )


def _on_pixels(info: DatasetInfo, found: Found) -> Iterator[str]:
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
        if found.blank[split]:
            first = f"/{split}/images[{found.first_blank[split]}]"
            number, they = found.blank[split], "was it" if found.blank[split] == 1 else "were they"
            yield (
                f"{being(number, f'{WORDS[split]} image')} zero throughout (the first: {first}):"
                f" {they} ever written?"
            )
    if found.highest == 1:
        yield (
            "no training pixel is above 1: if the images were scaled to 0..1 before they became"
            " uint8, multiply them by 255 first"
        )
    if found.sample:
        yield from _on_statistics(info, *found.sample)


def _on_statistics(
    info: DatasetInfo, mean: NDArray[np.float64], std: NDArray[np.float64]
) -> Iterator[str]:
    """The file's mean and standard deviation beside those of its first training images."""
    remedy = "delete the attribute to have it computed"
    if (
        info.std
        and np.any((np.array(info.std) > FAR * std) | (np.array(info.std) * FAR < std))
        and np.all(std > 0)
    ):
        yield (
            f"attribute 'std' is {_rounded(info.std)}, but that of the first images is"
            f" {_rounded(std)} (of pixels / 255): {remedy}"
        )
    if info.mean and np.any(np.abs(np.array(info.mean) - mean) > FAR * std) and np.all(std > 0):
        yield (
            f"attribute 'mean' is {_rounded(info.mean)}, but that of the first images is"
            f" {_rounded(mean)} (of pixels / 255): {remedy}"
        )


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> str:
    return ", ".join(f"{each:.4g}" for each in values)


def _named(labels: NDArray[np.int64]) -> str:
    """Labels in words: "label 3", "any of the labels 3, 5", "any of the labels 0, 1, 2, 3, 4 and 7
    more".
    """
    named = ", ".join(map(str, labels[:MOST_NAMED].tolist()))
    more = f" and {len(labels) - MOST_NAMED:,} more" if len(labels) > MOST_NAMED else ""
    return f"{'any of the ' if len(labels) > 1 else ''}{plural(len(labels), 'label')} {named}{more}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
