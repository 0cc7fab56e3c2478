"""Small image sets in the forms that tests need."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

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
    """A function that makes the bytes of an IDX file from an array."""
    return to_idx


@pytest.fixture
def mnist_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four files with the names of MNIST's, of 30 + 20 images of 5x4 pixels, which this test
    accepts as the real ones.
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


@pytest.fixture
def idx_folder(tmp_path: Path, idx: ToIdx) -> Path:
    """Four IDX files under the usual names, the training ones gzipped: 5 + 3 images of 4x6 pixels,
    labels up to 7.
    """
    folder = tmp_path / "idx"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(
        gzip.compress(idx(np.arange(120).reshape(5, 4, 6)))
    )
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(5))))
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.arange(72).reshape(3, 4, 6)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 7, 1])))
    return folder


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of five gray images of 4x6 pixels."""
    for index in range(10):
        path = tmp_path / f"images/{'ab'[index % 2]}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), index, np.uint8)).save(path)
    return tmp_path / "images"
