"""MATLAB's files of versions 5 to 7.2, such as SVHN and EMNIST, which are known by their layout.

Numbers and structs of them are read, as "MAT-File Level 5 File Format" (MathWorks) describes: a
file is a list of elements, each a type, a size and that many bytes. SciPy reads more, but damaged
files crash it.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from distcnn.datasets.importers import idx
from distcnn.datasets.importers.cifar import PIXELS, SHAPE
from distcnn.datasets.importers.named_arrays import NamedArray, source_of
from distcnn.datasets.importers.source import (
    Array,
    ArrayStack,
    Options,
    Source,
    damage_named,
    require_room,
)
from distcnn.system.files import open_named

HEADER_BYTES = 128
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}
MATRIX, COMPRESSED = 14, 15
STORED = dict(enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4"), 1)) | {9: "f8"}
STORED |= {12: "i8", 13: "u8"}
"""Types of elements with numbers. A matrix may be stored in a smaller type than its own."""
STRUCT = 2
CLASSES = dict(enumerate(("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), 6))
"""Types of matrices of numbers."""
COMPLEX = 0x0800
MOST_NESTED = 10
MOST_PARTS = 1000
"""Of a variable: three and its numbers, or the fields of a struct."""
CIFAR_FILE = re.compile(r"data_batch_\d|test_batch|batches\.meta|train\.mat|test\.mat|meta\.mat")
SVHN_SHAPE, SVHN_LABELS = (32, 32, 3), set(range(1, 11))


def read_mat(paths: Sequence[Path], options: Options) -> Source:
    """MATLAB files as a source."""
    arrays = [array for path in paths for array in _variables(path)]
    source = source_of("MATLAB", arrays, options, transposed=None)
    if all("emnist" in path.name.lower() for path in paths):
        return replace(source, transposed=True, classes=_mapped(arrays))
    is_row = all(part.images.shape[1:] == (PIXELS,) for part in source.examples.values())
    if is_row and not options.image_size and CIFAR_FILE.match(paths[0].name):
        return _as_cifar(source)
    return _as_svhn(source)


def _as_cifar(source: Source) -> Source:
    """With rows of pixels as images, channel after channel, as in CIFAR's other files."""
    examples = {}
    for split, part in source.examples.items():
        pixels = np.concatenate(list(part.images.pieces(part.images.shape[0])))
        examples[split] = replace(part, images=ArrayStack(pixels.reshape(-1, *SHAPE)))
    note = "the files are named as CIFAR's, so each row is an image of 3x32x32"
    return replace(source, examples=examples, transposed=False, notes=[*source.notes, note])


def _mapped(arrays: Sequence[NamedArray]) -> dict[int, str]:
    """EMNIST's names of classes: rows of a label and the codes of its characters."""
    found = [array for array in arrays if array.name == "dataset/mapping" and len(array.shape) == 2]
    rows = found[0].load().tolist() if found and found[0].dtype.kind in "iuf" else []
    return idx.names_of_codes([[int(code) for code in row] for row in rows])


def _as_svhn(source: Source) -> Source:
    """With label 10 as the digit 0, if it looks like SVHN's cropped digits."""
    parts = source.examples.values()
    labels = {label for part in parts for label in np.unique(part.labels).tolist()}
    is_shape = all(part.images.shape[1:] == SVHN_SHAPE for part in parts)
    if not (is_shape and 10 in labels and labels <= SVHN_LABELS):
        return source
    classes = {10: "0", **{label: str(label) for label in range(1, 10)}}
    note = "32x32x3 images with labels 1 to 10, as in SVHN: label 10 is the digit 0"
    return replace(source, classes=classes, notes=[*source.notes, note])


def _variables(path: Path) -> Iterator[NamedArray]:
    """All variables with numbers."""
    with damage_named(path), open_named(path) as file:
        order = BYTE_ORDERS.get(file.read(HEADER_BYTES)[-2:])
        if order is None:
            raise ValueError("its header does not say the order of bytes")
        left = path.stat().st_size - HEADER_BYTES
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            left -= 8 + size
            if left < 0:
                raise ValueError("it is cut off")
            require_room(str(path), size)
            content = file.read(size)
            if kind == COMPRESSED:
                kind, content = _unpacked(content, order, str(path))
            if kind == MATRIX:
                yield from _arrays(path.stem, memoryview(content), order)


def _unpacked(content: bytes, order: str, name: str) -> tuple[int, bytes]:
    """The type and content of the element in a compressed one."""
    unpacker = zlib.decompressobj()
    kind, size = struct.unpack(f"{order}II", unpacker.decompress(content, 8))
    require_room(name, size, len(content))
    return kind, unpacker.decompress(unpacker.unconsumed_tail, size)


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The types and contents of elements in a row; one of up to 4 bytes is packed into its tag."""
    start = 0
    while start + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, start)
        first, after = start + 8, start + 8 + size + -size % 8
        if kind >> 16:
            kind, size, first, after = kind & 0xFFFF, kind >> 16, start + 4, start + 8
        if first + size > len(content):
            raise ValueError("it is cut off")
        yield kind, content[first : first + size]
        start = after


def _arrays(
    file: str, content: memoryview, order: str, prefix: str = "", depth: int = 0
) -> Iterator[NamedArray]:
    """The array in a matrix, or those in the fields of a struct (``dataset/train/images``)."""
    parts = list(islice(_elements(content, order), MOST_PARTS + 1))
    if len(parts) > MOST_PARTS:
        raise ValueError(f"a variable has more than {MOST_PARTS:,} parts")
    if len(parts) < 4 or depth > MOST_NESTED:
        return
    (flags, *_), shape = (_numbers(part, order).tolist() for part in parts[:2])
    name, kind = prefix or bytes(parts[2][1]).decode("ascii", "replace"), flags & 0xFF
    if kind == STRUCT and math.prod(shape) == 1 and len(parts) >= 5:
        length, packed = int(_numbers(parts[3], order)[0]), bytes(parts[4][1])
        names = [packed[i : i + length].rstrip(b"\0") for i in range(0, len(packed), length)]
        for field, (_, inner) in zip(names, parts[5:], strict=True):
            field_name = f"{name}/{field.decode('ascii', 'replace')}"
            yield from _arrays(file, inner, order, field_name, depth + 1)
    elif kind in CLASSES and not flags & COMPLEX:
        stored, dtype = _numbers(parts[3], order), np.dtype(CLASSES[kind])
        if stored.size != math.prod(shape) or min(shape) < 0:
            raise ValueError(f"{name} has {stored.size:,} values for a shape of {shape}")
        load = partial(_loaded, file, stored, dtype, tuple(shape))
        yield NamedArray(file, name, tuple(shape), dtype, load)


def _numbers(part: tuple[int, memoryview], order: str) -> Array:
    kind, content = part
    if kind not in STORED:
        raise ValueError(f"it holds numbers of type {kind}")
    return np.frombuffer(content, order + STORED[kind])


def _loaded(file: str, stored: Array, dtype: np.dtype, shape: tuple[int, ...]) -> Array:
    require_room(file, stored.size * dtype.itemsize)
    return stored.astype(dtype).reshape(shape, order="F")
