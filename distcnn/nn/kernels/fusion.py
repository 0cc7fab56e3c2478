"""A convolution and the max pooling after it, with the ReLU after that if there is one, piece by
piece.

The convolution's output is the largest array of most networks. Pooled while a piece of it is in
the caches, it is never written to memory, nor is its gradient. The bits are those of one layer
after the other: the same products, sums and comparisons, of the same numbers. ReLU is one more
comparison of the pooling's, with 0.

``FusedPool`` is the ``Output`` of a ``ConvKernel`` (``convolution.py``), which calls it; each piece
must hold whole windows (``ConvKernel.holds_windows``).
"""

from __future__ import annotations

import numpy as np

from distcnn.nn.geometry import Pair
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.convolution import ConvKernel
from distcnn.nn.kernels.pooling import WindowMax
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.layer import Array
from distcnn.spans import BACKWARD, FORWARD, Span


class FusedPool:
    """Pools what ``conv`` hands on.

    Args:
        conv: the convolution.
        window: of the pooling: (height, width).
        name: the pooling layer's, for its spans.
        buffers: makes the arrays.
        flattened: store the result in the order of a Flatten that follows.
        rectify: apply a ReLU after the pooling.
    """

    def __init__(
        self,
        conv: ConvKernel,
        window: Pair,
        name: str,
        buffers: Buffers,
        flattened: bool,
        rectify: bool,
    ) -> None:
        filters, oh, ow, count = conv.output_shape
        shape = filters, oh // window[0], ow // window[1], count
        self.result = buffers.zeros(shape) if flattened else buffers.images(shape)
        self._pieces = {
            piece: PooledPiece(conv.tiled(piece), piece, window, self.result, buffers, rectify)
            for piece in conv.pieces
        }
        self._forward, self._backward = Span(FORWARD, layer=name), Span(BACKWARD, layer=name)

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
        self,
        tiled: Array,
        piece: Piece,
        window: Pair,
        output: Array,
        buffers: Buffers,
        rectify: bool,
    ) -> None:
        height, width = window
        rows, columns = _divided(piece.block.outputs, height), _divided(piece.output.columns, width)
        self._part = slice(None), rows, columns, piece.output.images
        self._output = output[self._part]
        windows = tiled.reshape(-1, width, *tiled.shape[1:])
        self._pixels = [windows[:, j, :, i::height] for i in range(height) for j in range(width)]
        self._is_tiled = len(windows) > 1
        largest = (
            buffers.scratch("largest", self._pixels[0])
            if self._is_tiled
            else self._output[np.newaxis]
        )
        self._max = WindowMax(largest, height * width, buffers, rectify)
        self._grads = buffers.scratch("grads", self._pixels[0])

    def forward(self) -> None:
        """From pixels to the output."""
        self._max.find_largest(self._pixels)
        if self._is_tiled:
            copy_tiles(self._output, self._max.largest, to_images=True)

    def backward(self, grad_output: Array) -> None:
        """Overwrite the pixels with their gradients, given that of the whole output."""
        grads = grad_output[self._part]
        if self._is_tiled:
            copy_tiles(grads, self._grads, to_images=False)
            self._max.give_to_winners(self._grads, self._pixels)
        else:
            self._max.give_to_winners(grads[np.newaxis], self._pixels)


def _divided(span: slice, by: int) -> slice:
    return slice(span.start // by, span.stop // by)
