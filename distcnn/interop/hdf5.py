"""Weights in HDF5: distcnn's own files, Keras's of all versions, and any others."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

import h5py
import numpy as np

from distcnn.checkpoints.format import stored_arrays
from distcnn.datasets.importers.labels import natural
from distcnn.interop.facts import described
from distcnn.interop.foreign import (
    KERAS,
    KERAS_CHANNELS_FIRST,
    ForeignWeights,
    as_float32,
    unpacked,
)

OF_KERAS = "layer_names"
"""An attribute of the group that holds Keras's layers; full models have it in ``IN_MODELS``."""
IN_MODELS = "model_weights"
IN_KERAS_3 = "model.weights.h5"
HEAP = rb"GCOL\x01\0\0\0"
DAMAGED = "the texts of its attributes are damaged"
NO_BACKEND = (
    "the file does not say which backend trained it: if it was Theano, kernels must be flipped; set"
    " the file's attribute backend to theano"
)


def read_hdf5(content: bytes) -> ForeignWeights:
    """The weights in an HDF5 file; ``ValueError`` for links and arrays that are not plain."""
    _check_texts(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        if "params_sha256" in file.attrs:
            facts = {name: np.asarray(value).tolist() for name, value in file.attrs.items()}
            return described("distcnn weights", as_float32(dict(stored_arrays(file))), facts)
        group = file[IN_MODELS] if _is_group(file, IN_MODELS) else file
        if OF_KERAS in group.attrs:
            return _of_keras(file, group)
        arrays = dict(stored_arrays(group))
        kept = [name for name in sorted(arrays, key=natural) if not name.startswith("optimizer")]
        return ForeignWeights("HDF5 file", as_float32({name: arrays[name] for name in kept}))


def _check_texts(content: bytes) -> None:
    """``ValueError`` for damaged texts of attributes, of which HDF5 would never find the end, or
    for which it would take gigabytes of memory.

    A reference to a text is its length, the address of its heap and its number there. An address
    alone, often 2048, is also found by chance.
    """
    if not (texts := _texts(content)):
        return
    heaps = np.array(sorted(texts), np.uint64)
    for shift in range(8):
        words = np.frombuffer(content, "<u8", max(0, len(content) - shift) // 8, shift)
        places = np.flatnonzero((words >= heaps[0]) & (words <= heaps[-1]))
        found = words[places]
        places = places[heaps[np.searchsorted(heaps, found)] == found]
        for place in (places * 8 + shift).tolist():
            if (
                _number(content, place - 4, 4) > len(content)
                and _number(content, place + 8, 4) in texts[_number(content, place, 8)]
            ):
                raise ValueError(DAMAGED)


def _texts(content: bytes) -> dict[int, set[int]]:
    """The numbers of the texts in each heap, by its address.

    (https://docs.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, III.E)
    """
    heaps: dict[int, set[int]] = {}
    left = len(content) // 16  # of texts: each takes 16 bytes, and heaps do not overlap
    for heap in re.finditer(HEAP, content):
        place, end = heap.start() + 16, heap.start() + _number(content, heap.end(), 8)
        texts = heaps[heap.start()] = set()
        while place + 16 <= end and (index := _number(content, place, 2)):
            texts.add(index)
            place += 16 + -(-_number(content, place + 8, 8) // 8) * 8
            left -= 1
            if left < 0:
                raise ValueError(DAMAGED)
        # What is free comes last.
        is_filled = place + 16 > end or place + _number(content, place + 8, 8) == end
        if not place <= end <= len(content) or not is_filled:
            raise ValueError(DAMAGED)
    return heaps


def _number(content: bytes, start: int, size: int) -> int:
    return int.from_bytes(content[start : start + size], "little")


def read_keras(content: bytes) -> ForeignWeights:
    """The weights in a model of Keras 3."""
    members = unpacked(content)
    if IN_KERAS_3 not in members:
        raise ValueError(f"it has no {IN_KERAS_3}")
    return read_hdf5(members[IN_KERAS_3])


def _of_keras(file: h5py.File, group: h5py.Group) -> ForeignWeights:
    """Kernels are (height, width, in, out), or (out, in, height, width) in Theano's ordering."""
    arrays, named = dict(stored_arrays(group)), list(_names(group))
    missing = [name for name in named if name not in arrays]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    places = [each.attrs for each in (file, group)]
    backend = next((str(_text(at["backend"])) for at in places if "backend" in at), "")
    layouts = [KERAS, KERAS_CHANNELS_FIRST]
    if backend == "theano":
        layouts = [replace(layout, flipped=True) for layout in layouts]
    remarks = () if backend else (NO_BACKEND,)
    ordered = {name: arrays[name] for name in named}
    return ForeignWeights("Keras file", as_float32(ordered), layouts, remarks=remarks)


def _names(group: h5py.Group) -> Iterator[str]:
    """The paths of the arrays, in the order of the layers."""
    for layer in map(_text, group.attrs[OF_KERAS]):
        if not _is_group(group, layer):
            raise ValueError(f"the layer {layer} is missing")
        for name in map(_text, group[layer].attrs.get("weight_names", [])):
            yield f"{layer}/{name}"


def _is_group(group: h5py.Group, name: str) -> bool:
    """Whether ``name`` is a group in ``group`` itself: no link is followed."""
    is_here = isinstance(group.get(name, getlink=True), h5py.HardLink)
    return is_here and isinstance(group[name], h5py.Group)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
