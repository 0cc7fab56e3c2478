"""Epilogues of a convolution (``steps.py``) in portable arithmetic.

Pieces are in binary64; what layers pass to each other has the type of the network. The bias, and
the ReLU after a pooling, are applied to a piece when it is pooled, and so small; for the same
reason gradients are rounded to their grid, and summed for the bias, before they are unpooled.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.fusion import Pooling, pixels_of_windows, pooled_index, pooled_result
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


class _Rounding:
    """What both epilogues do with the bias and the gradient."""

    def __init__(self, result: Array, bias_type: DTypeLike) -> None:
        self.result = result
        self.grad_bias = np.zeros(len(result))
        self._bias = np.zeros((len(result), 1, 1, 1), bias_type)

    def begin_forward(self, bias: Array) -> None:
        self._bias[...] = bias.reshape(-1, 1, 1, 1)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output
        self.grad_bias.fill(0)

    def round_with(self, anchor: float) -> None:
        self._anchor = anchor

    def _round(self, grads: Array) -> None:
        """Round ``grads`` (m, O, rows, T, N), and add them to the bias's gradient."""
        round_by(self._anchor, grads, grads)
        self.grad_bias += grads.sum(axis=(0, 2, 3, 4))


class ExactWholeImages(_Rounding):
    """The output as whole images, copied from the tiles and back."""

    def __init__(self, algorithm: Algorithm, images: Array) -> None:
        super().__init__(images, np.float64)
        self._algorithm = algorithm

    def take(self, piece: Piece) -> None:
        tiled = self._algorithm.tiled(piece)
        tiled += self._bias
        copy_tiles(self.result[piece.output_index], tiled, to_images=True)

    def give_gradient(self, piece: Piece) -> None:
        tiled, grads = self._algorithm.tiled(piece), self._grad_output[piece.output_index]
        if grads.shape[2] % len(tiled):
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        copy_tiles(grads, tiled, to_images=False)
        self._round(tiled)


class ExactFusedPool(_Rounding):
    """The output pooled, and rectified if a ReLU follows the pooling (``FusedPool``). The windows
    of a piece are compared in the network's type: half the bytes of binary64 take half the time.
    Gradients have no more bits than float32, so on their grid they are exact in it too.
    """

    def __init__(
        self,
        pooling: Pooling,
        shape: Shape,
        tiled: Mapping[Piece, Array],
        buffers: Buffers,
        inner: Buffers,
    ) -> None:
        super().__init__(pooled_result(pooling, shape, buffers), buffers.dtype)
        self._forward = Span(FORWARD, layer=pooling.name)
        self._backward = Span(BACKWARD, layer=pooling.name)
        self._rectify = pooling.rectify
        self._pieces = {}
        for piece, exact in tiled.items():
            narrow = buffers.scratch("tiled", exact, buffers.dtype)
            pixels = pixels_of_windows(narrow, pooling.window)
            largest, grads = (buffers.scratch(use, pixels[0]) for use in ("largest", "grads"))
            rounded = inner.scratch("rounded", grads, inner.dtype)
            maximum = WindowMax(largest, len(pixels), buffers)
            is_positive = buffers.like(largest, np.bool_)
            index = pooled_index(piece, pooling.window)
            views = exact, narrow, pixels, maximum, is_positive, grads, rounded
            self._pieces[piece] = index, *views

    def take(self, piece: Piece) -> None:
        with self._forward:
            index, exact, narrow, pixels, maximum, is_positive, *_ = self._pieces[piece]
            np.copyto(narrow, exact, casting="same_kind")
            maximum.find_largest(pixels)
            largest = maximum.largest
            largest += self._bias
            if self._rectify:
                np.greater(largest, 0, out=is_positive)
                np.multiply(largest, is_positive, out=largest)
            copy_tiles(self.result[index], largest, to_images=True)

    def give_gradient(self, piece: Piece) -> None:
        with self._backward:
            index, exact, narrow, pixels, maximum, is_positive, *scratch = self._pieces[piece]
            grads, rounded = scratch
            copy_tiles(self._grad_output[index], grads, to_images=False)
            if self._rectify:
                np.multiply(grads, is_positive, out=grads)
            np.copyto(rounded, grads)
            self._round(rounded)
            np.copyto(grads, rounded, casting="same_kind")
            maximum.give_to_winners(grads, pixels)
            np.copyto(exact, narrow)
