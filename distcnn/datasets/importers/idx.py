"""The IDX format of the MNIST files, and four such files as an image set.

IDX: a magic number, big-endian sizes, then the bytes (LeCun, "The MNIST database"). Files are read
from front to end, gzipped or not, in pieces, so neither what a header claims nor what a gzip file
unpacks to has to fit into memory.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import SPLITS, by
from distcnn.datasets.importers.source import Examples, Rows, Source, damage_named, require_room
from distcnn.errors import InputError
from distcnn.system.files import explaining, open_named

UNSIGNED_BYTE = 8
MAX_DIMENSIONS = 4
PIECE_BYTES = 2**24
"""How much is read at once, and the largest item."""
PIECE_ITEMS = 2**20
GZIP_MAGIC, MAX_GZIP_LAYERS = b"\x1f\x8b", 2
FAULTS = (EOFError, zlib.error, OSError)
"""Exceptions of damaged gzip files and failing disks."""
PARTS = {"images": "idx3", "labels": "idx1"}
"""The parts of a split, and how their file names end."""


class IdxReader:
    """An IDX file of unsigned bytes: its ``shape``, and its data, which can be read once.

    ``name`` is for messages. Raises ``InputError`` when it is cut off, too long or not an IDX file.
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
            raise self._damaged(f"has {dimensions} dimensions instead of 1 to {MAX_DIMENSIONS}")
        self._needed, self._header = 4 + 4 * dimensions, "its header alone"
        sizes = self._read_exactly(4 * dimensions)
        self.shape: tuple[int, ...] = tuple(np.frombuffer(sizes, ">u4").tolist())
        self.item_bytes = math.prod(self.shape[1:])
        if self.item_bytes > PIECE_BYTES:
            raise self._damaged(f"has items of {by(self.shape[1:])} bytes in its header")
        self._needed += math.prod(self.shape)
        self._header = f"its header {self.shape}"

    def pieces(self, most: int = PIECE_ITEMS) -> Iterator[NDArray[np.uint8]]:
        """The data as arrays (n, *shape[1:]) of at most ``most`` items; at least one array."""
        items = min(most, PIECE_BYTES // max(1, self.item_bytes))
        for start in range(0, max(1, self.shape[0]), items):
            count = min(items, self.shape[0] - start)
            data = self._read_exactly(count * self.item_bytes)
            yield np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])
        if self._read(1):
            raise self._damaged(f"holds more than the {self._needed} bytes {self._header} needs")

    def read(self) -> NDArray[np.uint8]:
        return np.concatenate(list(self.pieces()))

    def _read_exactly(self, count: int) -> bytes:
        data = self._read(count)
        if len(data) < count:
            raise self._damaged(
                f"holds {self._taken} bytes, but {self._header} needs {self._needed}"
            )
        return data

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.name} {what}: it is damaged, fetch it again")

    def _read(self, count: int) -> bytes:
        with damage_named(self.name):
            data = self._stream.read(count)
        self._taken += len(data)
        return data


@contextmanager
def open_idx(path: str | Path) -> Iterator[IdxReader]:
    """Open an IDX file, gzipped or not. Raises ``InputError`` as ``IdxReader``."""
    with ExitStack() as held:
        with damage_named(path):
            stream = unpacked(held.enter_context(open_named(path)), held)
        yield IdxReader(stream, str(path))


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array in the bytes of an IDX file; ``name`` is for error messages."""
    return IdxReader(io.BytesIO(content), name).read()


def unpacked(stream: BinaryIO, held: ExitStack) -> BinaryIO:
    """The stream, decompressed if its first bytes say gzip, possibly twice."""
    for _ in range(MAX_GZIP_LAYERS):
        magic = stream.read(len(GZIP_MAGIC))
        stream.seek(0)
        if magic != GZIP_MAGIC:
            break
        stream = held.enter_context(gzip.GzipFile(fileobj=stream, mode="rb"))  # type: ignore[assignment]
    return stream


# -- names


def usual_name(split: str, part: str) -> str:
    """MNIST's name for the file with the ``images`` or ``labels`` of ``train`` or ``test``."""
    return f"{'t10k' if split == 'test' else split}-{part}-{PARTS[part]}-ubyte"


def name_pattern(split: str, part: str) -> re.Pattern[str]:
    """What matches the usual names of this part."""
    split_name = "(?:t10k|test)" if split == "test" else split
    return re.compile(
        rf"(?:.*[-_.])?{split_name}[-_.]{part}(?:[-_.]{PARTS[part]})?(?:[-_.]ubyte)?(?:\.gz)?",
        re.IGNORECASE,
    )


def find_idx(folder: Path, split: str, part: str) -> list[Path]:
    """Files in ``folder`` named as this part usually is, MNIST's own name first.

    For example ``train-images-idx3-ubyte.gz``, ``train-images.idx3-ubyte`` and
    ``emnist-letters-train-images-idx3-ubyte``; also in a folder of such a name or in ``raw``, as
    archives and torchvision unpack them.
    """
    pattern = name_pattern(split, part)

    def matching(place: Path) -> list[Path]:
        with explaining(f"{place} cannot be read", "check its permissions"):
            entries = sorted(place.iterdir(), reverse=True) if place.is_dir() else []  # .gz first
        return [path for path in entries if pattern.fullmatch(path.name)]

    places = (folder, *matching(folder), folder / "raw", folder / "MNIST/raw")
    found = [path for place in places for path in matching(place) if not path.is_dir()]
    return sorted(found, key=lambda path: path.name.removesuffix(".gz") != usual_name(split, part))


def find_part(folder: Path, split: str, part: str, remedy: str = "") -> Path:
    """The one file in ``folder`` that is named as this part. ``InputError`` for none or several.

    ``remedy`` is by default the flag of ``data/from_idx.py``.
    """
    paths, name = find_idx(folder, split, part), usual_name(split, part)
    remedy = remedy or f"with --{split}-{part} FILE"
    if not paths:
        raise InputError(
            f"{folder / name}[.gz] does not exist: name the folder of the IDX files, or the file"
            f" {remedy}"
        )
    stems = {str(path).removesuffix(".gz") for path in paths}
    if len(stems) > 1 and paths[0].name.removesuffix(".gz") != name:
        raise InputError(
            f"{folder} holds several: {', '.join(sorted(path.name for path in paths))}: name one"
            f" {remedy}"
        )
    return paths[0]


# -- four files as an image set


@dataclass(frozen=True)
class IdxStack:
    """Images in an IDX file, which is read from front to end for ``pieces``, and into memory for
    ``rows``.
    """

    path: Path
    shape: tuple[int, ...]
    dtype = np.dtype(np.uint8)

    def pieces(self, most: int) -> Iterator[NDArray[np.uint8]]:
        with open_idx(self.path) as reader:
            yield from reader.pieces(most)

    def rows(self, indices: Rows) -> NDArray[np.uint8]:
        return self._whole[indices]

    @cached_property
    def _whole(self) -> NDArray[np.uint8]:
        require_room(str(self.path), math.prod(self.shape))
        with open_idx(self.path) as reader:
            return reader.read()


def read_idx(paths: Mapping[tuple[str, str], Path]) -> dict[str, Examples]:
    """The examples in pairs of IDX files, by split; ``paths`` are by split and part.

    ``InputError`` for files that are damaged or do not match.
    """
    for split, part in _parts():
        if (split, part) not in paths and any(split == other for other, _ in paths):
            raise InputError(
                f"the IDX file with the {split} {part} is missing: name it too, or the folder that"
                " holds all four"
            )
    return {
        split: _read_pair(*(paths[split, part] for part in PARTS))
        for split in dict.fromkeys(split for split, _ in paths)
    }


def _read_pair(images_path: Path, labels_path: Path) -> Examples:
    with open_idx(images_path) as images, open_idx(labels_path) as labels:
        is_matching = labels.shape == images.shape[:1] != (0,)
        if not is_matching or len(images.shape) not in (3, 4):
            raise InputError(
                f"{images_path} has shape {images.shape} and {labels_path} {labels.shape}: they"
                " must be (N, height, width) or (N, height, width, channels), and (N,), N at"
                " least 1"
            )
        stack = IdxStack(images_path, images.shape)
        require_room(str(labels_path), math.prod(labels.shape))
        return Examples(str(images_path), stack, labels.read())


def read_idx_source(paths: Sequence[Path]) -> Source:
    """IDX files as a source: a folder that holds them, or the files.

    EMNIST's files are known by their names: their images are transposed, and a file
    ``emnist-*-mapping.txt`` beside them names the classes.
    """
    if len(paths) == 1 and paths[0].is_dir():
        remedy = "as SOURCE, with the others of its set"
        found = {part: find_part(paths[0], *part, remedy) for part in _parts()}
    else:
        found = {}
        for path in paths:
            key = _part_of(path)
            if key in found:
                raise InputError(f"{found[key]} and {path} are the same part of a set: name one")
            found[key] = path
    first = next(iter(found.values()))
    emnist = re.match(r"emnist-[a-z]+", first.name, re.IGNORECASE)
    mapping = first.with_name(f"{emnist[0]}-mapping.txt") if emnist else first
    classes = read_mapping(mapping) if emnist and mapping.exists() else {}
    notes = [f"{split} {part}: {path}" for (split, part), path in found.items()]
    notes += [f"class names: {mapping}"] if classes else []
    return Source("IDX files", read_idx(found), classes, transposed=bool(emnist), notes=notes)


def read_mapping(path: Path) -> dict[int, str]:
    """EMNIST's names of classes: lines of a label and the codes of its characters."""
    with open_named(path) as file:
        lines = file.read(PIECE_BYTES).decode("ascii", "replace").splitlines()
    with damage_named(path, "restore it, or remove it"):
        return names_of_codes([[int(word) for word in line.split()] for line in lines])


def names_of_codes(rows: Sequence[Sequence[int]]) -> dict[int, str]:
    """The name of each label, from rows of a label and the codes of its characters."""
    return {row[0]: "/".join(map(chr, row[1:])) for row in rows if len(row) > 1}


def _parts() -> Iterator[tuple[str, str]]:
    return ((split, part) for split in SPLITS for part in PARTS)


def _part_of(path: Path) -> tuple[str, str]:
    """The split and part that a file is named as."""
    for split, part in _parts():
        if name_pattern(split, part).fullmatch(path.name):
            return split, part
    raise InputError(
        f"{path} is an IDX file, but its name does not say which part of a set it is: rename it to"
        f" one like {usual_name('train', 'images')}, or use data/from_idx.py"
    )
