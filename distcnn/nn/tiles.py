"""Rows of images as tiles: views and copies that filtering along the width needs (``distcnn.nn.filtering``)."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from distcnn.nn.layer import Array
from distcnn.nn.windows import windows_view


class Shifts:
    """``[c, j, h, k, t, n] = x[c, h, (t*outputs + k)*step + j, n]``, a view, made once for each array that comes: that takes its time."""

    def __init__(self, shifts: int, outputs: int, step: int, tiles: int) -> None:
        self._shifts, self._outputs, self._step, self._tiles = shifts, outputs, step, tiles
        self._views: dict[tuple[int, int], tuple[Array, Array]] = {}

    def of(self, x: Array, rows: slice, images: slice) -> Array:
        """The view of those rows of those images; blocks of rows do not overlap, nor do groups of images."""
        known, view = self._views.get((rows.start, images.start), (None, x))
        if known is not x:
            columns = self._outputs * self._tiles
            windows = windows_view(x[:, rows, :, images], (1, self._shifts), (1, self._step), (rows.stop - rows.start, columns))[:, 0]
            of_column = windows.strides[3]
            shape = (*windows.shape[:3], self._outputs, self._tiles, windows.shape[4])
            strides = (*windows.strides[:3], of_column, of_column * self._outputs, windows.strides[4])
            view = as_strided(windows, shape, strides, writeable=False)
            self._views[rows.start, images.start] = x, view
        return view


def copy_tiles(images: Array, tiled: Array, to_images: bool) -> None:
    """Copy ``images[c, h, t*m + k, n] = tiled[k, c, h, t, n]``, one way or the other; the last tile may reach beyond the images."""
    outputs = len(tiled)
    whole, rest = divmod(images.shape[2], outputs)
    pairs = []
    if whole:
        pairs.append((_tiled(images, outputs, whole).swapaxes(0, 1), tiled[:, :, :, :whole]))
    if rest:
        pairs.append((images[:, :, whole * outputs :].transpose(2, 0, 1, 3), tiled[:rest, :, :, whole]))
    for of_images, of_tiles in pairs:
        if to_images:
            np.copyto(of_images, of_tiles)
        else:
            np.copyto(of_tiles, of_images)


def fold(shifted: Array, step: int, x: Array) -> None:
    """``x[c, h, t*step + j, n]`` = the sum of the ``shifted[j, c, h, t, n]`` that meet there."""
    shifts, tiles = len(shifted), shifted.shape[3]
    if shifts < step:
        x.fill(0)
    else:
        x[:, :, tiles * step :].fill(0)
        np.copyto(_tiled(x, step, tiles), shifted[:step].swapaxes(0, 1))
    for shift in range(0 if shifts < step else step, shifts):
        x[:, :, shift : shift + (tiles - 1) * step + 1 : step] += shifted[shift]


def _tiled(x: Array, step: int, tiles: int) -> Array:
    """``[c, j, h, t, n] = x[c, h, t*step + j, n]`` for j < step: the width cut into tiles, a view."""
    channels, height, _, count = x.shape
    return x[:, :, : tiles * step].reshape(channels, height, tiles, step, count).transpose(0, 3, 1, 2, 4)
