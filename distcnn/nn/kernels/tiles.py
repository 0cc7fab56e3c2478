"""Rows of images as tiles: views and copies for im2col, Winograd and max pooling
(``distcnn.nn.kernels.algorithms``).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from distcnn.nn.geometry import windows_view
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.layer import Array


class Shifts:
    """``[c, j, h, k, t, n] = x[c, h, (t*outputs + k)*step + j, n]``, a view. Making it takes time,
    so it is kept for as long as ``x`` is the same array.
    """

    def __init__(self, shifts: int, outputs: int, step: int, tiles: int) -> None:
        self._shifts, self._outputs, self._step, self._tiles = shifts, outputs, step, tiles
        self._views: dict[Piece, tuple[Array, Array]] = {}

    def of(self, x: Array, piece: Piece) -> Array:
        """The view of those rows of ``x`` that are new in ``piece``."""
        known, view = self._views.get(piece, (None, x))
        if known is not x:
            columns, fresh = self._outputs * self._tiles, piece.block.fresh
            of_piece = x[:, fresh, piece.input.columns, piece.input.images]
            windows = windows_view(
                of_piece, (1, self._shifts), (1, self._step), (fresh.stop - fresh.start, columns)
            )[:, 0]
            *others, of_column, of_example = windows.strides
            shape = (*windows.shape[:3], self._outputs, self._tiles, windows.shape[4])
            strides = (*others, of_column, of_column * self._outputs, of_example)
            view = as_strided(windows, shape, strides, writeable=False)
            self._views[piece] = x, view
        return view


def copy_tiles(images: Array, tiled: Array, to_images: bool) -> None:
    """Copy ``images[c, h, t*m + k, n] = tiled[k, c, h, t, n]``, one way or the other; the last tile
    may reach beyond the images.
    """
    outputs = len(tiled)
    whole, rest = divmod(images.shape[2], outputs)
    pairs = []
    if whole:
        as_tiles = _tiled(images, outputs, whole).transpose(3, 0, 1, 2, 4)
        pairs.append((as_tiles, tiled[:, :, :, :whole]))
    if rest:
        last = images[:, :, whole * outputs :].transpose(2, 0, 1, 3)
        pairs.append((last, tiled[:rest, :, :, whole]))
    for of_images, of_tiles in pairs:
        if to_images:
            np.copyto(of_images, of_tiles)
        else:
            np.copyto(of_tiles, of_images)


def fold(pixels: Array, step: int, x: Array, held: int = 0) -> None:
    """Add up overlapping tiles: ``x[c, h, t*step + j, n]`` becomes the sum of the ``pixels[c, h, t,
    j, n]`` that meet there, and of what the first ``held`` columns of ``x`` hold.

    ``held`` is 0, or the number of columns that the first tile shares with one to its left.
    """
    tiles, count = pixels.shape[2:4]
    overlap = count - step
    if 0 <= overlap <= step:
        _fold_pairs(pixels, step, x, bool(held))
        return
    x[:, :, held:].fill(0)
    for first in range(0, count, step):
        few = pixels[:, :, :, first : first + step]
        width = few.shape[3]
        whole = tiles if width == step else tiles - 1  # x may end short of the last tile's step
        columns = _tiled(x[:, :, first:], step, whole)[:, :, :, :width]
        columns += few[:, :, :whole]
        if whole < tiles:
            rest = x[:, :, first + whole * step :][:, :, :width]
            rest += few[:, :, whole]


def _fold_pairs(pixels: Array, step: int, x: Array, add: bool) -> None:
    """Where no more than two tiles meet: every column is written once."""
    tiles, count = pixels.shape[2:4]
    overlap, last = count - step, (tiles - 1) * step
    whole, first = _tiled(x, step, tiles), x[:, :, :overlap]
    if add:
        first += pixels[:, :, 0, :overlap]
    else:
        np.copyto(first, pixels[:, :, 0, :overlap])
    np.copyto(whole[:, :, :-1, overlap:], pixels[:, :, :-1, overlap:step])
    np.add(pixels[:, :, :-1, step:], pixels[:, :, 1:, :overlap], out=whole[:, :, 1:, :overlap])
    np.copyto(x[:, :, last + overlap : last + count], pixels[:, :, -1, overlap:])
    x[:, :, last + count :].fill(0)


def _tiled(x: Array, step: int, tiles: int) -> Array:
    """``[c, h, t, j, n] = x[c, h, t*step + j, n]`` for j < step, a view."""
    channels, height, _, count = x.shape
    return x[:, :, : tiles * step].reshape(channels, height, tiles, step, count)
