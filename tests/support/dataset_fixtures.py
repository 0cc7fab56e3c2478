"""Small sets of images, in the forms that the tests of this folder need."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.datasets import prepare_mnist as mnist

ToIdx = Callable[[NDArray[np.integer]], bytes]


def to_idx(array: NDArray[np.integer]) -> bytes:
    """The array as an IDX file of unsigned bytes."""
    return (
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture(scope="session")
def idx() -> ToIdx:
    """Makes the bytes of an IDX file from an array."""
    return to_idx


@pytest.fixture
def mnist_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four files named as MNIST's, of 30 + 20 images of 5x4 pixels, that pass for the real ones in
    this test.
    """
    rng = np.random.default_rng(1)
    files = {}
    for prefix, count in (("train", 30), ("t10k", 20)):
        files[f"{prefix}-images-idx3-ubyte"] = to_idx(rng.integers(0, 256, (count, 5, 4)))
        files[f"{prefix}-labels-idx1-ubyte"] = to_idx(rng.integers(0, 10, count))
    assert list(files) == list(mnist.SHA256)
    monkeypatch.setattr(
        mnist,
        "SHA256",
        {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    return {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
