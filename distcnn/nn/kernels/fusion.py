"""A convolution and the max pooling after it, with the ReLU after that if there is one, piece by
piece.

The convolution's output is the largest array of most networks. Pooled while a piece of it is in
the caches, it is never written to memory, nor is its gradient. The bits are those of one layer
after the other. ReLU is one more comparison of the pooling's, with 0. Each tile, and so each piece,
must hold whole windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distcnn.nn.geometry import Pair
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.pooling import WindowMax
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.layer import Array, Shape
from distcnn.spans import BACKWARD, FORWARD, Span


@dataclass(frozen=True)
class Pooling:
    """A max pooling after a convolution, its windows side by side, and what comes after it."""

    window: Pair  # (height, width)
    name: str  # the layer's, for its spans
    rectify: bool  # a ReLU follows, which is computed with it
    flattened: bool  # a Flatten follows after that: the result is stored in its order

    def covers(self, height: int, width: int) -> bool:
        """Whether the windows cover images of this size, with no rest."""
        return height % self.window[0] == width % self.window[1] == 0


class FusedPool:
    """An epilogue (``convolution.py``): pools the output (O, oh, ow, N) of a convolution, of which
    each piece is in ``tiled``.
    """

    def __init__(
        self, pooling: Pooling, shape: Shape, tiled: Mapping[Piece, Array], buffers: Buffers
    ) -> None:
        filters, oh, ow, count = shape
        pooled = filters, oh // pooling.window[0], ow // pooling.window[1], count
        self.result = buffers.zeros(pooled) if pooling.flattened else buffers.images(pooled)
        self._pieces = {
            piece: PooledPiece(pixels, piece, pooling, self.result, buffers)
            for piece, pixels in tiled.items()
        }
        self._forward = Span(FORWARD, layer=pooling.name)
        self._backward = Span(BACKWARD, layer=pooling.name)

    def take(self, piece: Piece) -> None:
        with self._forward:
            self._pieces[piece].forward()

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output

    def give_gradient(self, piece: Piece) -> None:
        with self._backward:
            self._pieces[piece].backward(self._grad_output)


class PooledPiece:
    """The pooling of one piece, whose pixels are ``tiled`` (m, C, rows, T, N): pixels of the same
    offset in their windows are next to each other.

    A tile holds m/w windows of width w, so the maxima are tiled too, (m/w, C, rows of windows, T,
    N): they are plain images if a tile holds one window.
    """

    def __init__(
        self, tiled: Array, piece: Piece, pooling: Pooling, output: Array, buffers: Buffers
    ) -> None:
        height, width = pooling.window
        rows, columns = _divided(piece.output_rows, height), _divided(piece.output_columns, width)
        self._of_output = slice(None), rows, columns, piece.images
        self._output = output[self._of_output]
        windows = tiled.reshape(-1, width, *tiled.shape[1:])
        self._pixels = [windows[:, j, :, i::height] for i in range(height) for j in range(width)]
        self._is_tiled = len(windows) > 1
        largest = self._output[np.newaxis]
        if self._is_tiled:
            largest = buffers.scratch("largest", self._pixels[0])
        self._max = WindowMax(largest, height * width, buffers, pooling.rectify)
        self._grads = buffers.scratch("grads", self._pixels[0])

    def forward(self) -> None:
        """From pixels to the output."""
        self._max.find_largest(self._pixels)
        if self._is_tiled:
            copy_tiles(self._output, self._max.largest, to_images=True)

    def backward(self, grad_output: Array) -> None:
        """Overwrite the pixels with their gradients, given that of the whole output."""
        grads = grad_output[self._of_output]
        if self._is_tiled:
            copy_tiles(grads, self._grads, to_images=False)
            grads = self._grads
        else:
            grads = grads[np.newaxis]
        self._max.give_to_winners(grads, self._pixels)


def _divided(span: slice, by: int) -> slice:
    return slice(span.start // by, span.stop // by)
