"""The format of a checkpoint: an HDF5 file behind a header of 512 bytes that proves it complete.

HDF5 lets a file begin with a block of the user's own (its "user block"), so h5py and h5dump open a
checkpoint like any other file. The header is text:

    distcnn checkpoint 1
    bytes 3461320
    sha256 9f86d081884c7d65...

padded with line feeds to 512 bytes. The SHA-256 covers the first line and everything after the
header. It is checked on the raw bytes before HDF5 sees any of them, because a damaged file could
crash HDF5. A header that differs in any byte from the expected one counts as damage too.

Anyone can write a file with a valid header. So its content must be what ``encode`` writes: plain
datasets of numbers, stored contiguously in the file. Links to other files, compressed
data, or shapes of more bytes than the file holds are refused before they are read.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

VERSION = 1
HEADER_BYTES = 512
HDF5_ERRORS = OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, OverflowError
"""What h5py raises for a damaged or forged file."""


class CheckpointError(Exception):
    """A checkpoint that is damaged or forged; the text gives the evidence."""


class VersionError(Exception):
    """An intact checkpoint of a version that this distcnn cannot read."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, by name; arrays may be in folders, as in weights/conv1.bias."""

    attributes: dict[str, int | str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many steps the run had taken."""
        return int(self.attributes["step"])

    def folder(self, name: str) -> dict[str, NDArray[np.generic]]:
        """The arrays below ``name``/, by the rest of their path."""
        return {
            key.removeprefix(f"{name}/"): array
            for key, array in self.arrays.items()
            if key.startswith(f"{name}/")
        }


def encode(checkpoint: Checkpoint) -> tuple[bytes, bytes]:
    """The file's header and body."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", track_order=True) as file:
        file.attrs.update(checkpoint.attributes)
        for name, text in checkpoint.texts.items():
            file.create_dataset(f"texts/{name}", data=np.frombuffer(text.encode(), np.uint8))
        for name, array in checkpoint.arrays.items():
            file.create_dataset(f"arrays/{name}", data=array)
    body = memory.getvalue()
    return make_header(VERSION, body), body


def decode(content: bytes) -> Checkpoint:
    """The checkpoint in a file's bytes.

    ``CheckpointError`` when they are damaged or forged, ``VersionError`` when they have another
    version.
    """
    body = memoryview(content)[HEADER_BYTES:]
    header = content[:HEADER_BYTES]
    found = re.match(rb"distcnn checkpoint (\d{1,9})\n", header)
    if not found:
        raise CheckpointError(f"it is not a checkpoint of distcnn ({len(content)} bytes)")
    version = int(found.group(1))
    if header != make_header(version, body):
        raise CheckpointError(
            f"its SHA-256 or length ({len(content)} bytes) does not match its header"
        )
    if version != VERSION:
        raise VersionError(f"it has version {version}, but this distcnn reads version {VERSION}")
    try:
        with h5py.File(io.BytesIO(body), "r") as file:
            arrays, texts = (
                dict(stored_arrays(file[name])) if _is_inside(file, name) else {}
                for name in ("arrays", "texts")
            )
            return Checkpoint(
                {name: _attribute(name, value) for name, value in file.attrs.items()},
                {name: _text(name, array) for name, array in texts.items()},
                arrays,
            )
    except HDF5_ERRORS as error:
        raise CheckpointError(
            "its SHA-256 is correct, but distcnn did not write it"
            f" ({type(error).__name__}: {error})"
        ) from error


def make_header(version: int, body: bytes | memoryview) -> bytes:
    """The header of ``body``: version, length, SHA-256."""
    first = f"distcnn checkpoint {version}\n".encode()
    digest = hashlib.sha256(first)
    digest.update(body)
    return (first + f"bytes {len(body)}\nsha256 {digest.hexdigest()}\n".encode()).ljust(
        HEADER_BYTES, b"\n"
    )


def stored_arrays(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The datasets below ``group`` with their paths.

    ``ValueError`` when one is not stored contiguously in this file, as ``encode`` does.
    """
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{group.name} is not a group")
    if h5py.h5o.get_info(group.id).rc != 1:
        raise ValueError(f"{group.name} occurs more than once")
    for name in _names(group):
        if not _is_inside(group, name):
            raise ValueError(f"{group.name}/{name} is a link")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from stored_arrays(item, f"{prefix}{name}/")
        elif isinstance(item, h5py.Dataset):
            yield f"{prefix}{name}", _array(item)
        else:
            raise ValueError(f"{item.name} is not a dataset")


def _names(group: h5py.Group) -> list[str]:
    """In the order of creation where ``group`` tracks it, which old versions of h5py ignore."""
    own = h5py.h5g.open(group.id, b".")  # of a file, ``group.id`` is not a group's
    tracked = own.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED
    names: list[bytes] = []
    order = h5py.h5.INDEX_CRT_ORDER if tracked else h5py.h5.INDEX_NAME
    own.links.iterate(names.append, idx_type=order)
    return [name.decode(errors="surrogateescape") for name in names]


def _array(dataset: h5py.Dataset) -> NDArray[np.generic]:
    if dataset.dtype.kind not in "biuf" or dataset.shape is None:
        raise ValueError(f"{dataset.name} is not an array of numbers")
    if (
        dataset.chunks
        or dataset.external
        or dataset.is_virtual
        or dataset.id.get_storage_size() != dataset.nbytes
    ):
        raise ValueError(f"{dataset.name} of {dataset.nbytes} bytes is not stored contiguously")
    if dataset.nbytes > dataset.file.id.get_filesize():
        raise ValueError(f"{dataset.name} has {dataset.nbytes} bytes, the whole file has fewer")
    return np.asarray(dataset[()])


def _is_inside(group: h5py.Group, name: str) -> bool:
    return isinstance(group.get(name, getlink=True), h5py.HardLink)


def _text(name: str, array: NDArray[np.generic]) -> str:
    if array.dtype != np.uint8:
        raise ValueError(f"text {name} is stored as {array.dtype}")
    return array.tobytes().decode()


def _attribute(name: str, value: Any) -> int | str:
    if isinstance(value, str):
        return value
    if not isinstance(value, np.integer):
        raise ValueError(f"attribute {name} is neither an integer nor a text")
    return int(value)
