"""SHA-256 of the examples themselves, part by part, so that each rank hashes what it reads and the
whole depends on no rank.

A run records the hash of its shards (``combined_sha256``). A file may state two of its own, of
which the first is the oldest and simplest, and the second can be checked by many ranks at once:

- ``sha256`` is that of four digests in a row: of all training images, of the training labels, and
  of the test set's likewise.
- ``blocks_sha256`` is that of ``sha256`` as text and of a digest for each split: of the digests of
  its blocks of 256 examples, each that of its examples in a row: the digest of the image (32 bytes)
  and the label (8 bytes).

Labels are little-endian 64-bit integers in both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import SPLITS, Images, Labels

HASHED_LABELS = 2**16
"""This many at once are made 64 bits wide to be hashed."""
BLOCK_EXAMPLES = 256
DIGEST_BYTES, LEAF_BYTES = 32, 40


class ExamplesDigest:
    """SHA-256 of ``count`` examples of ``classes`` classes: their shape, all images, then all
    labels. They may come in pieces.

    The labels, which the hash wants last, are kept in as few bytes as their classes need.
    """

    def __init__(self, count: int, image_shape: tuple[int, int, int], classes: int) -> None:
        channels, height, width = image_shape
        self._digest = hashlib.sha256(f"{(count, height, width, channels)}".encode())
        self._labels = np.empty(count, np.min_scalar_type(classes - 1))
        self._added = 0

    def add(self, images: Images, labels: Labels) -> None:
        """The next ones: ``images`` (n, H, W, C) and ``labels`` (n,)."""
        self._digest.update(np.ascontiguousarray(images).data)
        self._labels[self._added : self._added + len(labels)] = labels
        self._added += len(labels)

    def hexdigest(self) -> str:
        """Once, when all have been added."""
        assert self._added == len(self._labels)
        for start in range(0, len(self._labels), HASHED_LABELS):
            self._digest.update(
                np.ascontiguousarray(self._labels[start : start + HASHED_LABELS], "<i8").data
            )
        return self._digest.hexdigest()


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of named parts, in whichever order they come."""
    return hashlib.sha256(
        "\n".join(sorted(f"{name} {sha256}" for name, sha256 in parts)).encode()
    ).hexdigest()


def leaves_of(images: Images, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """What ``blocks_sha256`` is made of, (n, 40): for each example the SHA-256 of its image and its
    label.
    """
    count = len(labels)
    rows = np.ascontiguousarray(images).reshape(count, math.prod(images.shape[1:]))
    leaves = np.empty((count, LEAF_BYTES), np.uint8)
    digests = b"".join([hashlib.sha256(row.data).digest() for row in rows])
    leaves[:, :DIGEST_BYTES] = np.frombuffer(digests, np.uint8).reshape(count, DIGEST_BYTES)
    leaves[:, DIGEST_BYTES:] = (
        labels.astype("<i8").view(np.uint8).reshape(count, LEAF_BYTES - DIGEST_BYTES)
    )
    return leaves


class BlockHashes:
    """The digests of the blocks of a split of ``count`` examples.

    Whoever has part of the examples can begin; parts are merged.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._digests: dict[int, bytes] = {}
        self._begun: dict[int, dict[int, bytes]] = {}
        """Leaves of blocks that are not complete yet: by block, then by their first example."""

    def add(self, first: int, leaves: NDArray[np.uint8]) -> None:
        """The leaves of the examples from ``first`` on."""
        stop = first + len(leaves)
        for block in range(first // BLOCK_EXAMPLES, -(-stop // BLOCK_EXAMPLES)):
            start, end = max(first, block * BLOCK_EXAMPLES), min(stop, (block + 1) * BLOCK_EXAMPLES)
            self._add(block, start, leaves[start - first : end - first].tobytes())

    def merge(self, other: BlockHashes) -> None:
        """What another one has."""
        self._digests |= other._digests
        for block, parts in other._begun.items():
            for start, leaves in parts.items():
                self._add(block, start, leaves)

    def digest(self) -> bytes:
        """Of the split, once all of it has been added."""
        blocks = range(-(-self._count // BLOCK_EXAMPLES))
        return hashlib.sha256(b"".join(self._digests[block] for block in blocks)).digest()

    def _add(self, block: int, start: int, leaves: bytes) -> None:
        parts = self._begun.setdefault(block, {})
        parts[start] = leaves
        examples = min((block + 1) * BLOCK_EXAMPLES, self._count) - block * BLOCK_EXAMPLES
        if sum(map(len, parts.values())) == examples * LEAF_BYTES:
            self._digests[block] = hashlib.sha256(
                b"".join(parts[each] for each in sorted(parts))
            ).digest()
            del self._begun[block]


def blocks_sha256(sha256: str, blocks: Mapping[str, BlockHashes]) -> str:
    """The file's attribute of that name; ``sha256`` is its other one."""
    return hashlib.sha256(
        sha256.encode() + b"".join(blocks[split].digest() for split in SPLITS)
    ).hexdigest()


class WholeHash:
    """The file's attribute ``sha256``: the examples of each split must come in their order, all of
    them.
    """

    def __init__(self) -> None:
        self._digests = {split: (hashlib.sha256(), hashlib.sha256()) for split in SPLITS}

    def add(self, split: str, images: Images, labels: NDArray[np.integer]) -> None:
        """The next ones of ``split``."""
        for digest, array in zip(self._digests[split], (images, labels.astype("<i8")), strict=True):
            digest.update(np.ascontiguousarray(array).data)

    def hexdigest(self) -> str:
        """When all have been added."""
        return hashlib.sha256(
            b"".join(digest.digest() for split in SPLITS for digest in self._digests[split])
        ).hexdigest()
