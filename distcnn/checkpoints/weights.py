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
Arrays = Mapping[str, NDArray[Any]]


def encode_weights(weights: Arrays, attributes: Mapping[str, Any]) -> bytes:
    """A file of weights."""
    memory = io.BytesIO()
    with h5py.File(memory, "w", track_order=True) as file:
        vector = np.concatenate([values.reshape(-1) for values in weights.values()])
        file.attrs["params_sha256"] = array_sha256(vector)
        file.attrs.update(attributes)
        for name, values in weights.items():
            file.create_dataset(name, data=values)
    return memory.getvalue()


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
