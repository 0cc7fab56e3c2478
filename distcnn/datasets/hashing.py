"""SHA-256 of examples, part by part: each rank hashes what it reads, and the result does not depend
on the number of ranks.

A run records the hash of its shards (``combined_sha256``). A file states two hashes of its own:

- ``sha256``: of four concatenated digests: training images, training labels, test images, test
  labels. It identifies the set.
- ``blocks_sha256``: of ``sha256`` as text and a digest for each split. A split's digest is of the
  digests of its blocks of 256 examples; a block's is of its examples in a row, each as the digest
  of the image (32 bytes) and the label (8 bytes). Many ranks can check it together.

Labels are little-endian 64-bit integers in both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.examples import pieces_of
from distcnn.datasets.hdf5 import SPLITS, Images

BLOCK_EXAMPLES = 256
DIGEST_BYTES, LEAF_BYTES = 32, 40


class ExamplesDigest:
    """SHA-256 of ``count`` examples, added piece by piece: their shape, all images, all labels."""

    def __init__(self, count: int, image_shape: tuple[int, int, int]) -> None:
        channels, height, width = image_shape
        self._digest = hashlib.sha256(f"{(count, height, width, channels)}".encode())
        self._labels = bytearray()

    def add(self, images: Images, labels: NDArray[np.integer]) -> None:
        """Add the next examples: ``images`` (n, H, W, C) and ``labels`` (n,)."""
        self._digest.update(np.ascontiguousarray(images).data)
        self._labels += labels.astype("<i8").tobytes()

    def hexdigest(self) -> str:
        """The hash, once all examples have been added. Call it only once."""
        self._digest.update(self._labels)
        return self._digest.hexdigest()


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of named hashes, in any order."""
    lines = sorted(f"{name} {sha256}" for name, sha256 in parts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def leaves_of(images: Images, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The leaves of ``blocks_sha256``, (n, 40): SHA-256 of each image, and its label."""
    count = len(labels)
    rows = np.ascontiguousarray(images).reshape(count, math.prod(images.shape[1:]))
    leaves = np.empty((count, LEAF_BYTES), np.uint8)
    digests = b"".join([hashlib.sha256(row.data).digest() for row in rows])
    leaves[:, :DIGEST_BYTES] = np.frombuffer(digests, np.uint8).reshape(count, DIGEST_BYTES)
    leaves[:, DIGEST_BYTES:] = labels.astype("<i8").view(np.uint8).reshape(count, -1)
    return leaves


class BlockHashes:
    """The digests of the blocks of a split of ``count`` examples, added in any order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._digests: dict[int, bytes] = {}
        self._incomplete: dict[int, dict[int, bytes]] = {}
        """Leaves of incomplete blocks: by block, then by first example."""

    def add(self, first: int, leaves: NDArray[np.uint8]) -> None:
        for piece in pieces_of(range(first, first + len(leaves)), BLOCK_EXAMPLES):
            self._add(piece.start, leaves[piece.start - first : piece.stop - first].tobytes())

    def merge(self, other: BlockHashes) -> None:
        self._digests |= other._digests
        for parts in other._incomplete.values():
            for start, leaves in parts.items():
                self._add(start, leaves)

    def digest(self) -> bytes:
        """The split's digest, once all examples have been added."""
        return hashlib.sha256(b"".join(self._digests[i] for i in sorted(self._digests))).digest()

    def _add(self, start: int, leaves: bytes) -> None:
        block = start // BLOCK_EXAMPLES
        parts = self._incomplete.setdefault(block, {})
        parts[start] = leaves
        examples = min(BLOCK_EXAMPLES, self._count - block * BLOCK_EXAMPLES)
        if sum(map(len, parts.values())) == examples * LEAF_BYTES:
            whole = b"".join(parts[first] for first in sorted(parts))
            self._digests[block] = hashlib.sha256(whole).digest()
            del self._incomplete[block]


def blocks_sha256(sha256: str, blocks: Mapping[str, BlockHashes]) -> str:
    """The file's attribute of that name, which includes its attribute ``sha256``."""
    digests = b"".join(blocks[split].digest() for split in SPLITS)
    return hashlib.sha256(sha256.encode() + digests).hexdigest()


class WholeHash:
    """The file's attribute ``sha256``. The examples of each split must be added in order."""

    def __init__(self) -> None:
        self._digests = {split: (hashlib.sha256(), hashlib.sha256()) for split in SPLITS}

    def add(self, split: str, images: Images, labels: NDArray[np.integer]) -> None:
        for digest, array in zip(self._digests[split], (images, labels.astype("<i8")), strict=True):
            digest.update(np.ascontiguousarray(array).data)

    def hexdigest(self) -> str:
        digests = [digest.digest() for split in SPLITS for digest in self._digests[split]]
        return hashlib.sha256(b"".join(digests)).hexdigest()
