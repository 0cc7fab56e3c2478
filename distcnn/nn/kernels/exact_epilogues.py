"""Epilogues of a convolution (``steps.py``) in portable arithmetic.

Pieces are in binary64, what comes and goes between layers has the type of the network. The bias,
and the ReLU after a pooling, are applied to a piece when it is pooled, and so small; for the same
reason gradients are rounded to their grid, and summed for the bias, before they are unpooled.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.fusion import Pooling, pixels_of_windows, pooled_index
from distcnn.nn.kernels.pooling import WindowMax
from distcnn.nn.kernels.steps import Algorithm, Epilogue
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.layer import Array, Shape
from distcnn.portable.grids import round_by
from distcnn.spans import BACKWARD, FORWARD, Span


class ExactEpilogue(Epilogue, Protocol):
    """``Epilogue``, which also adds the bias and rounds the gradient."""

    grad_bias: NDArray[np.float64]
    """The exact sum of the rounded gradients of all pieces so far, (O,)."""

    def begin_forward(self, bias: Array) -> None:
        """Take the bias (O,) for the pieces that follow."""

    def round_with(self, anchor: float) -> None:
        """Take the anchor to round the gradients of the pieces that follow."""


class _WithBias:
    """What both epilogues do with the bias."""

    def begin_forward(self, bias: Array) -> None:
        self._bias = bias.astype(np.float64).reshape(-1, 1, 1, 1)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output
        self.grad_bias = np.zeros(self._bias.size)

    def round_with(self, anchor: float) -> None:
        self._anchor = anchor

    def _round(self, grads: Array) -> None:
        """Round ``grads`` (m, O, rows, T, N), and add them to the bias's gradient."""
        round_by(self._anchor, grads, grads)
        self.grad_bias += grads.sum(axis=(0, 2, 3, 4))


class ExactWholeImages(_WithBias):
    """The output as whole images, copied from the tiles and back."""

    def __init__(self, algorithm: Algorithm, images: Array) -> None:
        self._algorithm, self.result = algorithm, images

    def take(self, piece: Piece) -> None:
        tiled = self._algorithm.tiled(piece)
        tiled += self._bias
        copy_tiles(self.result[piece.output_index], tiled, to_images=True)

    def give_gradient(self, piece: Piece) -> None:
        tiled, images = self._algorithm.tiled(piece), self._grad_output[piece.output_index]
        if images.shape[2] % len(tiled):
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        copy_tiles(images, tiled, to_images=False)
        self._round(tiled)


class ExactFusedPool(_WithBias):
    """The output pooled, and rectified if a ReLU follows the pooling (``FusedPool``)."""

    def __init__(
        self,
        pooling: Pooling,
        shape: Shape,
        algorithm: Algorithm,
        pieces: Sequence[Piece],
        buffers: Buffers,
        inner: Buffers,
    ) -> None:
        (filters, oh, ow, count), (height, width) = shape, pooling.window
        pooled = filters, oh // height, ow // width, count
        self.result = buffers.zeros(pooled) if pooling.flattened else buffers.images(pooled)
        self._forward = Span(FORWARD, layer=pooling.name)
        self._backward = Span(BACKWARD, layer=pooling.name)
        self._rectify = pooling.rectify
        self._pieces = {}
        for piece in pieces:
            pixels = pixels_of_windows(algorithm.tiled(piece), pooling.window)
            largest, grads = (inner.scratch(use, pixels[0]) for use in ("largest", "grads"))
            maximum = WindowMax(largest, len(pixels), inner)
            is_positive = inner.like(largest, np.bool_)
            index = pooled_index(piece, pooling.window)
            self._pieces[piece] = index, pixels, maximum, is_positive, grads

    def take(self, piece: Piece) -> None:
        with self._forward:
            index, pixels, maximum, is_positive, _ = self._pieces[piece]
            maximum.find_largest(pixels)
            largest = maximum.largest
            largest += self._bias
            if self._rectify:
                np.maximum(largest, 0, out=largest)
                np.greater(largest, 0, out=is_positive)
            copy_tiles(self.result[index], largest, to_images=True)

    def give_gradient(self, piece: Piece) -> None:
        with self._backward:
            index, pixels, maximum, is_positive, grads = self._pieces[piece]
            copy_tiles(self._grad_output[index], grads, to_images=False)
            if self._rectify:
                grads *= is_positive
            self._round(grads)
            maximum.give_to_winners(grads, pixels)
