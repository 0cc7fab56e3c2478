"""Weights in safetensors files (https://huggingface.co/docs/safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from distcnn.datasets.importers.labels import natural
from distcnn.interop.facts import as_texts, described, from_texts
from distcnn.interop.foreign import BFLOAT16, ForeignWeights, as_float32, floats, missing_package

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16}


def encode_safetensors(weights: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    """A file of the weights, the facts in its metadata."""
    plain = {name: np.ascontiguousarray(values) for name, values in weights.items()}
    metadata = {"format": "pt", **as_texts(facts)}
    encoded: bytes = _library("writing safetensors").numpy.save(plain, metadata)
    return encoded


def read_safetensors(content: bytes) -> ForeignWeights:
    """The weights in a file, in the order of their names."""
    # Checks the header's length, and every array's place and shape against the file's size.
    stored = dict(_library("reading safetensors").deserialize(content))
    arrays = {
        name: floats(stored[name]["data"], FLOATS[stored[name]["dtype"]]).reshape(
            stored[name]["shape"]
        )
        for name in sorted(stored, key=natural)
        if stored[name]["dtype"] in FLOATS
    }
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts = from_texts(header.get("__metadata__", {}))
    return described("safetensors file", as_float32(arrays), facts)


def _library(what: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise missing_package(what, "safetensors") from error
    return safetensors
