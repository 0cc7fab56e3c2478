"""How long the windows are that a limit of memory allows, and where a run of examples is cut into
them.

The length hangs on the limit, the image set and the number of shards, never on the number of ranks:
it is what one rank could keep that owned all shards. So n ranks keep about an n-th of the limit
each, and any number of them trains in the same order.
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
"""For each training example, the count of how often it was used."""
DRAWING_BYTES = 24
"""For each example of the one window whose order is being drawn."""


def window_examples(info: DatasetInfo, num_shards: int, memory_mib: float) -> int:
    """How many examples a window may hold: whole chunks of the training images, or no fewer than a
    shard has.

    ``InputError``, with the least limit that works, when not even one chunk fits.
    """
    train, test = info.examples["train"], info.examples["test"]
    chunk, longest_shard = info.chunk_examples["train"], -(-train // num_shards)
    example = info.image_bytes + LABEL_BYTES
    # What does not grow with a window: the ledger, and in HDF5 a chunk as it is stored and as it is
    # decoded.
    fixed = LEDGER_BYTES * train + 2 * info.image_bytes * max(info.chunk_examples.values())
    for_windows = math.floor(memory_mib * MIB) - fixed
    whole = (
        train * (example + INDEX_BYTES)
        + 2 * min(longest_shard, test) * example
        + longest_shard * DRAWING_BYTES
    )
    if whole <= for_windows:
        return longest_shard
    # Of each shard, and of what is tested, the window in use and the one that is being read.
    each = 2 * example * (num_shards + 1) + INDEX_BYTES * num_shards + DRAWING_BYTES
    fitting = for_windows // each
    least = min(chunk, longest_shard)
    if fitting < least:
        needed = math.ceil((fixed + least * each) / MIB * 10) / 10
        raise InputError(
            f"--data-memory is {memory_mib:g}: it must be at least {needed:g} MiB here: two windows"
            f" of a chunk ({counted(chunk, 'image')}) of each of {counted(num_shards, 'shard')}; or"
            " make smaller chunks, or fewer shards (--num-shards, which changes the bits)"
        )
    return fitting if fitting >= longest_shard else fitting // chunk * chunk


def window_bounds(span: range, length: int, chunk: int) -> NDArray[np.int64]:
    """Where the examples ``span`` are cut into windows of at most ``length``: indices in ``span``,
    [0, ..., n].

    At whole chunks of the file, so that no chunk is read for two windows; windows shorter than a
    chunk are cut anywhere. One window where ``span`` is no longer than that.
    """
    if len(span) <= length:
        return np.unique([0, len(span)])
    unit = chunk if length >= chunk else 1
    whole = length // unit * unit
    cuts = np.arange(span.start // unit * unit + whole, span.stop, whole) - span.start
    return np.concatenate([[0], cuts, [len(span)]])
