"""The format of a checkpoint: an HDF5 file behind a header of 512 bytes that proves it complete.

The header is text, padded with line feeds, in what HDF5 calls a user block, so h5py and h5dump open
a checkpoint like any other file:

    distcnn checkpoint 1
    bytes 3461320
    sha256 9f86d081884c7d65...

The SHA-256 covers the first line and everything after the header. It is checked before HDF5 sees
any of that, because a damaged file could crash HDF5. A forged file may have a valid header, so only
what ``encode`` writes is read: plain datasets of numbers, stored contiguously in the file itself.
"""

from __future__ import annotations

import hashlib
import io
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import h5py
import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError

VERSION = 1
HEADER_BYTES = 512
HDF5_ERRORS = OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, OverflowError
"""What h5py raises for a damaged or forged file."""

Arrays = dict[str, NDArray[np.generic]]


class CheckpointError(Exception):
    """A checkpoint that is damaged or forged; the text gives the evidence."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, by name; arrays may be in folders, as in weights/conv1.bias."""

    attributes: dict[str, int | str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many steps the run had taken."""
        return int(self.attributes["step"])

    def folder(self, name: str) -> Arrays:
        """The arrays below ``name``/, by the rest of their path."""
        return _below(name, self.arrays)


def _below(folder: str, arrays: Arrays) -> Arrays:
    start = f"{folder}/"
    return {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
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
    """The checkpoint in a file's bytes. ``InputError`` for one of another version."""
    header, body = content[:HEADER_BYTES], memoryview(content)[HEADER_BYTES:]
    found = re.match(rb"distcnn checkpoint (\d{1,9})\n", header)
    if not found:
        raise CheckpointError(f"it is not a checkpoint of distcnn ({len(content)} bytes)")
    version = int(found.group(1))
    if header != make_header(version, body):
        raise CheckpointError(
            f"its SHA-256 or length ({len(content)} bytes) does not match its header"
        )
    if version != VERSION:
        raise InputError(
            f"it has version {version}, but this distcnn reads version {VERSION}: use the distcnn"
            " that wrote it, or a newer one"
        )
    try:
        with h5py.File(io.BytesIO(body), "r") as file:
            stored = dict(stored_arrays(file))
            attributes = {
                name: value if isinstance(value, str) else operator.index(value)
                for name, value in file.attrs.items()
            }
        texts, arrays = _below("texts", stored), _below("arrays", stored)
        if len(texts) + len(arrays) < len(stored):
            raise ValueError("it has arrays outside its folders")
        decoded = {
            name: text.astype(np.uint8, casting="no").tobytes().decode()
            for name, text in texts.items()
        }
    except HDF5_ERRORS as error:
        raise CheckpointError(
            "its SHA-256 is correct, but distcnn did not write it"
            f" ({type(error).__name__}: {error})"
        ) from error
    return Checkpoint(attributes, decoded, arrays)


def make_header(version: int, body: bytes | memoryview) -> bytes:
    """The header of ``body``: version, length, SHA-256."""
    first = f"distcnn checkpoint {version}\n".encode()
    digest = hashlib.sha256(first)
    digest.update(body)
    header = first + f"bytes {len(body)}\nsha256 {digest.hexdigest()}\n".encode()
    return header.ljust(HEADER_BYTES, b"\n")


def stored_arrays(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The datasets below ``group`` with their paths; ``ValueError`` for what ``encode`` avoids."""
    if h5py.h5o.get_info(group.id).rc != 1:
        raise ValueError(f"{group.name} occurs more than once")
    for name in _names(group):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{group.name}/{name} is a link")
        item = group[name]
        if isinstance(item, h5py.Group):
            yield from stored_arrays(item, f"{prefix}{name}/")
        elif isinstance(item, h5py.Dataset) and _is_plain(item):
            yield f"{prefix}{name}", np.asarray(item[()])
        else:
            raise ValueError(f"{item.name} is not an array of numbers stored contiguously")


def _names(group: h5py.Group) -> list[str]:
    """In the order of creation where ``group`` tracks it, which old versions of h5py ignore."""
    own = h5py.h5g.open(group.id, b".")  # of a file, ``group.id`` is not a group's
    tracked = own.get_create_plist().get_link_creation_order() & h5py.h5p.CRT_ORDER_TRACKED
    names: list[bytes] = []
    order = h5py.h5.INDEX_CRT_ORDER if tracked else h5py.h5.INDEX_NAME
    own.links.iterate(names.append, idx_type=order)
    return [name.decode(errors="surrogateescape") for name in names]


def _is_plain(dataset: h5py.Dataset) -> bool:
    """Whether its numbers are in the file as they are, so that reading needs no more memory."""
    return (
        dataset.dtype.kind in "biuf"
        and dataset.shape is not None
        and not (dataset.chunks or dataset.external or dataset.is_virtual)
        and dataset.id.get_storage_size() == dataset.nbytes <= dataset.file.id.get_filesize()
    )
