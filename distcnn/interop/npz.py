"""Weights in NumPy's archives: arrays by parameter, and the facts beside them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from distcnn.interop.facts import NAMES, described
from distcnn.interop.foreign import ForeignWeights, as_float32, unpacked


def encode_npz(weights: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    """An archive of the weights and the facts, without pickles."""
    memory = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in facts.items()}
    np.savez(memory, **weights, **arrays)
    return memory.getvalue()


def read_npz(content: bytes) -> ForeignWeights:
    """The weights in an archive; nothing is unpickled."""
    arrays = {
        name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
        for name, raw in unpacked(content).items()
        if name.endswith(".npy")
    }
    # distcnn's own parameters have a dot in their names, so facts cannot be among them.
    facts = {name: arrays.pop(name).tolist() for name in NAMES if name in arrays}
    return described("NumPy archive", as_float32(arrays), facts)
