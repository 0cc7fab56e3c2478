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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import SPLITS, Images, by
from distcnn.datasets.writer import Split, chunk_examples, write_dataset
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.system.wording import counted, first_few, plural

UNSIGNED_BYTE = 8
MAX_DIMENSIONS = 4
PIECE_BYTES = 2**24
"""How much is read at once, and the largest item."""
PIECE_ITEMS = 2**20
MAX_LABELS = 256
"""Labels are bytes."""
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
        try:
            data = self._stream.read(count)
        except FAULTS as error:
            raise InputError(f"{self.name} is damaged ({error}): fetch it again") from error
        self._taken += len(data)
        return data


@contextmanager
def open_idx(path: str | Path) -> Iterator[IdxReader]:
    """Open an IDX file, gzipped or not. Raises ``InputError`` as ``IdxReader``."""
    with ExitStack() as held:
        file = held.enter_context(open_named(path))
        try:
            stream = unpacked(file, held)
        except FAULTS as error:
            raise InputError(f"{path} is damaged ({error}): fetch it again") from error
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


def find_idx(folder: Path, split: str, part: str) -> list[Path]:
    """Files in ``folder`` named as this part usually is, MNIST's own name first.

    For example ``train-images-idx3-ubyte.gz``, ``train-images.idx3-ubyte`` and
    ``emnist-letters-train-images-idx3-ubyte``; also in a folder of such a name or in ``raw``, as
    archives and torchvision unpack them.
    """
    split_name = "(?:t10k|test)" if split == "test" else split
    pattern = re.compile(
        rf"(?:.*[-_.])?{split_name}[-_.]{part}(?:[-_.]{PARTS[part]})?(?:[-_.]ubyte)?(?:\.gz)?",
        re.IGNORECASE,
    )

    def matching(place: Path) -> list[Path]:
        entries = sorted(place.iterdir(), reverse=True) if place.is_dir() else []  # .gz first
        return [path for path in entries if pattern.fullmatch(path.name)]

    places = (folder, *matching(folder), folder / "raw", folder / "MNIST/raw")
    found = [path for place in places for path in matching(place) if not path.is_dir()]
    return sorted(found, key=lambda path: path.name.removesuffix(".gz") != usual_name(split, part))


def find_part(folder: Path, split: str, part: str) -> Path:
    """The one file in ``folder`` that is named as this part. ``InputError`` for none or several."""
    paths, name = find_idx(folder, split, part), usual_name(split, part)
    if not paths:
        raise InputError(
            f"{folder / name}[.gz] does not exist: name the folder of the IDX files, or the file"
            f" with --{split}-{part} FILE"
        )
    stems = {str(path).removesuffix(".gz") for path in paths}
    if len(stems) > 1 and paths[0].name.removesuffix(".gz") != name:
        raise InputError(
            f"{folder} holds several: {', '.join(sorted(path.name for path in paths))}: name one"
            f" with --{split}-{part} FILE"
        )
    return paths[0]


# -- four files as an image set


def write_idx_set(
    output: str | Path,
    paths: Mapping[tuple[str, str], Path],
    *,
    name: str,
    source: str,
    classes: int | None,
    first_label: int,
    warn: Callable[[str], None],
) -> dict[str, list[int]]:
    """Write four IDX files as an image set; return the number of images of each class, by split.

    ``paths`` are by split and part; ``first_label`` becomes class 0; ``classes`` is by default from
    the largest label. ``InputError`` for files that are damaged or do not match.
    """
    if classes is not None and not 1 <= classes <= MAX_LABELS:
        raise InputError(f"--classes is {classes}: it must be 1 to {MAX_LABELS}, labels are bytes")
    by_label = {split: _count_labels(*(paths[split, part] for part in PARTS)) for split in SPLITS}
    found = np.flatnonzero(by_label["train"] + by_label["test"])
    if found[0] < first_label or first_label < 0:
        raise InputError(
            f"--first-label is {first_label}, but the smallest label is {found[0]}: it must be 0 to"
            f" {found[0]}"
        )
    classes = classes or int(found[-1]) + 1 - first_label
    with ExitStack() as held:
        splits = {
            split: Split(int(by_label[split].sum()), _batches(held, paths, split, first_label))
            for split in SPLITS
        }
        write_dataset(output, name=name, source=source, classes=classes, splits=splits)
    counts = {}
    for split in SPLITS:
        numbers = np.append(by_label[split], np.zeros(classes, int))[first_label:][:classes]
        if missing := [str(first_label + index) for index in np.flatnonzero(numbers == 0)]:
            labels = f"{plural(len(missing), 'label')} {first_few(missing)}"
            remedy = f": if {found[0]} is the first class's label, give --first-label {found[0]}"
            warn(
                f"no {split} images for {len(missing)} of {counted(classes, 'class')} ({labels})"
                f"{remedy if found[0] > first_label else ''}"
            )
        counts[split] = numbers.tolist()
    return counts


def _count_labels(images_path: Path, labels_path: Path) -> NDArray[np.int64]:
    """How often each label occurs in a pair of files. ``InputError`` if they do not match."""
    counts = np.zeros(MAX_LABELS, np.int64)
    with open_idx(images_path) as images, open_idx(labels_path) as labels:
        is_matching = labels.shape == images.shape[:1] != (0,)
        if not is_matching or len(images.shape) not in (3, 4):
            raise InputError(
                f"{images_path} has shape {images.shape} and {labels_path} {labels.shape}: they"
                " must be (N, height, width) or (N, height, width, channels), and (N,), N at"
                " least 1"
            )
        for piece in labels.pieces():
            counts += np.bincount(piece, minlength=MAX_LABELS)
    return counts


def _batches(
    held: ExitStack, paths: Mapping[tuple[str, str], Path], split: str, first_label: int
) -> Iterator[tuple[Images, NDArray[np.int64]]]:
    """Images and labels together, from files that stay open until ``held`` ends."""
    images, labels = (held.enter_context(open_idx(paths[split, part])) for part in PARTS)
    items = chunk_examples(images.item_bytes)
    for batch_images, batch_labels in zip(images.pieces(items), labels.pieces(items), strict=True):
        yield batch_images, batch_labels.astype(np.int64) - first_label
