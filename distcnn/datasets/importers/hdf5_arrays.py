"""HDF5 files of other programs, with any names; also MATLAB's from version 7.3 on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import h5py

from distcnn.datasets.importers.named_arrays import NamedArray, source_of
from distcnn.datasets.importers.source import Array, Options, Source, require_room
from distcnn.datasets.opening import OpenFiles, input_errors
from distcnn.datasets.storage import require_stored

MOST_DATASETS = 1000
REFERENCES = "#refs#"
"""Where MATLAB keeps the elements of cell arrays."""


def read_hdf5(paths: Sequence[Path], options: Options, matlab: bool = False) -> Source:
    """HDF5 files as a source; arrays of ``matlab`` are stored with their axes reversed."""
    arrays = [array for path in paths for array in _datasets(path, matlab)]
    if not matlab:
        return source_of("HDF5", arrays, options)
    return source_of("MATLAB 7.3", arrays, options, transposed=None)


def _datasets(path: Path, matlab: bool) -> list[NamedArray]:
    found: list[NamedArray] = []

    def visit(name: str, item: object) -> bool | None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and REFERENCES not in name:
            shape = item.shape[::-1] if matlab else item.shape
            load = partial(_load, path, name, matlab)
            found.append(NamedArray(path.stem, name, shape, item.dtype, load))
        return True if len(found) >= MOST_DATASETS else None

    with closing(OpenFiles()) as files, input_errors(str(path)):
        files.open(str(path)).visititems(visit)
    return found


def _load(path: Path, name: str, matlab: bool) -> Array:
    with closing(OpenFiles()) as files, input_errors(str(path)):
        dataset = files.open(str(path))[name]
        require_stored(files, dataset, f"/{name}")
        require_room(f"{path}: /{name}", math.prod(dataset.shape) * dataset.dtype.itemsize)
        array: Array = dataset[()]
        return array.T if matlab else array
