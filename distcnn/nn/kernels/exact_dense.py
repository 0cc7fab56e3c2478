"""Dense in portable arithmetic: operands are rounded to grids, so that products are exact."""

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.dense import blocks_of_rows
from distcnn.nn.kernels.exact_products import multiply, store_gradient
from distcnn.nn.layer import Array, Call, Shape
from distcnn.portable.grids import operand_bits, round_to_grid


class ExactDenseKernel:
    """``y = W x + b`` and its gradients. The bias is added to exact sums; its gradient is the exact
    sum of the rounded gradient of y. Products are taken in blocks of rows, which are in the caches
    when they are converted to the network's type.
    """

    def __init__(self, out_features: int, shape: Shape, buffers: Buffers) -> None:
        in_features, count = shape
        inner = buffers.of_type(np.float64)
        self._input_bits = operand_bits(in_features, count)
        self._weight_bits = operand_bits(in_features, out_features)
        self._grad_bits = operand_bits(count, out_features)
        self._version = -1
        self._weight = inner.zeros((out_features, in_features))
        self._input, self._grad_output = inner.zeros(shape), inner.zeros((out_features, count))
        self._output = buffers.zeros((out_features, count))
        self._grad_input = buffers.zeros(shape)
        self._blocks_of_outputs = blocks_of_rows(out_features, in_features * count)
        self._blocks_of_inputs = blocks_of_rows(in_features, out_features * count)
        self._inner_output = inner.zeros((out_features, count))
        self._input_transposed = inner.zeros((count, in_features))
        self._grad_weight = inner.zeros((out_features // self._blocks_of_outputs, in_features))
        self._inner_grad_input = inner.zeros((in_features // self._blocks_of_inputs, count))

    def forward(self, x: Array, call: Call) -> Array:
        if call.version != self._version:
            round_to_grid(call.values["weight"], self._weight_bits, self._weight)
            self._version = call.version
        round_to_grid(x, self._input_bits, self._input)
        output = self._inner_output
        multiply(self._by_outputs(self._weight), self._input, self._by_outputs(output))
        output += call.values["bias"].astype(np.float64)[:, np.newaxis]
        np.copyto(self._output, output, casting="same_kind")
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        round_to_grid(grad_output, self._grad_bits, self._grad_output)
        store_gradient(self._grad_output.sum(axis=1), call.grads["bias"])
        np.copyto(self._input_transposed, self._input.T)
        by_outputs = self._by_outputs(self._grad_output), self._by_outputs(call.grads["weight"])
        for grads, grad_weight in zip(*by_outputs, strict=True):
            multiply(grads, self._input_transposed, self._grad_weight)
            store_gradient(self._grad_weight, grad_weight)
        if not input_gradient:
            return None
        rows = len(self._inner_grad_input)
        for start in range(0, len(self._input), rows):
            block = slice(start, start + rows)
            multiply(self._weight[:, block].T, self._grad_output, self._inner_grad_input)
            np.copyto(self._grad_input[block], self._inner_grad_input, casting="same_kind")
        return self._grad_input

    def _by_outputs(self, matrix: Array) -> Array:
        """``matrix`` (out_features, columns) as (blocks, rows, columns)."""
        return matrix.reshape(self._blocks_of_outputs, -1, matrix.shape[1])
