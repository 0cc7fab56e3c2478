"""SHA-256 of the examples themselves, part by part, so that each rank hashes what it reads and the whole hangs on no rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from distcnn.datasets.hdf5 import Images, Labels

HASHED_LABELS = 2**16
"""So many at once are made 64 bits wide to be hashed."""


class ExamplesDigest:
    """SHA-256 of ``count`` examples of ``classes`` classes: their shape, all images, then all labels. They may come in pieces.

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
            self._digest.update(np.ascontiguousarray(self._labels[start : start + HASHED_LABELS], "<i8").data)
        return self._digest.hexdigest()


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of named parts, in whichever order they come."""
    return hashlib.sha256("\n".join(sorted(f"{name} {sha256}" for name, sha256 in parts)).encode()).hexdigest()
