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
the input is that, transformed back, without its border.

Forward and backward go through the same pieces (``blocking.py``) in the same order; V, which
backward needs again, is kept in between. What is done to a piece is split between an algorithm and
an epilogue (``steps.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distcnn.nn.convolution import Conv2d
from distcnn.nn.kernels.algorithms import Geometry, Tiling, choose_tiling
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking, Piece
from distcnn.nn.kernels.fusion import FusedPool, Pooling
from distcnn.nn.kernels.im2col import ImagesInPlace, TiledIm2col, UntiledIm2col
from distcnn.nn.kernels.steps import Algorithm, Epilogue
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.kernels.winograd import Winograd
from distcnn.nn.layer import Array, Call, Shape


class ConvKernel:
    """One convolution for one shape, (C, H, W, N).

    ``pooling`` is what follows, if that is a max pooling. Where its windows cover the output,
    pieces hold whole ones; with ``fused`` the kernel also runs it if each window is within a tile.
    ``layers`` is how many it runs: 1, or 2 with the pooling, or 3 with a ReLU after that.
    """

    def __init__(
        self,
        conv: Conv2d,
        shape: Shape,
        buffers: Buffers,
        pooling: Pooling | None,
        fused: bool,
        inner: Buffers | None = None,
    ) -> None:
        channels, height, width, count = shape
        filters, oh, ow = conv.output_shape(shape[:3])
        if pooling is not None and (oh % pooling.window[0] or ow % pooling.window[1]):
            pooling = None
        window = (1, 1) if pooling is None else pooling.window
        (ph, pw), sizes = conv.padding, (conv.kernel_size, conv.stride, (oh, ow))
        geometry = Geometry(channels, height + 2 * ph, filters, *sizes, count)
        tiling = choose_tiling(geometry, window[1])

        padded_width = max(width + 2 * pw, tiling.input_width)
        padded_shape = channels, geometry.padded_height, padded_width, count
        self._interior = slice(None), slice(ph, ph + height), slice(pw, pw + width)
        self._padded = buffers.images(padded_shape) if padded_shape != shape else None
        self._grad_input = buffers.images(padded_shape)

        inner = inner or buffers  # of what never leaves the kernel
        # Winograd's pieces have the size that they would have in the network's type. In float64
        # they outgrow the caches, but half the columns would cost BLAS more.
        itemsize = (buffers if tiling.is_winograd else inner).dtype.itemsize
        blocking = Blocking(geometry, tiling, window[0], itemsize)
        self._pieces = list(blocking.pieces(padded_width, inner))
        self._algorithm = self._make_algorithm(tiling, blocking, inner)
        weights_shape = tiling.points, filters, conv.kernel_size[0], channels, tiling.shifts
        self._weights = inner.zeros(weights_shape)
        self._weight_gradient = self._make_weight_gradient(blocking, inner)
        self._input_gradient = InputGradient(blocking, inner, self._multiply)
        self._shared_columns = max(conv.kernel_size[1] - conv.stride[1], 0)
        if pooling is None or not fused or tiling.tile_width % window[1]:
            pooling = None
        self.layers = 1 if pooling is None else 3 if pooling.rectify else 2
        self._ones = np.ones(blocking.columns, inner.dtype)
        self._epilogue = self._make_epilogue((filters, oh, ow, count), pooling, buffers)

    def forward(self, x: Array, call: Call) -> Array:
        epilogue, algorithm = self._epilogue, self._algorithm
        images = self._begin_forward(x, call)
        points, filters = self._weights.shape[:2]
        weights = self._weights.reshape(points, 1, filters, -1)
        for piece in self._pieces:
            algorithm.transform_input(images, piece)
            self._multiply(weights, piece.windows, algorithm.products(piece))
            algorithm.transform_products(piece)
            epilogue.take(piece)
        return epilogue.result

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        epilogue, algorithm = self._epilogue, self._algorithm
        points, filters, height, channels, shifts = self._weights.shape
        self._begin_backward(grad_output, call, input_gradient)
        self._weight_gradient.total.fill(0)
        for piece in self._pieces:
            epilogue.give_gradient(piece)
            grad_products, matrices = algorithm.transform_gradient(piece, keep=input_gradient)
            self._add_bias_gradient(matrices, call)
            self._weight_gradient.add(piece, grad_products)
            if input_gradient:
                rows = self._input_gradient.rows(piece, algorithm.grad_products)
                grad_x = self._grad_input[:, piece.complete, piece.input_columns, piece.images]
                # Not overwritten but added to, except in the leftmost strip.
                shared = self._shared_columns if piece.input_columns.start else 0
                algorithm.transform_input_gradient(rows, grad_x, shared)
        transformed = self._weight_gradient.total.reshape(points, height, channels, shifts, filters)
        algorithm.transform_weight_gradient(transformed, call.grads["weight"])
        self._end_backward(call)
        return self._grad_input[self._interior] if input_gradient else None

    def _with_border(self, x: Array) -> Array:
        """``x`` with its padding."""
        if self._padded is None:
            return x
        self._padded[self._interior] = x
        return self._padded

    # -- what portable arithmetic does in another way (``exact_convolution.py``)

    def _make_epilogue(
        self, output_shape: Shape, pooling: Pooling | None, buffers: Buffers
    ) -> Epilogue:
        """What makes the result of the pieces, and runs ``pooling`` if there is one."""
        algorithm = self._algorithm
        if pooling is not None:
            tiled = {piece: algorithm.tiled(piece) for piece in self._pieces}
            return FusedPool(pooling, output_shape, tiled, buffers)
        if isinstance(algorithm, UntiledIm2col):
            return ImagesInPlace(algorithm)
        return WholeImages(algorithm, buffers.images(output_shape))

    def _make_algorithm(self, tiling: Tiling, blocking: Blocking, buffers: Buffers) -> Algorithm:
        if tiling.is_winograd:
            return Winograd(blocking, buffers)
        return (UntiledIm2col if tiling.tile_width == 1 else TiledIm2col)(blocking, buffers)

    def _make_weight_gradient(self, blocking: Blocking, buffers: Buffers) -> WeightGradient:
        return WeightGradient(blocking, buffers)

    def _multiply(self, a: Array, b: Array, out: Array) -> None:
        """Write ``a @ b`` to ``out``."""
        np.matmul(a, b, out=out)

    def _begin_forward(self, x: Array, call: Call) -> Array:
        """Transform the weights; the padded images."""
        bias = call.values["bias"][:, np.newaxis]
        self._algorithm.transform_weights(call.values["weight"], bias, self._weights)
        return self._with_border(x)

    def _begin_backward(self, grad_output: Array, call: Call, input_gradient: bool) -> None:
        self._epilogue.begin_backward(grad_output)
        call.grads["bias"].fill(0)
        if input_gradient:
            self._input_gradient.begin(self._weights)

    def _add_bias_gradient(self, matrices: Array, call: Call) -> None:
        """Add the share of a piece, whose ``matrices`` are those of ``transform_gradient``."""
        grad_bias = call.grads["bias"]
        sums = np.matmul(matrices, self._ones).reshape(-1, len(grad_bias))
        grad_bias += np.add.reduce(sums, axis=0)

    def _end_backward(self, call: Call) -> None:
        """Write gradients that are not written yet."""


class WholeImages:
    """An epilogue: the output as whole images, copied from the tiles and back."""

    def __init__(self, algorithm: Algorithm, images: Array) -> None:
        self._algorithm, self.result = algorithm, images

    def take(self, piece: Piece) -> None:
        copy_tiles(self.result[piece.output_index], self._algorithm.tiled(piece), to_images=True)

    def begin_backward(self, grad_output: Array) -> None:
        self._grad_output = grad_output

    def give_gradient(self, piece: Piece) -> None:
        tiled, images = self._algorithm.tiled(piece), self._grad_output[piece.output_index]
        if images.shape[2] % len(tiled):
            tiled[:, :, :, -1].fill(0)  # the last tile reaches beyond the images
        copy_tiles(images, tiled, to_images=False)


class WeightGradient:
    """dU, in ``total`` (P, kh*C*J, O): fill it with 0, then ``add`` each piece."""

    def __init__(self, blocking: Blocking, buffers: Buffers) -> None:
        geometry, rows = blocking.geometry, blocking.most_outputs
        points, filters = blocking.tiling.points, geometry.filters
        terms = geometry.kernel[0] * geometry.channels * blocking.tiling.shifts  # kh*C*J
        self.total = buffers.zeros((points, terms, filters))
        self._piece_sum = buffers.zeros((points, terms, filters))
        self._row_products = buffers.zeros((points, rows, terms, filters))
        self._transposed = None
        if blocking.tiling.is_winograd:  # small products, where BLAS takes five times the copy
            self._transposed = buffers.zeros((points, rows, blocking.columns, filters))

    def add(self, piece: Piece, grad_products: Array) -> None:
        # As V G^T, not G V^T: with the long side K as rows, BLAS takes about 0.9 of the time.
        transposed, products = grad_products.swapaxes(2, 3), self._row_products[:, : piece.height]
        if self._transposed is not None:
            np.copyto(self._transposed[:, : piece.height], transposed)
            transposed = self._transposed[:, : piece.height]
        self._add_products(piece.windows, transposed, products)

    def _add_products(self, windows: Array, transposed: Array, products: Array) -> None:
        """Add the products of each row, (P, rows, kh*C*J, O), to the total."""
        np.matmul(windows, transposed, out=products)
        np.add.reduce(products, axis=1, out=self._piece_sum)
        self.total += self._piece_sum


class InputGradient:
    """dV, the rows of one piece after another.

    Rows ``first, first + stride, ...`` of the kernel meet the same rows of V. Their weights are
    stacked side by side, from the last to the first, as the outputs that they meet ascend.
    """

    def __init__(
        self, blocking: Blocking, buffers: Buffers, multiply: Callable[[Array, Array, Array], None]
    ) -> None:
        geometry, points = blocking.geometry, blocking.tiling.points
        self._multiply = multiply
        terms = geometry.channels * blocking.tiling.shifts  # C*J
        kernel_height, stride = geometry.kernel[0], geometry.stride[0]
        heights = [len(range(first, kernel_height, stride)) for first in range(stride)]
        self._stride = stride
        self._stacks = [
            buffers.zeros((points, terms, height, geometry.filters)) for height in heights if height
        ]
        self._products = [
            self._product(row, heights[row % stride], geometry)
            for row in range(geometry.padded_height)
        ]
        self._rows = buffers.zeros((points, blocking.most_inputs, terms, blocking.columns))

    def _product(self, row: int, in_stack: int, geometry: Geometry) -> tuple[Array, slice]:
        """The weights that input row ``row`` meets, (P, C*J, outputs*O), and the rows of G (of all
        outputs, one below the other) that it meets.
        """
        filters, last = geometry.filters, row // self._stride
        first = last - in_stack + 1  # the output that the last of the stack meets here
        start = max(first, 0)
        stop = max(min(last + 1, geometry.output_size[0]), start)
        stack = self._stacks[row % self._stride if in_stack else 0]
        weights = stack.reshape(*stack.shape[:2], -1)
        needed = weights[:, :, (start - first) * filters : (stop - first) * filters]
        return needed, slice(start * filters, stop * filters)

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
            self._multiply(weights, below_each_other[:, outputs], grad_rows[:, index])
        return grad_rows
