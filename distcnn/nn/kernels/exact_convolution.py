"""Convolution in portable arithmetic: the pieces of ``convolution.py``, with exact products.

Images, weights and gradients are rounded to grids before they are used, the weights once for each
version. Products are in float64; the output of a piece, and its gradient, are in the network's
type (``Output`` in ``exact_algorithms.py``).
"""

import math

import numpy as np

from distcnn.nn.convolution import Conv2d
from distcnn.nn.kernels.algorithms import Tiling
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking
from distcnn.nn.kernels.convolution import ConvKernel, WeightGradient
from distcnn.nn.kernels.exact_algorithms import ExactAlgorithm, ExactIm2col
from distcnn.nn.kernels.exact_epilogues import ExactEpilogue, ExactFusedPool, ExactWholeImages
from distcnn.nn.kernels.exact_products import add_in_order, multiply, store_gradient
from distcnn.nn.kernels.exact_winograd import ExactWinograd
from distcnn.nn.kernels.fusion import Pooling
from distcnn.nn.layer import Array, Call, Shape
from distcnn.portable.grids import nan_without_grid, require_exact


class ExactConvKernel(ConvKernel):
    """``ConvKernel`` in portable arithmetic."""

    _algorithm: ExactAlgorithm
    _epilogue: ExactEpilogue

    def __init__(
        self, conv: Conv2d, shape: Shape, buffers: Buffers, pooling: Pooling | None, fused: bool
    ) -> None:
        self._version = self._stacked_version = -1
        self._buffers = buffers
        super().__init__(conv, shape, buffers, pooling, fused, buffers.of_type(np.float64))
        self._grad_bias = np.zeros(conv.output_shape(shape[:3])[0])

    def _make_algorithm(self, tiling: Tiling, blocking: Blocking, inner: Buffers) -> ExactAlgorithm:
        make = ExactWinograd if tiling.is_winograd else ExactIm2col
        return make(blocking, inner, self._buffers)

    def _make_weight_gradient(self, blocking: Blocking, buffers: Buffers) -> WeightGradient:
        return ExactWeightGradient(blocking, buffers, self._algorithm.most_columns)

    def _make_epilogue(
        self, output_shape: Shape, pooling: Pooling | None, buffers: Buffers
    ) -> ExactEpilogue:
        algorithm, outputs = self._algorithm, math.prod(output_shape[1:])
        require_exact(algorithm.grad_bits, 0, outputs)  # the sum for the bias
        if pooling is None:
            return ExactWholeImages(algorithm, buffers.images(output_shape))
        tiled = {piece: algorithm.tiled(piece) for piece in self._pieces}
        return ExactFusedPool(pooling, output_shape, tiled, buffers)

    def _multiply(self, a: Array, b: Array, out: Array) -> None:
        multiply(a, b, out, self._algorithm.most_terms)

    def _begin_forward(self, x: Array, call: Call) -> Array:
        algorithm = self._algorithm
        if call.version != self._version:
            algorithm.round_weights(call.values["weight"], self._weights)
            self._version = call.version
        images = self._with_border(x)
        bound = algorithm.begin_forward(images)
        # Also with 0: a bias of -0 would make the sign of a zero depend on the product's.
        algorithm.take_bias(call.values["bias"] + nan_without_grid(bound, algorithm.weight_bound))
        return images

    def _begin_backward(self, grad_output: Array, call: Call, input_gradient: bool) -> None:
        epilogue, algorithm = self._epilogue, self._algorithm
        epilogue.begin_backward(grad_output)
        algorithm.begin_backward(epilogue.round_gradient(algorithm.grad_bits))
        self._grad_bias.fill(0)
        if input_gradient and self._stacked_version != self._version:
            self._input_gradient.begin(self._weights)
            self._stacked_version = self._version

    def _add_bias_gradient(self, matrices: Array, call: Call) -> None:
        sums = np.matmul(matrices, self._ones).reshape(-1, len(self._grad_bias))
        self._grad_bias += np.add.reduce(sums, axis=0)

    def _end_backward(self, call: Call) -> None:
        store_gradient(self._grad_bias * self._algorithm.grad_unit, call.grads["bias"])


class ExactWeightGradient(WeightGradient):
    """``WeightGradient`` of exact products, which are added row by row."""

    def __init__(self, blocking: Blocking, buffers: Buffers, most_columns: int) -> None:
        super().__init__(blocking, buffers)
        self._most_columns = most_columns

    def _add_products(self, windows: Array, transposed: Array, products: Array) -> None:
        multiply(windows, transposed, products, self._most_columns)
        add_in_order(products.swapaxes(0, 1), self.total)
