"""Convolution in portable arithmetic: the pieces of ``convolution.py``, with exact products.

Images, weights and gradients are rounded to grids before they are used, the weights once for each
version. The bias, and the ReLU after a pooling, are applied to what the epilogue has made, which is
small after a pooling.
"""

from dataclasses import replace

import numpy as np

from distcnn.nn.convolution import Conv2d
from distcnn.nn.kernels.algorithms import Tiling
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Blocking
from distcnn.nn.kernels.convolution import ConvKernel, WeightGradient
from distcnn.nn.kernels.exact_algorithms import (
    ExactAlgorithm,
    ExactTiledIm2col,
    ExactUntiledIm2col,
    ExactWinograd,
)
from distcnn.nn.kernels.exact_products import add_in_order, multiply, store_gradient
from distcnn.nn.kernels.fusion import Pooling
from distcnn.nn.layer import Array, Call, Shape
from distcnn.portable.grids import round_to_grid


class ExactConvKernel(ConvKernel):
    """``ConvKernel`` in portable arithmetic."""

    _algorithm: ExactAlgorithm

    def __init__(
        self, conv: Conv2d, shape: Shape, buffers: Buffers, pooling: Pooling | None, fused: bool
    ) -> None:
        plain = None if pooling is None else replace(pooling, rectify=False)
        super().__init__(conv, shape, buffers, plain, fused)
        self._rectify = pooling is not None and self.layers == 2 and pooling.rectify
        if self._rectify:
            self.layers = 3
        self._images = buffers.images(shape) if self._padded is None else self._padded
        output = self._epilogue.result
        self._grad_output = buffers.like(output)
        self._is_positive = buffers.like(output, np.bool_)
        self._version = self._stacked_version = -1

    def _make_algorithm(
        self, tiling: Tiling, blocking: Blocking, buffers: Buffers
    ) -> ExactAlgorithm:
        if tiling.is_winograd:
            return ExactWinograd(blocking, buffers)
        im2col = ExactUntiledIm2col if tiling.tile_width == 1 else ExactTiledIm2col
        return im2col(blocking, buffers)

    def _make_weight_gradient(self, blocking: Blocking, buffers: Buffers) -> WeightGradient:
        return ExactWeightGradient(blocking, buffers)

    def _multiply(self, weights: Array, windows: Array, products: Array) -> None:
        multiply(weights, windows, products)

    def _begin_forward(self, x: Array, call: Call) -> Array:
        algorithm = self._algorithm
        if call.version != self._version:
            algorithm.round_weights(call.values["weight"], self._weights)
            self._version = call.version
        images, inside = self._images, self._images[self._interior]
        algorithm.begin_forward(round_to_grid(x, algorithm.input_bits, inside))
        return images

    def _end_forward(self, output: Array, call: Call) -> None:
        output += call.values["bias"][:, np.newaxis, np.newaxis, np.newaxis]
        if self._rectify:
            np.maximum(output, 0, out=output)
            np.greater(output, 0, out=self._is_positive)

    def _begin_backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array:
        algorithm, grads = self._algorithm, self._grad_output
        if self._rectify:
            grad_output = np.multiply(grad_output, self._is_positive, out=grads)
        algorithm.begin_backward(round_to_grid(grad_output, algorithm.grad_bits, grads))
        store_gradient(grads.sum(axis=(1, 2, 3)), call.grads["bias"])
        if input_gradient and self._stacked_version != self._version:
            self._input_gradient.begin(self._weights)
            self._stacked_version = self._version
        return grads

    def _add_bias_gradient(self, matrices: Array, call: Call) -> None:
        pass  # the whole gradient is summed at the beginning


class ExactWeightGradient(WeightGradient):
    """``WeightGradient`` of exact products, which are added row by row."""

    def _add_products(self, windows: Array, transposed: Array, products: Array) -> None:
        multiply(windows, transposed, products)
        add_in_order(products.swapaxes(0, 1), self.total)
