"""The IDX format of the MNIST files: a magic number, big-endian sizes, then the bytes (LeCun, "The
MNIST database").

Files are read from front to end, gzipped or not, in pieces: what a header claims or a gzip file
unpacks to never has to fit into memory.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import by
from distcnn.errors import InputError
from distcnn.system.files import open_named

UNSIGNED_BYTE = 8
MAX_DIMENSIONS = 4
PIECE_BYTES = 2**24
"""Read at once, and the most that one item may have."""

GZIP_MAGIC, MAX_GZIP_LAYERS = b"\x1f\x8b", 2
FAULTS = (EOFError, zlib.error, OSError)
"""What reading a damaged gzip file, or a failing disk, raises."""

PARTS = {"images": "idx3", "labels": "idx1"}
"""What a file holds, and what its name says then."""


class IdxReader:
    """An IDX file of unsigned bytes: ``shape``, then its data, once. ``InputError`` when it is cut
    off, too long or something else.

    ``stream`` is read from where it stands; ``name`` is for the errors.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self.name, self._taken = stream, name, 0
        magic = self._read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTE:
            raise InputError(
                f"{name} is not an IDX file of unsigned bytes: it begins with"
                f" {magic.hex() or 'nothing'}, not 000008.."
            )
        dimensions = magic[3]
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise InputError(
                f"{name} has {dimensions} dimensions: an IDX file of images or labels has 1 to"
                f" {MAX_DIMENSIONS}"
            )
        sizes = self._read(4 * dimensions)
        if len(sizes) < 4 * dimensions:
            raise InputError(
                f"{name} holds {self._taken} bytes, but its header alone needs"
                f" {4 + 4 * dimensions}: it is damaged, fetch it again"
            )
        self.shape: tuple[int, ...] = tuple(np.frombuffer(sizes, ">u4").tolist())
        self.item_bytes = math.prod(self.shape[1:])
        if self.item_bytes > PIECE_BYTES:
            raise InputError(
                f"{name} has items of {by(self.shape[1:])} bytes by its header, "
                f"at most {PIECE_BYTES:,} are supported: it is damaged, fetch it again"
            )
        self._needed = self._taken + math.prod(self.shape)

    def pieces(self, most: int = PIECE_BYTES) -> Iterator[NDArray[np.uint8]]:
        """The data as arrays (n, *shape[1:]), at least one, of up to ``most`` items and
        PIECE_BYTES.
        """
        items = min(most, PIECE_BYTES // max(1, self.item_bytes))
        for start in range(0, max(1, self.shape[0]), items):
            count = min(items, self.shape[0] - start)
            yield np.frombuffer(self._data(count * self.item_bytes), np.uint8).reshape(
                count, *self.shape[1:]
            )
        if self._read(1):
            raise InputError(
                f"{self.name} holds more than the {self._needed} bytes of its header {self.shape}:"
                " it is damaged, fetch it again"
            )

    def read(self) -> NDArray[np.uint8]:
        """All data in one array."""
        return np.concatenate(list(self.pieces()))

    def _data(self, count: int) -> bytes:
        data = self._read(count)
        if len(data) < count:
            raise InputError(
                f"{self.name} holds {self._taken} bytes, but its header {self.shape} needs"
                f" {self._needed}: it is damaged, fetch it again"
            )
        return data

    def _read(self, count: int) -> bytes:
        try:
            data = self._stream.read(count)
        except FAULTS as error:
            raise InputError(f"{self.name} is damaged ({error}): fetch it again") from error
        self._taken += len(data)
        return data


@contextmanager
def open_idx(path: str | Path) -> Iterator[IdxReader]:
    """The IDX file at ``path``, gzipped or not.

    ``InputError`` as ``IdxReader``, and when it is not a regular file.
    """
    with ExitStack() as held:
        file = held.enter_context(open_named(path))
        try:
            stream = _unpacked(file, held)
        except FAULTS as error:
            raise InputError(f"{path} is damaged ({error}): fetch it again") from error
        yield IdxReader(stream, str(path))


def unpack(stream: BinaryIO, name: str, limit: int, remedy: str) -> bytes:
    """The first ``limit`` bytes of a stream, gzipped or not.

    ``InputError`` with ``name`` and ``remedy`` when it is damaged.
    """
    with ExitStack() as held:
        try:
            return _unpacked(stream, held).read(limit)
        except FAULTS as error:
            raise InputError(f"{name} is truncated or altered ({error}): {remedy}") from error


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array in the bytes of an IDX file that is not gzipped; ``name`` is for the errors."""
    return IdxReader(io.BytesIO(content), name).read()


def usual_name(split: str, part: str) -> str:
    """What the file with the ``images`` or ``labels`` of ``train`` or ``test`` is called in
    MNIST.
    """
    return f"{'t10k' if split == 'test' else split}-{part}-{PARTS[part]}-ubyte"


def find_idx(folder: Path, split: str, part: str) -> list[Path]:
    """Files in ``folder`` named as the ``images`` or ``labels`` of ``train`` or ``test`` usually
    are, MNIST's own name first.

    Gzipped or not: ``train-images-idx3-ubyte.gz``, ``train-images.idx3-ubyte``,
    ``emnist-letters-train-images-idx3-ubyte`` and the like; also in a folder of such a name or in
    ``raw``, as archives and torchvision unpack them.
    """
    split_name = "(?:t10k|test)" if split == "test" else split
    pattern = re.compile(
        rf"(?:.*[-_.])?{split_name}[-_.]{part}(?:[-_.]{PARTS[part]})?(?:[-_.]ubyte)?(?:\.gz)?",
        re.IGNORECASE,
    )
    inner = [each for each in _entries(folder) if pattern.fullmatch(each.name)]
    places = (folder, *inner, folder / "raw", folder / "MNIST/raw")
    found = [
        path
        for place in places
        for path in _entries(place)
        if pattern.fullmatch(path.name) and not path.is_dir()
    ]
    return sorted(found, key=lambda path: path.name.removesuffix(".gz") != usual_name(split, part))


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, gzipped files before those without the ending; nothing if it is not a
    folder.
    """
    return sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []


def _unpacked(stream: BinaryIO, held: ExitStack) -> BinaryIO:
    """The stream itself, or what it unpacks to if it is gzipped, perhaps twice, as its first bytes
    say. Raises FAULTS.
    """
    for _ in range(MAX_GZIP_LAYERS):
        magic = stream.read(len(GZIP_MAGIC))
        stream.seek(0)
        if magic != GZIP_MAGIC:
            break
        stream = held.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))  # type: ignore[assignment]
    return stream
