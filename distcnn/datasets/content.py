"""SHA-256 of the examples themselves, part by part, so that each rank hashes what it reads and the whole hangs on no rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from distcnn.datasets.hdf5 import Images, Labels


def examples_sha256(images: Images, labels: Labels) -> str:
    """Of ``images`` (n, H, W, C) and ``labels`` (n,), their shapes included."""
    digest = hashlib.sha256(f"{images.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, "<i8").data)
    return digest.hexdigest()


def combined_sha256(parts: Iterable[tuple[str, str]]) -> str:
    """One SHA-256 of named parts, in whichever order they come."""
    return hashlib.sha256("\n".join(sorted(f"{name} {sha256}" for name, sha256 in parts)).encode()).hexdigest()
