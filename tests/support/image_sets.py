"""Small image sets in files, for tests of reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.datasets import Split, read_info, write_dataset
from distcnn.errors import InputError

Arrays = dict[str, tuple[NDArray[np.uint8], NDArray[np.integer]]]
Change = Callable[[h5py.File], None]

ROOT = Path(__file__).parents[2]


def make_arrays(
    shape: tuple[int, ...] = (6, 5), train: int = 300, test: int = 7, seed: int = 0
) -> Arrays:
    """Random images and labels of 10 classes, by split."""
    rng = np.random.default_rng(seed)
    counts = {"train": train, "test": test}
    return {
        split: (rng.integers(0, 256, (n, *shape)).astype(np.uint8), rng.integers(0, 10, n))
        for split, n in counts.items()
    }


def as_splits(arrays: Arrays, cuts: tuple[int, ...] = ()) -> dict[str, Split]:
    """The argument of ``write_dataset``, in batches that end at ``cuts``."""
    splits = {}
    for split, (images, labels) in arrays.items():
        inside = [cut for cut in cuts if cut < len(labels)]
        splits[split] = Split(
            len(labels), list(zip(np.split(images, inside), np.split(labels, inside), strict=True))
        )
    return splits


def write(path: Path, arrays: Arrays, cuts: tuple[int, ...] = ()) -> Path:
    write_dataset(path, name="a set", source="a test", classes=10, splits=as_splits(arrays, cuts))
    return path


def write_as_a_user(
    path: Path, *changes: Change, attributes: Mapping[str, Any] | None = None
) -> Path:
    """Write a small valid file of 4 + 4 images of 3x2 pixels with plain h5py and without
    attributes, then apply ``changes`` to it.
    """
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            file[f"{split}/images"] = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
            file[f"{split}/labels"] = np.arange(4)
        for change in changes:
            change(file)
        file.attrs.update(attributes or {})
    return path


def put(name: str, value: Any) -> Change:
    """Replace ``name`` by ``value``; None removes it."""

    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


def damage_compressed(path: Path, name: str, attributes: Mapping[str, Any] | None = None) -> Path:
    """The file of a user with dataset ``name`` compressed and the bytes of its first chunk
    altered.
    """

    def compress(file: h5py.File) -> None:
        value = file[name][:]
        del file[name]
        file.create_dataset(name, data=value, compression="gzip", chunks=value.shape)

    write_as_a_user(path, compress, attributes=attributes)
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    return path


def assert_one_line_about(path: Path, raised: pytest.ExceptionInfo[InputError]) -> None:
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def assert_refused(path: Path, says: str) -> None:
    """``read_info`` refuses ``path`` in one line that names it and matches ``says``."""
    with pytest.raises(InputError, match=says) as raised:
        read_info(path)
    assert_one_line_about(path, raised)
