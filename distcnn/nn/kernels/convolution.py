"""Convolution as it is computed: piece by piece, with a matrix product between two transforms.

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
``Output`` takes each piece of the output and makes something of it: whole images here, pooled ones
in ``fusion.py``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from distcnn.nn.convolution import Conv2d
from distcnn.nn.geometry import Geometry
from distcnn.nn.kernels.algorithms import Algorithm, choose_tiling
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece, plan_blocking, plan_gathers
from distcnn.nn.kernels.fusion import FusedPool, Pooling
from distcnn.nn.kernels.im2col import Im2col, TiledIm2col
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.kernels.winograd import Winograd
from distcnn.nn.layer import Array, Call, Shape


class Output(Protocol):
    """Takes a convolution's output a piece at a time, and gives its gradient back a piece at a
    time, both in ``Algorithm.tiled(piece)``.
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
        pooling: what follows, if that is a max pooling. Where its windows cover the output, pieces
            hold whole ones.
        fused: whether to run it too, where each window is within a tile.

    Attributes:
        is_fused: whether ``forward`` returns the pooling's output rather than the convolution's.
    """

    def __init__(
        self,
        conv: Conv2d,
        input_shape: Shape,
        count: int,
        buffers: Buffers,
        pooling: Pooling | None = None,
        fused: bool = True,
    ) -> None:
        channels, height, width = input_shape
        filters, oh, ow = conv.output_shape(input_shape)
        if pooling is not None and not pooling.covers(oh, ow):
            pooling = None
        window = (1, 1) if pooling is None else pooling.window
        (ph, pw), sizes = conv.padding, (conv.kernel_size, conv.stride, (oh, ow))
        geometry = Geometry(channels, height + 2 * ph, filters, *sizes, count)
        self._geometry, self._buffers = geometry, buffers
        self._tiling = choose_tiling(geometry, window[1])

        padded_width = max(width + 2 * pw, self._tiling.input_width(ow))
        padded_shape = channels, geometry.padded_height, padded_width, count
        self._interior = slice(None), slice(ph, ph + height), slice(pw, pw + width)
        is_padded = padded_shape[1:3] != (height, width)
        self._padded = buffers.images(padded_shape) if is_padded else None
        self._grad_padded = buffers.images(padded_shape)

        blocking = plan_blocking(geometry, self._tiling, window[0], buffers.dtype.itemsize)
        self._pieces = list(blocking.pieces(padded_width, buffers))
        self._gathers = list(plan_gathers(geometry))
        self._algorithm = algorithm = _algorithm(blocking, buffers)
        self._make_product_buffers(blocking)

        self.is_fused = fused and pooling is not None and self._tiling.tile_width % window[1] == 0
        output_shape = filters, oh, ow, count
        self._output: Output
        if pooling is not None and self.is_fused:
            self._output = FusedPool(pooling, output_shape, self._pieces, algorithm, buffers)
        elif isinstance(algorithm, Im2col):
            self._output = InPlace(algorithm)
        else:
            self._output = WholeImages(algorithm, buffers.images(output_shape))

    def _make_product_buffers(self, blocking: Blocking) -> None:
        """Make the buffers of the matrix products other than V and M."""
        zeros, points, filters = self._buffers.zeros, self._tiling.points, self._geometry.filters
        (kh, _), (stride, _) = self._geometry.kernel, self._geometry.stride
        channels, columns = self._geometry.channels, blocking.columns
        depth = channels * self._tiling.depth
        self._weights = zeros((points, filters, kh, channels, self._tiling.depth))
        stacks = [len(range(first, kh, stride)) for first in range(min(stride, kh))]
        self._stacked = [zeros((points, depth, rows, filters)) for rows in stacks]
        self._grad_rows = zeros((points, blocking.most_inputs, depth, columns))
        grad_weights = points, kh * depth, filters
        self._grad_weights, self._grad_weights_of_piece = zeros(grad_weights), zeros(grad_weights)
        self._grad_weights_of_rows = zeros((points, blocking.most_outputs, kh * depth, filters))
        transposed = points, blocking.most_outputs, columns, filters
        self._transposed = zeros(transposed) if self._tiling.is_winograd else None
        self._ones = np.ones(columns, self._buffers.dtype)

    def forward(self, x: Array, call: Call) -> Array:
        """The output of the ``Output``, for the input ``x`` (C, H, W, N)."""
        output, algorithm = self._output, self._algorithm
        if self._padded is not None:
            self._padded[self._interior] = x
            x = self._padded
        algorithm.transform_weights(
            call.values["weight"], call.values["bias"][:, np.newaxis], self._weights
        )
        weights = self._weights.reshape(self._tiling.points, 1, self._geometry.filters, -1)
        for piece in self._pieces:
            algorithm.transform_input(x, piece)
            np.matmul(weights, piece.windows, out=algorithm.products(piece))
            algorithm.transform_products(piece)
            output.take(piece)
        return output.result

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        """Write the parameters' gradients; return the input's, a view of a larger array."""
        output, algorithm, grad_bias = self._output, self._algorithm, call.grads["bias"]
        output.begin_backward(grad_output)
        self._grad_weights.fill(0)
        grad_bias.fill(0)
        if input_gradient:
            self._stack_weights()
        for piece in self._pieces:
            output.give_gradient(piece)
            grad_products, matrices = algorithm.transform_gradient(piece, keep=input_gradient)
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

    def __init__(self, algorithm: Algorithm, images: Array) -> None:
        self._algorithm, self.result = algorithm, images

    def take(self, piece: Piece) -> None:
        tiled = self._algorithm.tiled(piece)
        copy_tiles(self.result[piece.of_output], tiled, to_images=True)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output

    def give_gradient(self, piece: Piece) -> None:
        tiled, images = self._algorithm.tiled(piece), self._grad_output[piece.of_output]
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


def _algorithm(blocking: Blocking, buffers: Buffers) -> Algorithm:
    if blocking.tiling.is_winograd:
        return Winograd(blocking, buffers)
    if blocking.tiling.is_untiled:
        return Im2col(blocking, buffers)
    return TiledIm2col(blocking, buffers)


def _times(span: slice, by: int) -> slice:
    return slice(span.start * by, span.stop * by)
