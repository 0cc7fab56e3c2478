"""Convolution in portable arithmetic: the pieces of ``convolution.py``, with exact products.

Images, weights and gradients are rounded to grids before they are used, the weights once for each
version. Products and transforms are in binary64; ``exact_epilogues.py`` takes pieces from there to
the network's type, and back.
"""

import numpy as np

from distcnn.nn.convolution import Conv2d
from distcnn.nn.kernels.algorithms import Tiling
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking
from distcnn.nn.kernels.convolution import ConvKernel, WeightGradient
from distcnn.nn.kernels.exact_algorithms import ExactAlgorithm, ExactIm2col, ExactWinograd
from distcnn.nn.kernels.exact_epilogues import ExactEpilogue, ExactFusedPool, ExactWholeImages
from distcnn.nn.kernels.exact_products import add_in_order, multiply, store_gradient
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
        super().__init__(conv, shape, buffers, pooling, fused, buffers.of_type(np.float64))

    def _make_algorithm(
        self, tiling: Tiling, blocking: Blocking, buffers: Buffers
    ) -> ExactAlgorithm:
        return (ExactWinograd if tiling.is_winograd else ExactIm2col)(blocking, buffers)

    def _make_weight_gradient(self, blocking: Blocking, buffers: Buffers) -> WeightGradient:
        return ExactWeightGradient(blocking, buffers)

    def _make_epilogue(
        self, output_shape: Shape, pooling: Pooling | None, buffers: Buffers
    ) -> ExactEpilogue:
        outputs = output_shape[1] * output_shape[2] * output_shape[3]
        require_exact(self._algorithm.grad_bits, 0, outputs)  # the sum for the bias
        tiled = {piece: self._algorithm.tiled(piece) for piece in self._pieces}
        if pooling is None:
            return ExactWholeImages(buffers.images(output_shape), tiled, buffers)
        return ExactFusedPool(pooling, output_shape, tiled, buffers)

    def _multiply(self, a: Array, b: Array, out: Array) -> None:
        multiply(a, b, out)

    def _begin_forward(self, x: Array, call: Call) -> Array:
        algorithm = self._algorithm
        if call.version != self._version:
            algorithm.round_weights(call.values["weight"], self._weights)
            self._version = call.version
        images = self._with_border(x)
        bound = algorithm.begin_forward(images)
        bias = call.values["bias"] + nan_without_grid(bound, algorithm.weight_bound)
        self._epilogue.begin_forward(bias)
        return images

    def _begin_backward(self, grad_output: Array, call: Call, input_gradient: bool) -> None:
        epilogue, algorithm = self._epilogue, self._algorithm
        epilogue.begin_backward(grad_output)
        algorithm.begin_backward(epilogue.round_gradient(algorithm.grad_bits))
        if input_gradient and self._stacked_version != self._version:
            self._input_gradient.begin(self._weights)
            self._stacked_version = self._version

    def _add_bias_gradient(self, matrices: Array, call: Call) -> None:
        pass  # the epilogue does

    def _end_backward(self, call: Call) -> None:
        store_gradient(self._epilogue.grad_bias, call.grads["bias"])


class ExactWeightGradient(WeightGradient):
    """``WeightGradient`` of exact products, which are added row by row."""

    def _add_products(self, windows: Array, transposed: Array, products: Array) -> None:
        multiply(windows, transposed, products)
        add_in_order(products.swapaxes(0, 1), self.total)
