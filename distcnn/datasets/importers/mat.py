"""MATLAB's files up to version 7.2, read by SciPy. SVHN and EMNIST are known by their layout."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.datasets.importers import idx
from distcnn.datasets.importers.named_arrays import NamedArray, source_of
from distcnn.datasets.importers.source import Array, Options, Source, damage_named, require_room
from distcnn.errors import InputError
from distcnn.system.files import open_named

SVHN_SHAPE, SVHN_LABELS = (32, 32, 3), range(1, 11)
HEADER_BYTES, COMPRESSED, PIECE_BYTES = 128, 15, 2**20
"""Of the MAT-file format, level 5: a compressed variable is an element of type 15."""
ITEM_BYTES = {"double": 8, "single": 4, "int64": 8, "uint64": 8, "int32": 4, "uint32": 4}


def read_mat(paths: Sequence[Path], options: Options) -> Source:
    """MATLAB files as a source."""
    arrays = [array for path in paths for array in _variables(path)]
    source = source_of("MATLAB", arrays, options, transposed=None)
    if all("emnist" in path.name.lower() for path in paths):
        return replace(source, transposed=True, classes=_mapped(arrays))
    return source if not is_svhn(source) else as_svhn(source)


def _mapped(arrays: Sequence[NamedArray]) -> dict[int, str]:
    """EMNIST's names of classes: rows of a label and the codes of its characters."""
    found = [array for array in arrays if array.name == "dataset/mapping" and len(array.shape) == 2]
    rows = found[0].load().tolist() if found and found[0].dtype.kind in "iuf" else []
    return idx.names_of_codes([[int(code) for code in row] for row in rows])


def is_svhn(source: Source) -> bool:
    """Whether a source looks like the cropped digits of SVHN: 32x32x3, labels 1 to 10."""
    return all(
        part.images.shape[1:] == SVHN_SHAPE
        and set(np.unique(part.labels).tolist()) <= set(SVHN_LABELS)
        for part in source.examples.values()
    ) and any(10 in part.labels for part in source.examples.values())


def as_svhn(source: Source) -> Source:
    """SVHN's label 10 is the digit 0."""
    classes = {10: "0", **{label: str(label) for label in range(1, 10)}}
    note = "32x32x3 images with labels 1 to 10, as in SVHN: label 10 is the digit 0"
    return replace(source, classes=classes, notes=[*source.notes, note])


def _variables(path: Path) -> Iterator[NamedArray]:
    try:
        from scipy.io import loadmat, whosmat
    except ImportError as error:
        raise InputError("reading MATLAB files needs SciPy: pip install scipy") from error
    with damage_named(path):
        require_room(str(path), _unpacked_bytes(path))
        listed = whosmat(str(path))
    for name, shape, kind in listed:
        needed = math.prod(shape) * ITEM_BYTES.get(kind, 1)
        require_room(f"{path}: {name}", needed, 8 * path.stat().st_size)

        def load(name: str = name) -> Any:
            with damage_named(path):
                return loadmat(str(path), variable_names=[name])[name]

        if kind == "struct":
            yield from _fields(path, name, load())
        elif kind not in ("cell", "function", "opaque", "object", "sparse", "unknown"):
            yield NamedArray(path.stem, name, tuple(shape), _dtype(kind), load)


def _unpacked_bytes(path: Path) -> int:
    """The size of all variables, which are compressed one by one, without keeping them."""
    total = 0
    with open_named(path) as file:
        file.seek(HEADER_BYTES)
        while len(tag := file.read(8)) == 8:
            kind, size = np.frombuffer(tag, "<u4").tolist()
            if kind != COMPRESSED:
                return max(total, path.stat().st_size)
            unpacker = zlib.decompressobj()
            for start in range(0, size, PIECE_BYTES):
                packed = file.read(min(PIECE_BYTES, size - start))
                while packed:
                    total += len(unpacker.decompress(packed, PIECE_BYTES))
                    packed = unpacker.unconsumed_tail
    return total


def _dtype(kind: str) -> np.dtype[Any]:
    """NumPy's type of a MATLAB class."""
    names = {"double": "f8", "single": "f4", "logical": "?", "char": "U1"}
    return np.dtype(names.get(kind, kind))


def _fields(path: Path, name: str, value: Any) -> Iterator[NamedArray]:
    """The arrays in a struct, such as EMNIST's ``dataset.train.images``."""
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names and value.size == 1:
        for field in value.dtype.names:
            yield from _fields(
                path, f"{name}/{field}", value.item()[value.dtype.names.index(field)]
            )
    elif value.dtype.kind in "biufU":
        yield NamedArray(path.stem, name, value.shape, value.dtype, partial(_same, value))


def _same(value: Array) -> Array:
    return value
