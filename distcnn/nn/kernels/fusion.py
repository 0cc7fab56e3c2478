"""A convolution, the max pooling after it, and the ReLU after that if there is one, piece by piece.

The convolution's output is the largest array of most networks. Pooled while a piece of it is in
the caches, it is never written to memory, nor is its gradient. The bits are those of one layer
after the other. ReLU is one more comparison of the pooling's, with 0. Each tile, and so each piece,
must hold whole windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.pooling import WindowMax
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.layer import Array, Pair, Shape
from distcnn.spans import BACKWARD, FORWARD, Span


@dataclass(frozen=True)
class Pooling:
    """A max pooling after a convolution, its windows side by side, and what comes after it."""

    window: Pair  # (height, width)
    name: str  # the layer's, for its spans
    rectify: bool  # a ReLU follows, which is computed with it
    flattened: bool  # a Flatten follows after that: the result is stored in its order


class FusedPool:
    """An epilogue (``convolution.py``): pools the output (O, oh, ow, N) of a convolution, of which
    each piece is in ``tiled`` (m, O, rows, T, N).

    Pixels of the same offset in their windows are next to each other there. A tile holds m/w
    windows of width w, so the maxima are tiled too, (m/w, O, rows of windows, T, N): they are plain
    images if a tile holds one window.
    """

    def __init__(
        self, pooling: Pooling, shape: Shape, tiled: Mapping[Piece, Array], buffers: Buffers
    ) -> None:
        (filters, oh, ow, count), (height, width) = shape, pooling.window
        pooled = filters, oh // height, ow // width, count
        self.result = buffers.zeros(pooled) if pooling.flattened else buffers.images(pooled)
        self._forward = Span(FORWARD, layer=pooling.name)
        self._backward = Span(BACKWARD, layer=pooling.name)
        self._pieces = {}
        for piece, whole in tiled.items():
            rows = _divided(piece.output_rows, height)
            columns = _divided(piece.output_columns, width)
            output_index = slice(None), rows, columns, piece.images
            windows = whole.reshape(-1, width, *whole.shape[1:])
            pixels = [windows[:, j, :, i::height] for i in range(height) for j in range(width)]
            largest, grads = self.result[output_index][np.newaxis], None
            if len(windows) > 1:
                largest, grads = (buffers.scratch(use, pixels[0]) for use in ("largest", "grads"))
            maximum = WindowMax(largest, len(pixels), buffers, pooling.rectify)
            self._pieces[piece] = output_index, pixels, maximum, grads

    def take(self, piece: Piece) -> None:
        with self._forward:
            output_index, pixels, maximum, grads = self._pieces[piece]
            maximum.find_largest(pixels)
            if grads is not None:
                copy_tiles(self.result[output_index], maximum.largest, to_images=True)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output

    def give_gradient(self, piece: Piece) -> None:
        with self._backward:
            output_index, pixels, maximum, grads = self._pieces[piece]
            if grads is None:
                grads = self._grad_output[output_index][np.newaxis]
            else:
                copy_tiles(self._grad_output[output_index], grads, to_images=False)
            maximum.give_to_winners(grads, pixels)


def _divided(span: slice, by: int) -> slice:
    return slice(span.start // by, span.stop // by)
