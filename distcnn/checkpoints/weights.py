"""Files of weights: one HDF5 dataset per parameter, in the network's order and PyTorch's shapes.

Their attributes (docs/run_directory.md) are all that is needed to use the network.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distcnn.checkpoints.format import HDF5_ERRORS, stored_arrays
from distcnn.system.files import read_bytes, reading

WEIGHTS, BEST_WEIGHTS = "weights.h5", "weights-best.h5"
INITIAL_WEIGHTS = "weights-initial.h5"
"""Only of a run that did not start from random weights."""
IN_MEMORY_AT_ONCE = 2**20
"""Bytes by which a file in memory grows."""
Arrays = Mapping[str, NDArray[Any]]


def encode_weights(weights: Arrays, attributes: Mapping[str, Any]) -> bytes:
    """A file of weights: the same bytes at any time, and with any version of HDF5."""
    creation, access = map(h5py.h5p.create, (h5py.h5p.FILE_CREATE, h5py.h5p.FILE_ACCESS))
    order = h5py.h5p.CRT_ORDER_TRACKED | h5py.h5p.CRT_ORDER_INDEXED
    creation.set_link_creation_order(order)
    creation.set_attr_creation_order(order)
    creation.set_obj_track_times(False)  # which h5py.File leaves to the version
    access.set_fapl_core(IN_MEMORY_AT_ONCE, False)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    with h5py.File(h5py.h5f.create(b"weights", h5py.h5f.ACC_TRUNC, creation, access)) as file:
        vector = np.concatenate([values.reshape(-1) for values in weights.values()])
        file.attrs["params_sha256"] = array_sha256(vector)
        file.attrs.update(attributes)
        for name, values in weights.items():
            file.create_dataset(name, data=values)
        file.flush()
        content: bytes = file.id.get_file_image()
        return content


def read_weights(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The parameters in a file of weights, and its attributes as plain values."""
    with reading(path.name):
        content = read_bytes(path)
    with reading(path.name, *HDF5_ERRORS), h5py.File(io.BytesIO(content), "r") as file:
        attributes = {
            name: value.tolist() if hasattr(value, "tolist") else value
            for name, value in file.attrs.items()
        }
        return dict(stored_arrays(file)), attributes


def array_sha256(values: NDArray[Any]) -> str:
    """SHA-256 of the elements as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").data).hexdigest()
