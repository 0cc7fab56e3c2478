"""A file of weights is the same bytes at any time and with any version of HDF5."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from distcnn.checkpoints.weights import encode_weights, read_weights

WEIGHTS = {
    "conv1.weight": np.arange(72, dtype=np.float32).reshape(8, 1, 3, 3),
    "a.bias": np.linspace(-1, 1, 2000, dtype=np.float32),
}
ATTRIBUTES = {
    "model": "tutorial",
    "step": 40,
    "test_accuracy": 0.1 + 0.2,
    "image_shape": [1, 28, 28],
    "class_names": ["null", "eins", "zwölf"],
}
SHA256 = "9cd37ba7fc230a61e71e2a46a0b169f98b5426b6873d2db3fd9979a6a10ae35c"
"""With h5py 3.11 and HDF5 1.14 as with h5py 3.16 and HDF5 2.0."""


def test_the_bytes_are_these() -> None:
    assert hashlib.sha256(encode_weights(WEIGHTS, ATTRIBUTES)).hexdigest() == SHA256


def test_all_is_read_again_in_order(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(encode_weights(WEIGHTS, ATTRIBUTES))
    weights, attributes = read_weights(tmp_path / "weights.h5")
    assert list(weights) == list(WEIGHTS)
    assert all(np.array_equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert list(attributes) == ["params_sha256", *ATTRIBUTES]
    assert {name: attributes[name] for name in ATTRIBUTES} == ATTRIBUTES
