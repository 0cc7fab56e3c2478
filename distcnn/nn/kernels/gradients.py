"""The two matrix products of a convolution's backward, for the weights and for the input.

``convolution.py``, which calls them piece by piece, has their derivation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distcnn.nn.geometry import Geometry
from distcnn.nn.kernels.algorithms import Algorithm
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.layer import Array, Shape


class WeightGradient:
    """dU, the sum over all rows of G V^T: ``begin``, ``add`` each piece, then ``total``.

    Attributes:
        total: (P, kh*C*J, O).
    """

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        geometry, rows = blocking.geometry, blocking.most_outputs
        points, filters = blocking.tiling.points, geometry.filters
        terms = geometry.kernel[0] * geometry.channels * blocking.tiling.depth
        self.total = buffers.zeros((points, terms, filters))
        self._of_piece = buffers.zeros((points, terms, filters))
        self._of_rows = buffers.zeros((points, rows, terms, filters))
        self._transposed = (
            buffers.zeros((points, rows, blocking.columns, filters))
            if blocking.tiling.is_winograd
            else None
        )

    def begin(self) -> None:
        """Begin with zero."""
        self.total.fill(0)

    def add(self, piece: Piece, grad_products: Array) -> None:
        """Add a piece, whose rows of dM are ``grad_products``.

        As the transpose of V G^T: with the long side K as rows, BLAS takes about 0.9 of the time.
        """
        transposed, of_rows = grad_products.swapaxes(2, 3), self._of_rows[:, : piece.height]
        if self._transposed is not None:  # small products, where BLAS takes five times the copy
            np.copyto(self._transposed[:, : piece.height], transposed)
            transposed = self._transposed[:, : piece.height]
        np.matmul(piece.windows, transposed, out=of_rows)
        np.add.reduce(of_rows, axis=1, out=self._of_piece)
        self.total += self._of_piece


class InputGradient:
    """The gradient of the padded input: ``begin``, then ``write`` all pieces in their order.

    Args:
        blocking: how the convolution is cut.
        algorithm: keeps dM, and transforms dV back.
        shape: of the padded input, (C, H, W, N).
        buffers: makes the arrays.

    Attributes:
        images: the gradient, of ``shape``.
    """

    def __init__(
        self, blocking: Blocking, algorithm: Algorithm, shape: Shape, buffers: Buffers
    ) -> None:
        geometry, points = blocking.geometry, blocking.tiling.points
        (kernel_height, kernel_width), (stride, stride_width) = geometry.kernel, geometry.stride
        depth = geometry.channels * blocking.tiling.depth
        self.images = buffers.images(shape)
        self._algorithm, self._stride = algorithm, stride
        self._shared_columns = max(kernel_width - stride_width, 0)
        self._gathers = list(plan_gathers(geometry))
        self._stacked = [
            buffers.zeros(
                (points, depth, len(range(first, kernel_height, stride)), geometry.filters)
            )
            for first in range(min(stride, kernel_height))
        ]
        self._grad_rows = buffers.zeros((points, blocking.most_inputs, depth, blocking.columns))

    def begin(self, weights: Array) -> None:
        """Stack the ``weights`` U: the W_i that one row meets side by side, from the last to the
        first, as the rows of outputs that they meet ascend.
        """
        for first, stacked in enumerate(self._stacked):
            kernel_rows = weights[:, :, first :: self._stride][:, :, ::-1]
            side_by_side = kernel_rows.reshape(*kernel_rows.shape[:3], -1)
            np.copyto(stacked, side_by_side.transpose(0, 3, 2, 1))

    def write(self, piece: Piece) -> None:
        """Write the rows that ``piece`` completes: dV, transformed back."""
        complete, (columns, images) = piece.block.complete, piece.input
        grad_products = self._algorithm.grad_products
        points, oh, filters, _ = grad_products.shape
        below_each_other = grad_products.reshape(points, oh * filters, -1)
        grad_rows = self._grad_rows[:, : complete.stop - complete.start]
        for gather in self._gathers[complete]:
            row, outputs = grad_rows[:, gather.row - complete.start], gather.outputs
            if outputs.start == outputs.stop:
                row.fill(0)
                continue
            weights = self._stacked[gather.stack].reshape(points, row.shape[1], -1)
            kernel_rows = _times(gather.kernel_rows, filters)
            np.matmul(
                weights[:, :, kernel_rows], below_each_other[:, _times(outputs, filters)], out=row
            )
        # What the strip to the left wrote is added to.
        held = self._shared_columns if columns.start else 0
        grad_x = self.images[:, complete, columns, images]
        self._algorithm.transform_input_gradient(grad_rows, grad_x, held)


@dataclass(frozen=True)
class Gather:
    """Which outputs meet input row ``row``, and with which of the kernel rows ``stack, stack +
    stride, ...``, counted from the last.
    """

    row: int
    stack: int
    kernel_rows: slice
    outputs: slice


def plan_gathers(geometry: Geometry) -> Iterator[Gather]:
    """One for each row of the input."""
    kernel_height, stride, oh = geometry.kernel[0], geometry.stride[0], geometry.output_size[0]
    for row in range(geometry.padded_height):
        stack = row % stride
        in_stack = len(range(stack, kernel_height, stride))
        first = row // stride - in_stack + 1  # the output that the stack's last row meets here
        start = max(first, 0)
        stop = max(min(row // stride + 1, oh), start)
        yield Gather(row, stack, slice(start - first, stop - first), slice(start, stop))


def _times(span: slice, by: int) -> slice:
    return slice(span.start * by, span.stop * by)
