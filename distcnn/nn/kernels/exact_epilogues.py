"""Epilogues of a convolution (``steps.py``) in portable arithmetic, which round the gradient of the
output to its grid. It has so few bits that this is done in the network's type.
"""

from typing import Protocol

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.kernels.convolution import WholeImages
from distcnn.nn.kernels.fusion import FusedPool, Pooling
from distcnn.nn.kernels.steps import Epilogue
from distcnn.nn.layer import Array, Shape
from distcnn.portable.grids import anchor, bound_of, parts, precision_of, round_by


class ExactEpilogue(Epilogue, Protocol):
    """``Epilogue``, which also rounds the gradient."""

    def round_gradient(self, bits: int) -> float:
        """Round the gradient that ``begin_backward`` took to its grid of ``bits``, now or piece by
        piece; return its bound.
        """


class ExactWholeImages(WholeImages):
    """The output as whole images, whose gradient is rounded piece by piece."""

    def round_gradient(self, bits: int) -> float:
        bound = bound_of(self._grad_output)
        self._anchor = anchor(bound, bits, precision_of(self.result.dtype))  # that of pieces
        return bound

    def give_gradient(self, piece: Piece) -> None:
        super().give_gradient(piece)
        tiled = self._algorithm.tiled(piece)
        round_by(self._anchor, tiled, tiled)


class ExactFusedPool(FusedPool):
    """The output pooled. The gradient is rectified, if a ReLU follows the pooling, and rounded
    before it is unpooled: it is smaller.
    """

    def __init__(
        self, pooling: Pooling, shape: Shape, tiled: dict[Piece, Array], buffers: Buffers
    ) -> None:
        super().__init__(pooling, shape, tiled, buffers)
        self._rectify = pooling.rectify
        self._grads = buffers.like(self.result)
        self._is_positive = buffers.like(self.result, np.bool_)

    def begin_backward(self, grad_output: Array) -> None:
        if self._rectify:
            np.greater(self.result, 0, out=self._is_positive)
            np.multiply(grad_output, self._is_positive, out=self._grads)
        else:
            np.copyto(self._grads, grad_output)
        super().begin_backward(self._grads)

    def round_gradient(self, bits: int) -> float:
        bound = bound_of(self._grads)
        c = anchor(bound, bits, precision_of(self._grads.dtype))
        for part in parts(self._grads):
            round_by(c, part, part)
        return bound
