"""The two matrix products of a convolution's backward, for the weights and for the input.

``convolution.py``, which calls them piece by piece, has their derivation.
"""

from __future__ import annotations

import numpy as np

from distcnn.nn.geometry import Geometry
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.layer import Array


class WeightGradient:
    """dU, the sum over all rows of G V^T, in ``total`` (P, kh*C*J, O): fill it with 0, then ``add``
    each piece.
    """

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        geometry, rows = blocking.geometry, blocking.most_outputs
        points, filters = blocking.tiling.points, geometry.filters
        terms = geometry.kernel[0] * geometry.channels * blocking.tiling.depth
        self.total = buffers.zeros((points, terms, filters))
        self._of_piece = buffers.zeros((points, terms, filters))
        self._of_rows = buffers.zeros((points, rows, terms, filters))
        self._transposed = None
        if blocking.tiling.is_winograd:  # small products, where BLAS takes five times the copy
            self._transposed = buffers.zeros((points, rows, blocking.columns, filters))

    def add(self, piece: Piece, grad_products: Array) -> None:
        """Add a piece, whose rows of dM are ``grad_products``.

        As the transpose of V G^T: with the long side K as rows, BLAS takes about 0.9 of the time.
        """
        transposed, of_rows = grad_products.swapaxes(2, 3), self._of_rows[:, : piece.height]
        if self._transposed is not None:
            np.copyto(self._transposed[:, : piece.height], transposed)
            transposed = self._transposed[:, : piece.height]
        np.matmul(piece.windows, transposed, out=of_rows)
        np.add.reduce(of_rows, axis=1, out=self._of_piece)
        self.total += self._of_piece


class InputGradient:
    """dV, the rows of one piece after another.

    Row h of V is row i of the kernel for the outputs r with r*stride + i = h. So every row of V
    that meets the kernel rows ``first, first + stride, ...`` is one product, with their weights
    stacked side by side, from the last to the first, as the outputs that they meet ascend.
    """

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        geometry, points = blocking.geometry, blocking.tiling.points
        depth = geometry.channels * blocking.tiling.depth
        kernel_height, stride = geometry.kernel[0], geometry.stride[0]
        heights = [len(range(first, kernel_height, stride)) for first in range(stride)]
        self._stride = stride
        self._stacks = [
            buffers.zeros((points, depth, height, geometry.filters)) for height in heights if height
        ]
        self._products = [
            self._product(row, heights[row % stride], geometry)
            for row in range(geometry.padded_height)
        ]
        self._rows = buffers.zeros((points, blocking.most_inputs, depth, blocking.columns))

    def _product(self, row: int, in_stack: int, geometry: Geometry) -> tuple[Array, slice]:
        """The weights that input row ``row`` meets, (P, C*J, any*O), and in which rows of G."""
        filters, last = geometry.filters, row // self._stride
        first = last - in_stack + 1  # the output that the last of the stack meets here
        start = max(first, 0)
        stop = max(min(last + 1, geometry.output_size[0]), start)
        stack = self._stacks[row % self._stride if in_stack else 0]
        weights = stack.reshape(*stack.shape[:2], -1)
        few = weights[:, :, (start - first) * filters : (stop - first) * filters]
        return few, slice(start * filters, stop * filters)

    def begin(self, weights: Array) -> None:
        """Take the weights U, (P, O, kh, C, J)."""
        for first, stack in enumerate(self._stacks):
            kernel_rows = weights[:, :, first :: self._stride][:, :, ::-1]
            side_by_side = kernel_rows.reshape(*kernel_rows.shape[:3], -1)
            np.copyto(stack, side_by_side.transpose(0, 3, 2, 1))

    def rows(self, piece: Piece, grad_products: Array) -> Array:
        """The rows of dV that ``piece`` completes, given dM (P, oh, O, T*N) up to there."""
        points, oh, filters, _ = grad_products.shape
        below_each_other = grad_products.reshape(points, oh * filters, -1)
        complete = piece.complete
        grad_rows = self._rows[:, : complete.stop - complete.start]
        for index, (weights, outputs) in enumerate(self._products[complete]):
            np.matmul(weights, below_each_other[:, outputs], out=grad_rows[:, index])
        return grad_rows
