"""How many examples a window may hold within a memory limit, and where shards are cut into windows.

See ``distcnn.datasets.streaming`` for what windows are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import DatasetInfo
from distcnn.errors import InputError
from distcnn.system.wording import counted

MIB = 2**20
LABEL_BYTES = INDEX_BYTES = 8
LEDGER_BYTES = 2
"""Per training example, to count how often it was used."""
DRAWING_BYTES = 24
"""Per example of the one window whose order is being drawn."""


def window_examples(info: DatasetInfo, num_shards: int, memory_mib: float) -> int:
    """How many examples a window may hold: whole chunks of the training images, or a whole shard.

    Raises:
        InputError: When not even one chunk fits, with the least limit that works.
    """
    train, test = info.examples["train"], info.examples["test"]
    chunk, longest_shard = info.chunk_examples["train"], -(-train // num_shards)
    example = info.image_bytes + LABEL_BYTES
    # Independent of the window: the ledger, and in HDF5 one chunk as stored and as decoded.
    fixed = LEDGER_BYTES * train + 2 * info.image_bytes * max(info.chunk_examples.values())
    available = math.floor(memory_mib * MIB) - fixed
    everything = train * (example + INDEX_BYTES) + longest_shard * DRAWING_BYTES
    everything += 2 * min(longest_shard, test) * example
    if everything <= available:
        return longest_shard
    # Of each shard and of the test set, the current window and the next one.
    per_example = 2 * example * (num_shards + 1) + INDEX_BYTES * num_shards + DRAWING_BYTES
    fitting = available // per_example
    least = min(chunk, longest_shard)
    if fitting < least:
        needed = math.ceil((fixed + least * per_example) / MIB * 10) / 10
        raise InputError(
            f"--data-memory is {memory_mib:g}: this image set needs at least {needed:g} MiB (two"
            f" windows of one chunk, {counted(chunk, 'image')}, for each of"
            f" {counted(num_shards, 'shard')}); raise it, write smaller chunks, or use fewer shards"
            " (--num-shards, which changes the bits)"
        )
    return fitting if fitting >= longest_shard else fitting // chunk * chunk


def window_bounds(span: range, length: int, chunk: int) -> NDArray[np.int64]:
    """Where the examples ``span`` are cut into windows of at most ``length``.

    Windows end where chunks of the file end, so that no chunk is read for two windows; windows
    shorter than a chunk end anywhere.

    Returns:
        Indices in ``span``: [0, ..., n].
    """
    if len(span) <= length:
        return np.unique([0, len(span)])
    unit = chunk if length >= chunk else 1
    whole = length // unit * unit
    cuts = np.arange(span.start // unit * unit + whole, span.stop, whole) - span.start
    return np.concatenate([[0], cuts, [len(span)]])
