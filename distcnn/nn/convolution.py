"""2-D convolution (as everywhere in deep learning: a cross-correlation, the kernel is not turned).

Forward. With ``P`` the zero-padded input,

    y[o, r, s] = b[o] + sum over c, i, j of  w[o, c, i, j] * P[c, r*stride_h + i, s*stride_w + j]

Along the width, rows are filtered as ``distcnn.nn.filtering`` says, by default unfolded into kw shifted copies. Row h of all channels is
then a matrix V[h] of C*kw rows and ow*N columns, and the kh rows that one row of outputs needs lie one below the other in memory: they
are one matrix of K = C*kh*kw rows, and ``Y[r] = W V[r*stride_h ... r*stride_h + kh - 1] + b``. This is im2col (Chellapilla, Puri and
Simard, "High performance convolutional neural networks for document processing", 2006) without copying anything kh times.

Backward. Let G = dL/dY. Each w[o, k] meets V[k, q] in exactly the outputs Y[r][o, q], hence

    dL/dW = sum over r of G[r] V[r*stride_h ...]^T        dL/db[o] = sum over r, q of G[r][o, q]

and row h of the input is row i of the kernel for the outputs r with r*stride_h + i = h, so, W_i being the weights of kernel row i,

    dL/dV[h] = sum over those (i, r) of  W_i^T G[r]

which is one product too, of the W_i side by side with the G[r] one below the other. The gradient of the input is that, folded back along
the width, without its border. (LeCun et al. 1998; Dumoulin and Visin, "A guide to convolution arithmetic", 2016.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike

from distcnn.nn.filtering import plan_filtering
from distcnn.nn.initialisers import he_normal, zeros
from distcnn.nn.layer import Array, Initialiser, Layer, Parameter, Shape, buffer, image_buffer, image_shape
from distcnn.nn.windows import Pair, as_pair, is_count, output_size


class Conv2d(Layer):
    """``out_channels`` filters over images (C, H, W, N), giving (out_channels, oh, ow, N).

    ``kernel_size``, ``stride`` and ``padding`` (zeros on each side) are integers or pairs (vertical, horizontal). The number of
    input channels is the input's. Parameters: ``weight`` (out_channels, C, kh, kw), ``bias`` (out_channels,).
    ``ValueError`` for sizes below 1, and when planned for an input smaller than the kernel.
    """

    kind = "conv"

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        weight_initialiser: Initialiser = he_normal,
        bias_initialiser: Initialiser = zeros,
    ) -> None:
        if not is_count(out_channels, 1):
            raise ValueError(f"out_channels (={out_channels!r}) must be an integer of at least 1")
        self.out_channels = out_channels
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_pair("stride", stride, 1)
        self.padding = as_pair("padding", padding, 0)
        self.weight_initialiser = weight_initialiser
        self.bias_initialiser = bias_initialiser

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        channels, height, width = image_shape(self, input_shape)
        self.in_channels = channels
        self.size = output_size((height, width), self.kernel_size, self.stride, self.padding)
        (ph, pw), (kh, kw), (oh, _), (stride, horizontal_stride) = self.padding, self.kernel_size, self.size, self.stride
        padded = (channels, height + 2 * ph, width + 2 * pw)
        filtering = plan_filtering(self.out_channels, self.kernel_size, horizontal_stride, padded, self.size, microbatch_size, dtype)
        self._filtering = filtering

        padded_shape = (channels, padded[1], max(padded[2], filtering.width), microbatch_size)
        self._interior = (slice(None), slice(ph, ph + height), slice(pw, pw + width))
        self._padded = image_buffer(padded_shape, dtype) if padded_shape[1:3] != (height, width) else None
        self._grad_padded = image_buffer(padded_shape, dtype)

        points, depth, columns = filtering.points, channels * filtering.depth, filtering.tiles * microbatch_size
        self._rows = buffer((points, padded[1], depth, columns), dtype)
        self._windows = _windows_of_rows(self._rows, self.kernel_size[0], stride, oh)
        self._products = buffer((points, oh, self.out_channels, columns), dtype)
        self._weights = buffer((points, self.out_channels, kh, channels, filtering.depth), dtype)
        self._weights_matrix = self._weights.reshape(points, 1, self.out_channels, kh * depth)
        self._grad_weights_of_rows = buffer((points, oh, kh * depth, self.out_channels), dtype)
        self._grad_weights = buffer((points, kh, channels, filtering.depth, self.out_channels), dtype)
        self._ones = np.ones(columns, dtype)
        self._gathers = list(_plan_gathers(padded[1], oh, kh, stride))
        self._stacked = [buffer((points, depth, len(range(first, kh, stride)), self.out_channels), dtype) for first in range(min(stride, kh))]
        return self.out_channels, *self.size

    def parameters(self) -> tuple[Parameter, ...]:
        kh, kw = self.kernel_size
        fan_in, fan_out = self.in_channels * kh * kw, self.out_channels * kh * kw
        shape = (self.out_channels, self.in_channels, kh, kw)
        return (
            Parameter("weight", shape, self.weight_initialiser, fan_in, fan_out),
            Parameter("bias", (self.out_channels,), self.bias_initialiser, fan_in, fan_out),
        )

    def bind(self, values: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        self._weight, self._bias = values["weight"], values["bias"][:, np.newaxis, np.newaxis]
        self._grad_weight, self._grad_bias = grads["weight"], grads["bias"]

    def forward(self, x: Array) -> Array:
        if self._padded is not None:
            self._padded[self._interior] = x[:, :, : self._padded.shape[2]]
            x = self._padded
        self._filtering.rows_of_input(x, self._rows)
        self._filtering.weights(self._weight, self._weights)
        np.matmul(self._weights_matrix, self._windows, out=self._products)
        return self._filtering.output(self._products, self._bias)

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        grad_products, grad_matrices = self._filtering.product_gradient(grad_output)
        # G V^T as the transpose of V G^T: with the long side K as rows, BLAS takes about 0.9 of the time.
        np.matmul(self._windows, grad_products.swapaxes(2, 3), out=self._grad_weights_of_rows)
        np.add.reduce(self._grad_weights_of_rows, axis=1, out=self._grad_weights.reshape(self._grad_weights_of_rows[:, 0].shape))
        self._filtering.weight_gradient(self._grad_weights, self._grad_weight)
        np.add.reduce(np.matmul(grad_matrices, self._ones), axis=0, out=self._grad_bias)
        if not input_gradient:
            return None
        # The rows have served: their buffer takes the rows' gradient.
        self._gather_rows(grad_products)
        self._filtering.input_gradient(self._rows, self._grad_padded)
        return self._grad_padded[self._interior]

    def _gather_rows(self, grad_products: Array) -> None:
        """dL/dV: for each row, the product of the kernel rows that meet it with the gradients of the outputs where they do."""
        points, oh, filters, columns = grad_products.shape
        below_each_other = grad_products.reshape(points, oh * filters, columns)
        for first, stacked in enumerate(self._stacked):
            # From the last kernel row to the first, as the rows of outputs that they meet ascend.
            kernel_rows = self._weights[:, :, first :: self.stride[0]][:, :, ::-1]
            np.copyto(stacked, kernel_rows.reshape(points, filters, stacked.shape[2], -1).transpose(0, 3, 2, 1))
        for each in self._gathers:
            row = self._rows[:, each.row]
            if each.outputs.start == each.outputs.stop:
                row.fill(0)
                continue
            weights = self._stacked[each.stack].reshape(points, row.shape[1], -1)
            within = slice(each.kernel_rows.start * filters, each.kernel_rows.stop * filters)
            rows_of_outputs = slice(each.outputs.start * filters, each.outputs.stop * filters)
            np.matmul(weights[:, :, within], below_each_other[:, rows_of_outputs], out=row)


@dataclass(frozen=True)
class Gather:
    """Which outputs meet input row ``row``, and with which of the kernel rows ``stack, stack + stride, ...``, counted from the last."""

    row: int
    stack: int
    kernel_rows: slice
    outputs: slice


def _plan_gathers(height: int, output_height: int, kernel_height: int, stride: int) -> Iterator[Gather]:
    for row in range(height):
        stack = row % stride
        in_stack = len(range(stack, kernel_height, stride))
        first = row // stride - in_stack + 1  # the output that the last kernel row of the stack meets here
        outputs = range(max(first, 0), max(min(row // stride + 1, output_height), max(first, 0)))
        yield Gather(row, stack, slice(outputs.start - first, outputs.stop - first), slice(outputs.start, outputs.stop))


def _windows_of_rows(rows: Array, kernel_height: int, stride: int, output_height: int) -> Array:
    """(P, oh, kh*D, columns) for ``rows`` (P, H, D, columns), without a copy: the rows of a window lie one below the other."""
    points, _, depth, columns = rows.shape
    of_point, of_row, of_depth, of_column = rows.strides
    return as_strided(rows, (points, output_height, kernel_height * depth, columns), (of_point, stride * of_row, of_depth, of_column))
