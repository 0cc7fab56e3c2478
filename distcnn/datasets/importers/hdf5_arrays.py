"""HDF5 files of other programs, with any names; also MATLAB's from version 7.3 on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import h5py

from distcnn.datasets.hdf5 import SPLITS
from distcnn.datasets.importers.named_arrays import NamedArray, source_of
from distcnn.datasets.importers.source import Array, Options, Source, require_room
from distcnn.datasets.opening import OpenFiles, input_errors
from distcnn.datasets.storage import find_dataset, require_stored
from distcnn.errors import InputError

MOST_DATASETS = 1000
REFERENCES = "#refs#"
"""Where MATLAB keeps the elements of cell arrays."""


def read_hdf5(paths: Sequence[Path], options: Options, matlab: bool = False) -> Source:
    """HDF5 files as a source; arrays of ``matlab`` are stored with their axes reversed."""
    arrays = [array for path in paths for array in arrays_of(path, matlab)]
    if not matlab:
        return source_of("HDF5", arrays, options)
    return source_of("MATLAB 7.3", arrays, options, transposed=None)


def arrays_of(path: Path, matlab: bool = False) -> list[NamedArray]:
    """The arrays in a file."""
    found: list[NamedArray] = []

    def take(name: str, item: h5py.Dataset) -> None:
        shape = item.shape[::-1] if matlab else item.shape
        read = partial(_read, path, name, matlab)
        found.append(NamedArray(path.stem, name, shape, item.dtype, read, None if matlab else read))

    def visit(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and REFERENCES not in name:
            take(name, item)
        return True if len(found) >= MOST_DATASETS else None

    with closing(OpenFiles()) as files, input_errors(str(path)):
        file = files.open(str(path))
        file.visititems(visit)
        for name in {f"{split}/images" for split in SPLITS} - {array.name for array in found}:
            if linked := find_dataset(files, file, name):  # visititems follows no links
                take(name, linked)
    return found


def _read(path: Path, name: str, matlab: bool, rows: slice = slice(None)) -> Array:
    with closing(OpenFiles()) as files, input_errors(str(path)):
        dataset = find_dataset(files, files.open(str(path)), name)
        if dataset is None:
            raise InputError(f"{path}: /{name} is missing: the file has changed while it was read")
        require_stored(files, dataset, f"/{name}")
        count = len(range(*rows.indices(dataset.shape[0]))) if dataset.shape else 1
        needed = count * math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        require_room(f"{path}: /{name}", needed)
        array: Array = dataset[rows] if dataset.shape else dataset[()]
        return array.T if matlab else array
