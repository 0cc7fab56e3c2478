"""Rows of images as tiles (``algorithms.py``): views and copies."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.layer import Array


class Shifts:
    """``[c, j, h, k, t, n] = x[c, h, (t*outputs + k)*step + j, n]``, a view. Making it takes time,
    so it is kept for as long as ``x`` is the same array.
    """

    def __init__(self, shifts: int, outputs: int, step: int, tiles: int) -> None:
        self._sizes, self._tiles = (shifts, outputs, step), tiles
        self._views: dict[Piece, tuple[Array, Array]] = {}

    def of(self, x: Array, piece: Piece) -> Array:
        """The view of those rows of ``x`` that are new in ``piece``."""
        known, view = self._views.get(piece, (None, x))
        if known is not x:
            view = self.view(x[:, piece.fresh, piece.input_columns, piece.images])
            self._views[piece] = x, view
        return view

    def view(self, rows: Array) -> Array:
        """The view of ``rows`` of images."""
        shifts, outputs, step = self._sizes
        channels, height, _, count = rows.shape
        by_channel, by_row, by_column, by_example = rows.strides
        by_output, by_tile = by_column * step, by_column * step * outputs
        shape = channels, shifts, height, outputs, self._tiles, count
        strides = by_channel, by_column, by_row, by_output, by_tile, by_example
        return as_strided(rows, shape, strides, writeable=False)


def copy_tiles(images: Array, tiled: Array, to_images: bool) -> None:
    """Copy ``images[c, h, t*m + k, n] = tiled[k, c, h, t, n]``, or back; tiles may reach beyond."""
    outputs = len(tiled)
    whole, rest = divmod(images.shape[2], outputs)
    as_tiles = _tiled(images, outputs, whole).transpose(3, 0, 1, 2, 4)
    pairs = [(as_tiles, tiled[:, :, :, :whole])]
    if rest:
        last = images[:, :, whole * outputs :].transpose(2, 0, 1, 3)
        pairs.append((last, tiled[:rest, :, :, whole]))
    for image_part, tiled_part in pairs:
        if to_images:
            np.copyto(image_part, tiled_part)
        else:
            np.copyto(tiled_part, image_part)


def fold(pixels: Array, step: int, x: Array, shared: int) -> None:
    """Add up overlapping tiles: ``x[c, h, t*step + j, n]`` becomes the sum of the ``pixels[c, h, t,
    j, n]`` that meet there. The first ``shared`` columns of ``x`` are added to, not overwritten.

    ``shared`` is 0, or the number of columns that the first tile shares with one to its left.
    """
    tiles, count = pixels.shape[2:4]
    overlap, last = count - step, (tiles - 1) * step
    if not 0 <= overlap <= step:
        x[:, :, shared:].fill(0)
        add_tiles(pixels, step, x)
        return
    # No more than two tiles meet: every column is written once.
    whole, first = _tiled(x, step, tiles), x[:, :, :overlap]
    if shared:
        first += pixels[:, :, 0, :overlap]
    else:
        np.copyto(first, pixels[:, :, 0, :overlap])
    np.copyto(whole[:, :, :-1, overlap:], pixels[:, :, :-1, overlap:step])
    np.add(pixels[:, :, :-1, step:], pixels[:, :, 1:, :overlap], out=whole[:, :, 1:, :overlap])
    np.copyto(x[:, :, last + overlap : last + count], pixels[:, :, -1, overlap:])
    x[:, :, last + count :].fill(0)


def add_tiles(pixels: Array, step: int, x: Array) -> None:
    """Add ``pixels[c, h, t, j, n]`` to ``x[c, h, t*step + j, n]``."""
    tiles, count = pixels.shape[2:4]
    for j in range(count):
        columns = x[:, :, j::step][:, :, :tiles]
        columns += pixels[:, :, :, j]


def _tiled(x: Array, step: int, tiles: int) -> Array:
    """``[c, h, t, j, n] = x[c, h, t*step + j, n]`` for j < step, a view."""
    channels, height, _, count = x.shape
    return x[:, :, : tiles * step].reshape(channels, height, tiles, step, count)
