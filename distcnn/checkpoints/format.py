"""The format of a checkpoint: one HDF5 file behind a header of 512 bytes that proves it whole.

HDF5 lets a file begin with a block of the user's own (its "user block"), so h5py and h5dump open a checkpoint as any other file. The
header is text:

    distcnn checkpoint 1
    bytes 3461320
    sha256 9f86d081884c7d65...

and line feeds up to 512 bytes. The SHA-256 is of the first line and all that follows the header. It is checked on the raw bytes, before
HDF5 sees any of them: a damaged file could lead HDF5 astray. Any other header than the one that belongs to these bytes, to the letter, is
damage too.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass, field

import h5py
import numpy as np
from numpy.typing import NDArray

VERSION = 1
HEADER_BYTES = 512


class CheckpointError(Exception):
    """A checkpoint that is not whole; its text says how that shows."""


class VersionError(Exception):
    """A whole checkpoint of a version that this distcnn cannot read."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, by names; those of ``arrays`` may have folders, as in weights/conv1.bias."""

    attributes: dict[str, int | str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def folder(self, name: str) -> dict[str, NDArray[np.generic]]:
        """The arrays below ``name``/, by the rest of their names."""
        return {key.removeprefix(f"{name}/"): array for key, array in self.arrays.items() if key.startswith(f"{name}/")}


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
    """The checkpoint in a file's bytes. ``CheckpointError`` when they are not whole, ``VersionError`` when they are of another version."""
    body = memoryview(content)[HEADER_BYTES:]
    header = content[:HEADER_BYTES]
    found = re.match(rb"distcnn checkpoint (\d{1,9})\n", header)
    if not found:
        raise CheckpointError(f"it does not begin as a checkpoint does ({len(content)} bytes)")
    version = int(found.group(1))
    if header != make_header(version, body):
        raise CheckpointError(f"its SHA-256 or its length ({len(content)} bytes) is not the one in its header")
    if version != VERSION:
        raise VersionError(f"it is of version {version}, this distcnn reads version {VERSION}")
    with h5py.File(io.BytesIO(body), "r") as file:
        return Checkpoint(
            {name: value if isinstance(value, str) else int(value) for name, value in file.attrs.items()},
            {name: bytes(file["texts"][name][()]).decode() for name in file.get("texts", {})},
            dict(_arrays(file["arrays"])) if "arrays" in file else {},
        )


def make_header(version: int, body: bytes | memoryview) -> bytes:
    """The header of ``body``: version, length, SHA-256."""
    first = f"distcnn checkpoint {version}\n".encode()
    digest = hashlib.sha256(first)
    digest.update(body)
    return (first + f"bytes {len(body)}\nsha256 {digest.hexdigest()}\n".encode()).ljust(HEADER_BYTES, b"\n")


def _arrays(group: h5py.Group, prefix: str = "") -> list[tuple[str, NDArray[np.generic]]]:
    found = []
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            found += _arrays(item, f"{prefix}{name}/")
        else:
            found.append((f"{prefix}{name}", np.asarray(item[()])))
    return found
