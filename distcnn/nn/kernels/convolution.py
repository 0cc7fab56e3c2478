"""2-D convolution (as everywhere in deep learning: a cross-correlation, the kernel is not turned).

Forward. With ``P`` the zero-padded input,

    y[o, r, s] = b[o] + sum over c, i, j of  w[o, c, i, j] * P[c, r*stride_h + i, s*stride_w + j]

Along the width, rows are filtered as ``distcnn.nn.kernels.algorithms`` says, by default unfolded
into kw shifted copies. Row h of all channels is then a matrix V[h] of C*kw rows and ow*N columns,
and the kh rows that one row of outputs needs lie one below the other in memory: they are one matrix
of K = C*kh*kw rows, and ``Y[r] = W V[r*stride_h ... r*stride_h + kh - 1] + b``. This is im2col
(Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
processing", 2006) without copying anything kh times.

Backward. Let G = dL/dY. Each w[o, k] meets V[k, q] in exactly the outputs Y[r][o, q], hence

    dL/dW = sum over r of G[r] V[r*stride_h ...]^T        dL/db[o] = sum over r, q of G[r][o, q]

and row h of the input is row i of the kernel for the outputs r with r*stride_h + i = h, so, W_i
being the weights of kernel row i,

    dL/dV[h] = sum over those (i, r) of  W_i^T G[r]

which is one product too, of the W_i side by side with the G[r] one below the other. The gradient of
the input is that, folded back along the width, without its border. (LeCun et al. 1998; Dumoulin and
Visin, "A guide to convolution arithmetic", 2016.)
"""

from __future__ import annotations

from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from distcnn.nn.convolution import Conv2d
from distcnn.nn.geometry import Geometry, Pair, output_size
from distcnn.nn.kernels.algorithms import Filtering, plan_filtering
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import (
    Group,
    Part,
    RowSizes,
    StripSizes,
    plan_blocks,
    plan_gathers,
    plan_parts,
    plan_together,
    windows_of_rows,
)
from distcnn.nn.layer import Array, Call, Shape, image_shape

BLOCK_BYTES = 768 * 1024
"""What a block of rows takes, in and out: it stays in a core's own cache (1 MiB, often) with the
weights beside it.
"""


class RowLayer(Protocol):
    """A layer that takes a convolution's output a block of rows at a time, the blocks by their
    number.
    """

    def forward_rows(self, block: int) -> None:
        """Take a block."""

    def backward_rows(self, block: int, grad_output: Array) -> None:
        """Write the gradient of a block where it lay, for ``grad_output`` of the whole output."""


class ConvKernel:
    """One convolution for one shape. ``pooled`` is the window of the max pooling that follows:
    blocks and tiles then hold whole windows.
    """

    def __init__(
        self, conv: Conv2d, input_shape: Shape, microbatch_size: int, buffers: Buffers, pooled: Pair
    ) -> None:
        channels, height, width = image_shape(conv, input_shape)
        self.in_channels, self.out_channels, self.pooled = channels, conv.out_channels, pooled
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self._buffers, dtype, self.count = buffers, buffers.dtype, microbatch_size
        self.size = output_size((height, width), self.kernel_size, self.stride, self.padding)
        (ph, pw), (kh, kw), (oh, ow), stride = (
            self.padding,
            self.kernel_size,
            self.size,
            self.stride[0],
        )
        geometry = Geometry(
            channels, self.out_channels, self.kernel_size, self.stride, self.size, microbatch_size
        )
        window = (
            self.pooled
            if all(size % side == 0 for size, side in zip(self.size, self.pooled, strict=True))
            else (1, 1)
        )
        whole = filtering = plan_filtering(geometry, buffers, window[1])
        row_bytes = _row_bytes(geometry, whole, dtype)
        images = microbatch_size
        if whole.images is None:
            tiles, images = plan_together(
                whole.tiles, microbatch_size, window[0] * row_bytes, BLOCK_BYTES
            )
            filtering = whole.strip(tiles, images)
            row_bytes = row_bytes * filtering.columns // whole.columns
        self._filtering = filtering
        self._images = filtering.images
        self._output_shape = (self.out_channels, *self.size, microbatch_size)

        padded_shape = (
            channels,
            height + 2 * ph,
            max(width + 2 * pw, whole.width),
            microbatch_size,
        )
        self._interior = (slice(None), slice(ph, ph + height), slice(pw, pw + width))
        self._padded = (
            buffers.images(padded_shape) if padded_shape[1:3] != (height, width) else None
        )
        self._grad_padded = buffers.images(padded_shape)

        filters, points = self.out_channels, filtering.points
        depth, columns = channels * filtering.depth, filtering.columns
        sizes = RowSizes(padded_shape[1], oh, kh, stride)
        self._blocks = list(plan_blocks(sizes, row_bytes, window[0], BLOCK_BYTES))
        self._gathers = list(plan_gathers(sizes))
        most_outputs = max(each.outputs.stop - each.outputs.start for each in self._blocks)
        most_inputs = max(
            each.stop - each.start
            for block in self._blocks
            for each in (block.fresh, block.complete)
        )
        filtering.plan_blocks(most_inputs, most_outputs)

        self._overlap = max(kw - self.stride[1], 0)
        strips = StripSizes(padded_shape[2], ow, self.stride[1], self._overlap)
        self._groups = []
        for of_input, of_output in plan_parts(
            strips, filtering.tiles * filtering.outputs, microbatch_size, images
        ):
            rows = buffers.zeros((points, padded_shape[1], depth, columns))
            self._groups.append(Group(of_input, of_output, rows, windows_of_rows(rows, sizes)))
        self._grad_rows = buffers.zeros((points, most_inputs, depth, columns))
        self._weights = buffers.zeros((points, filters, kh, channels, filtering.depth))
        stacks = [len(range(first, kh, stride)) for first in range(min(stride, kh))]
        self._stacked = [
            buffers.zeros((points, depth, kernel_rows, filters)) for kernel_rows in stacks
        ]
        self._turned = buffers.zeros(
            (points, most_outputs if filtering.small_products else 0, columns, filters)
        )
        self._grad_weights_of_rows = buffers.zeros((points, most_outputs, kh * depth, filters))
        self._grad_weights_of_block, self._grad_weights = (
            buffers.zeros((points, kh * depth, filters)) for _ in range(2)
        )
        self._ones = np.ones(columns, dtype)

    def forward(self, x: Array, call: Call) -> Array:
        self.forward_blocks(x, call)
        return self.images

    @property
    def images(self) -> Array:
        """The output, whole, made when it is first needed: fused with a pooling, it never is."""
        if self._images is None:
            self._images = self._buffers.images(self._output_shape)
        return self._images

    def forward_blocks(self, x: Array, call: Call, following: RowLayer | None = None) -> None:
        """Write ``images``, or give it to ``following``, made ready with ``blocks``: a block at a
        time, and no more of it need exist.
        """
        filtering = self._filtering
        if self._padded is not None:
            self._padded[self._interior] = x
            x = self._padded
        bias = call.values["bias"][:, np.newaxis]
        filtering.weights(call.values["weight"], bias, self._weights)
        weights = self._weights.reshape(filtering.points, 1, self.out_channels, -1)
        for number, (group, block) in enumerate(product(self._groups, self._blocks)):
            filtering.rows_of_input(x, block.fresh, group.input, group.rows[:, block.fresh])
            np.matmul(
                weights, group.windows[:, block.outputs], out=filtering.products(block.outputs)
            )
            filtering.output(block.outputs)
            if following is None:
                filtering.to_images(
                    block.outputs,
                    self.images[:, block.outputs, group.output.columns, group.output.images],
                )
            else:
                following.forward_rows(number)

    def backward(
        self,
        grad_output: Array,
        call: Call,
        input_gradient: bool,
        following: RowLayer | None = None,
    ) -> Array | None:
        """With ``following``, ``grad_output`` is the gradient of what that made of the output."""
        filtering = self._filtering
        filtering.begin_backward(grad_output if following is None else None)
        self._grad_weights.fill(0)
        grad_bias = call.grads["bias"]
        grad_bias.fill(0)
        if input_gradient:
            self._stack_weights()
        for number, (group, block) in enumerate(product(self._groups, self._blocks)):
            if following is None:
                filtering.from_images(block.outputs, group.output)
            else:
                following.backward_rows(number, grad_output)
            grad_products, grad_matrices = filtering.product_gradient(block.outputs, input_gradient)
            grad_bias += np.add.reduce(
                np.matmul(grad_matrices, self._ones).reshape(-1, self.out_channels), axis=0
            )
            self._add_weight_gradient(group.windows[:, block.outputs], grad_products)
            if input_gradient:
                grad_rows = self._gather_rows(block.complete, filtering.grad_products)
                held = self._overlap if group.input.columns.start else 0
                grad_x = self._grad_padded[
                    :, block.complete, group.input.columns, group.input.images
                ]
                filtering.input_gradient(grad_rows, grad_x, held)
        shape = (
            filtering.points,
            self.kernel_size[0],
            self.in_channels,
            filtering.depth,
            self.out_channels,
        )
        filtering.weight_gradient(self._grad_weights.reshape(shape), call.grads["weight"])
        return self._grad_padded[self._interior] if input_gradient else None

    def holds_windows(self, window: Pair) -> bool:
        """Whether the tiles of each block hold whole windows of such a pooling, and all its
        windows. Once it is planned.
        """
        return (
            all(size % side == 0 for size, side in zip(self.size, window, strict=True))
            and self._filtering.outputs % window[1] == 0
        )

    @property
    def blocks(self) -> list[tuple[Array, slice, Part]]:
        """Where each block of the output lies whenever it is handed on, tiled (k, C, rows, T, N),
        and which rows, of which part of the images, it holds: of the output, or of the windows on
        it."""
        (height, width), outputs = self.pooled, [block.outputs for block in self._blocks]
        return [
            (
                self._filtering.tiled(each),
                _divided(each, height),
                Part(_divided(part.columns, width), part.images),
            )
            for part, each in product([group.output for group in self._groups], outputs)
        ]

    def _add_weight_gradient(self, windows: Array, grad_products: Array) -> None:
        """G V^T, as the transpose of V G^T: with the long side K as rows, BLAS takes about 0.9 of
        the time.
        """
        of_rows, turned = (
            self._grad_weights_of_rows[:, : windows.shape[1]],
            grad_products.swapaxes(2, 3),
        )
        if self._filtering.small_products:
            np.copyto(
                self._turned[:, : windows.shape[1]], turned
            )  # it costs a fifth of what BLAS takes for it inside
            turned = self._turned[:, : windows.shape[1]]
        np.matmul(windows, turned, out=of_rows)
        np.add.reduce(of_rows, axis=1, out=self._grad_weights_of_block)
        self._grad_weights += self._grad_weights_of_block

    def _stack_weights(self) -> None:
        """The W_i that one row meets, side by side: from the last to the first, as the rows of
        outputs that they meet ascend.
        """
        for first, stacked in enumerate(self._stacked):
            kernel_rows = self._weights[:, :, first :: self.stride[0]][:, :, ::-1]
            np.copyto(
                stacked, kernel_rows.reshape(*kernel_rows.shape[:3], -1).transpose(0, 3, 2, 1)
            )

    def _gather_rows(self, rows: slice, grad_products: Array) -> Array:
        """dL/dV of ``rows``: for each, the product of the kernel rows that meet it with the
        gradients of the outputs where they do."""
        points, oh, filters, columns = grad_products.shape
        below_each_other = grad_products.reshape(points, oh * filters, columns)
        grad_rows = self._grad_rows[:, : rows.stop - rows.start]
        for each in self._gathers[rows]:
            row = grad_rows[:, each.row - rows.start]
            if each.outputs.start == each.outputs.stop:
                row.fill(0)
                continue
            weights = self._stacked[each.stack].reshape(points, row.shape[1], -1)
            kernel_rows = slice(each.kernel_rows.start * filters, each.kernel_rows.stop * filters)
            outputs = slice(each.outputs.start * filters, each.outputs.stop * filters)
            np.matmul(weights[:, :, kernel_rows], below_each_other[:, outputs], out=row)
        return grad_rows


def _divided(span: slice, by: int) -> slice:
    return slice(span.start // by, span.stop // by)


def _row_bytes(geometry: Geometry, filtering: Filtering, dtype: DTypeLike) -> int:
    """What a row of outputs takes with the rows of the input that it is made of."""
    depth = geometry.stride[0] * geometry.channels * filtering.depth + geometry.filters
    return filtering.points * depth * filtering.columns * np.dtype(dtype).itemsize
