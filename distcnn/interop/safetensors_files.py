"""Weights in safetensors files (https://huggingface.co/docs/safetensors)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from distcnn.interop.facts import as_texts, described, from_texts
from distcnn.interop.foreign import ForeignWeights, as_float32, missing_package, naturally


def encode_safetensors(weights: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    """A file of the weights, the facts in its metadata."""
    numpy = _library("writing safetensors")
    plain = {name: np.ascontiguousarray(values) for name, values in weights.items()}
    encoded: bytes = numpy.save(plain, {"format": "pt", **as_texts(facts)})
    return encoded


def read_safetensors(content: bytes) -> ForeignWeights:
    """The weights in a file, in the order of their names; ``ValueError`` for a damaged one."""
    numpy = _library("reading safetensors")
    from safetensors import SafetensorError

    try:
        # Checks the header's length, and every array's place and shape against the file's size.
        arrays = numpy.load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    except KeyError as error:  # a type that NumPy lacks
        raise ValueError(f"it has numbers of type {error}: save it in float32") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts = from_texts(header.get("__metadata__", {}))
    ordered = {name: arrays[name] for name in naturally(arrays)}
    return described("safetensors file", as_float32(ordered), facts)


def _library(what: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise missing_package(what, "safetensors") from error
    return safetensors.numpy
