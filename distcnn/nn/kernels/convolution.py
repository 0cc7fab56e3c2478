"""Convolution as it is computed: piece by piece, each a matrix product between two transforms.

Forward. Row h of all channels of the padded input is transformed (``algorithms.py``) to a matrix
V[h]; with im2col, its kw shifted copies, of C*kw rows and ow*N columns. The kh rows that one row of
outputs needs follow each other in memory: they are one matrix of K = C*kh*kw rows, and
``Y[r] = W V[r*stride_h ... r*stride_h + kh - 1] + b``. This is im2col (Chellapilla, Puri and
Simard, "High performance convolutional neural networks for document processing", 2006) without
copying anything kh times.

Backward. Let G = dL/dY. Each w[o, k] meets V[k, q] in exactly the outputs Y[r][o, q], hence

    dL/dW = sum over r of G[r] V[r*stride_h ...]^T        dL/db[o] = sum over r, q of G[r][o, q]

and row h of the input is row i of the kernel for the outputs r with r*stride_h + i = h, so, W_i
being the weights of kernel row i,

    dL/dV[h] = sum over those (i, r) of  W_i^T G[r]

which is one product too, of the W_i side by side with the G[r] one below the other. The gradient of
the input is that, transformed back, without its border. (LeCun et al. 1998; Dumoulin and Visin, "A
guide to convolution arithmetic", 2016.)

Order of the calls: ``forward`` and ``backward`` alternate. Both go through the same pieces
(``blocking.py``) in the same order; V, which backward needs again, is kept in between. An
``Output`` takes each piece of the output: whole images here, pooled ones in ``fusion.py``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from distcnn.nn.convolution import Conv2d
from distcnn.nn.geometry import Geometry, Pair
from distcnn.nn.kernels.algorithms import Algorithm, choose_tiling
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Cut, Piece, plan_cut, plan_gathers
from distcnn.nn.kernels.im2col import Im2col, TiledIm2col
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.kernels.winograd import Winograd
from distcnn.nn.layer import Array, Call, Shape


class Output(Protocol):
    """Takes a convolution's output a piece at a time, and gives its gradient back a piece at a
    time, both tiled, in ``ConvKernel.tiled(piece)``.
    """

    result: Array
    """What is made of the output, whole."""

    def take(self, piece: Piece) -> None:
        """Take a piece."""

    def begin_backward(self, grad_output: Array) -> None:
        """``grad_output`` is the gradient of ``result``."""

    def give_gradient(self, piece: Piece) -> None:
        """Write the gradient of a piece over the piece."""


class ConvKernel:
    """One convolution for one shape.

    Args:
        conv: the layer.
        input_shape: (C, H, W).
        count: examples of a microbatch.
        buffers: makes the arrays.
        window: of the max pooling that follows, else (1, 1). Where such windows cover the output,
            pieces and tiles hold whole ones.
    """

    def __init__(
        self, conv: Conv2d, input_shape: Shape, count: int, buffers: Buffers, window: Pair = (1, 1)
    ) -> None:
        channels, height, width = input_shape
        filters, oh, ow = conv.output_shape(input_shape)
        self._covers = oh % window[0] == ow % window[1] == 0
        self._window = window if self._covers else (1, 1)
        self.output_shape = filters, oh, ow, count
        (ph, pw), sizes = conv.padding, (conv.kernel_size, conv.stride, (oh, ow))
        geometry = Geometry(channels, height + 2 * ph, filters, *sizes, count)
        self._geometry, self._buffers = geometry, buffers
        self._tiling = choose_tiling(geometry, self._window[1])

        padded_width = max(width + 2 * pw, self._tiling.input_width(ow))
        padded_shape = channels, geometry.height, padded_width, count
        self._interior = slice(None), slice(ph, ph + height), slice(pw, pw + width)
        is_padded = padded_shape[1:3] != (height, width)
        self._padded = buffers.images(padded_shape) if is_padded else None
        self._grad_padded = buffers.images(padded_shape)

        cut = plan_cut(geometry, self._tiling, self._window[0], buffers.dtype.itemsize)
        self.pieces = list(cut.pieces(padded_width, buffers))
        self._gathers = list(plan_gathers(geometry))
        self._algorithm = _algorithm(cut, buffers)
        self._make_product_buffers(cut)
        self._output: Output | None = None

    def _make_product_buffers(self, cut: Cut) -> None:
        """What the matrix products read and write, besides V and M."""
        zeros, points, filters = self._buffers.zeros, self._tiling.points, self._geometry.filters
        (kh, _), (stride, _), channels = cut.part.kernel, cut.part.stride, cut.part.channels
        depth, columns = channels * self._tiling.depth, cut.tiles * cut.images
        self._weights = zeros((points, filters, kh, channels, self._tiling.depth))
        stacks = [len(range(first, kh, stride)) for first in range(min(stride, kh))]
        self._stacked = [zeros((points, depth, rows, filters)) for rows in stacks]
        self._grad_rows = zeros((points, cut.most_inputs, depth, columns))
        grad_weights = points, kh * depth, filters
        self._grad_weights, self._grad_weights_of_piece = zeros(grad_weights), zeros(grad_weights)
        self._grad_weights_of_rows = zeros((points, cut.most_outputs, kh * depth, filters))
        transposed = points, cut.most_outputs, columns, filters
        self._transposed = zeros(transposed) if self._tiling.is_winograd else None
        self._ones = np.ones(columns, self._buffers.dtype)

    @property
    def holds_windows(self) -> bool:
        """Whether each window of the pooling that follows is within a tile."""
        return self._covers and self._tiling.outputs % self._window[1] == 0

    def tiled(self, piece: Piece) -> Array:
        """A piece of the output, or of its gradient, as [k, o, r, t, n]."""
        return self._algorithm.tiled(piece.block.outputs)

    def write_to(self, output: Output) -> None:
        """From now on hand the output on to ``output``; to be called once, before ``forward``."""
        self._output = output

    def whole_images(self) -> Output:
        """An output that is the images themselves."""
        if isinstance(self._algorithm, Im2col):
            return InPlace(self._algorithm)
        return WholeImages(self, self._buffers.images(self.output_shape))

    def forward(self, x: Array, call: Call) -> Array:
        """The output of the ``Output``, for the input ``x`` (C, H, W, N)."""
        assert self._output is not None, "the planner calls write_to"
        output, algorithm = self._output, self._algorithm
        if self._padded is not None:
            self._padded[self._interior] = x
            x = self._padded
        algorithm.transform_weights(
            call.values["weight"], call.values["bias"][:, np.newaxis], self._weights
        )
        weights = self._weights.reshape(self._tiling.points, 1, self._geometry.filters, -1)
        for piece in self.pieces:
            rows = piece.block.outputs
            algorithm.transform_input(x, piece)
            np.matmul(weights, piece.windows, out=algorithm.products(rows))
            algorithm.transform_products(rows)
            output.take(piece)
        return output.result

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        """Write the parameters' gradients; return the input's, a view of a larger array."""
        assert self._output is not None, "the planner calls write_to"
        output, algorithm, grad_bias = self._output, self._algorithm, call.grads["bias"]
        output.begin_backward(grad_output)
        self._grad_weights.fill(0)
        grad_bias.fill(0)
        if input_gradient:
            self._stack_weights()
        for piece in self.pieces:
            output.give_gradient(piece)
            grad_products, matrices = algorithm.transform_gradient(
                piece.block.outputs, input_gradient
            )
            sums = np.matmul(matrices, self._ones).reshape(-1, self._geometry.filters)
            grad_bias += np.add.reduce(sums, axis=0)
            self._add_weight_gradient(piece.windows, grad_products)
            if input_gradient:
                self._write_input_gradient(piece)
        points, depth = self._tiling.points, self._tiling.depth
        shape = points, self._geometry.kernel[0], self._geometry.channels, depth, -1
        algorithm.transform_weight_gradient(self._grad_weights.reshape(shape), call.grads["weight"])
        return self._grad_padded[self._interior] if input_gradient else None

    def _add_weight_gradient(self, windows: Array, grad_products: Array) -> None:
        """G V^T, as the transpose of V G^T: with the long side K as rows, BLAS takes about 0.9 of
        the time.
        """
        rows = windows.shape[1]
        transposed, of_rows = grad_products.swapaxes(2, 3), self._grad_weights_of_rows[:, :rows]
        if self._transposed is not None:  # small products, where BLAS takes five times the copy
            np.copyto(self._transposed[:, :rows], transposed)
            transposed = self._transposed[:, :rows]
        np.matmul(windows, transposed, out=of_rows)
        np.add.reduce(of_rows, axis=1, out=self._grad_weights_of_piece)
        self._grad_weights += self._grad_weights_of_piece

    def _stack_weights(self) -> None:
        """The W_i that one row meets, side by side: from the last to the first, as the rows of
        outputs that they meet ascend.
        """
        for first, stacked in enumerate(self._stacked):
            kernel_rows = self._weights[:, :, first :: self._geometry.stride[0]][:, :, ::-1]
            side_by_side = kernel_rows.reshape(*kernel_rows.shape[:3], -1)
            np.copyto(stacked, side_by_side.transpose(0, 3, 2, 1))

    def _write_input_gradient(self, piece: Piece) -> None:
        """The rows of the input's gradient that ``piece`` completes: dL/dV, transformed back."""
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
        held = max(self._geometry.kernel[1] - self._geometry.stride[1], 0) if columns.start else 0
        grad_x = self._grad_padded[:, complete, columns, images]
        self._algorithm.transform_input_gradient(grad_rows, grad_x, held)


class WholeImages:
    """The output as whole images, copied from the tiles and back: an ``Output``."""

    def __init__(self, conv: ConvKernel, images: Array) -> None:
        self._conv, self.result = conv, images

    def take(self, piece: Piece) -> None:
        copy_tiles(_piece_of(self.result, piece), self._conv.tiled(piece), to_images=True)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output

    def give_gradient(self, piece: Piece) -> None:
        tiled, images = self._conv.tiled(piece), _piece_of(self._grad_output, piece)
        if images.shape[2] % len(tiled):
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        copy_tiles(images, tiled, to_images=False)


class InPlace:
    """The output as whole images, which is what ``Im2col`` writes: an ``Output``."""

    def __init__(self, algorithm: Im2col) -> None:
        self._algorithm, self.result = algorithm, algorithm.images

    def take(self, piece: Piece) -> None:
        pass

    def begin_backward(self, grad_output: Array) -> None:
        self._algorithm.read_gradient(grad_output)

    def give_gradient(self, piece: Piece) -> None:
        pass


def _algorithm(cut: Cut, buffers: Buffers) -> Algorithm:
    if cut.tiling.is_winograd:
        return Winograd(cut.part, cut.tiling, cut.most_inputs, cut.most_outputs, buffers)
    if cut.tiling.is_whole:
        return Im2col(cut.part, cut.tiling, buffers)
    return TiledIm2col(cut.part, cut.tiling, cut.most_outputs, buffers)


def _piece_of(images: Array, piece: Piece) -> Array:
    return images[:, piece.block.outputs, piece.output.columns, piece.output.images]


def _times(span: slice, by: int) -> slice:
    return slice(span.start * by, span.stop * by)
