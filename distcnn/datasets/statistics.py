"""Mean and standard deviation of images, from sums of integers: exact in any order, and so the same
on any number of ranks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import Images

PIXELS_AT_ONCE = 2**17
"""Counting takes eight times their size."""


def pixel_sums(by_channel: Images) -> NDArray[np.int64]:
    """Sums of the pixels (n, C) and of their squares, (2, C): integers, so exact in any order and
    on any number of ranks.
    """
    values = np.arange(256, dtype=np.int64)
    counts = np.zeros((by_channel.shape[1], 256), np.int64)
    for start in range(0, len(by_channel), PIXELS_AT_ONCE):
        counts += [
            np.bincount(channel, minlength=256)
            for channel in by_channel[start : start + PIXELS_AT_ONCE].T
        ]
    return np.stack([counts @ values, counts @ np.square(values)])


def mean_and_std(
    sums: NDArray[np.int64], pixels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the pixels / 255, one per channel, from ``pixel_sums`` over
    ``pixels`` pixels.
    """
    mean = sums[0] / pixels
    variance = np.maximum(sums[1] / pixels - mean**2, 0)
    return mean / 255, np.sqrt(variance) / 255
