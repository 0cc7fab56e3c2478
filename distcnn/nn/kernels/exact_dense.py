"""Dense in portable arithmetic: operands are rounded to grids, so that products are exact."""

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.dense import blocks_of_rows
from distcnn.nn.kernels.exact_products import multiply, store_gradient
from distcnn.nn.layer import Array, Call, Shape
from distcnn.portable.grids import operand_bits, round_to_grid


class ExactDenseKernel:
    """``y = W x + b`` and its gradients. The bias is added to exact sums; its gradient is the exact
    sum of the rounded gradient of y.
    """

    def __init__(self, out_features: int, shape: Shape, buffers: Buffers) -> None:
        in_features, count = shape
        self._input_bits = operand_bits(in_features, count)
        self._weight_bits = operand_bits(in_features, out_features)
        self._grad_bits = operand_bits(count, out_features)
        self._version = -1
        self._weight = buffers.zeros((out_features, in_features))
        self._input = buffers.zeros((in_features, count))
        self._input_transposed = buffers.zeros((count, in_features))
        self._output = buffers.zeros((out_features, count))
        self._grad_output = buffers.zeros((out_features, count))
        self._grad_input = buffers.zeros((in_features, count))
        self._blocks_of_outputs = blocks_of_rows(out_features, in_features * count)
        self._blocks_of_inputs = blocks_of_rows(in_features, out_features * count)
        rows = out_features // self._blocks_of_outputs
        self._grad_weight = buffers.zeros((rows, in_features))

    def forward(self, x: Array, call: Call) -> Array:
        if call.version != self._version:
            round_to_grid(call.values["weight"], self._weight_bits, self._weight)
            self._version = call.version
        round_to_grid(x, self._input_bits, self._input)
        multiply(self._by_outputs(self._weight), self._input, self._by_outputs(self._output))
        self._output += call.values["bias"][:, np.newaxis]
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        round_to_grid(grad_output, self._grad_bits, self._grad_output)
        np.copyto(self._input_transposed, self._input.T)
        grad_weight = self._by_outputs(call.grads["weight"])
        for grads, block in zip(self._by_outputs(self._grad_output), grad_weight, strict=True):
            multiply(grads, self._input_transposed, self._grad_weight)
            store_gradient(self._grad_weight, block)
        store_gradient(self._grad_output.sum(axis=1), call.grads["bias"])
        if not input_gradient:
            return None
        weight = self._weight.reshape(len(self._weight), self._blocks_of_inputs, -1).transpose(
            1, 2, 0
        )
        grad_input = self._grad_input.reshape(self._blocks_of_inputs, -1, grad_output.shape[1])
        multiply(weight, self._grad_output, grad_input)
        return self._grad_input

    def _by_outputs(self, matrix: Array) -> Array:
        """``matrix`` (out_features, columns) as (blocks, rows, columns)."""
        return matrix.reshape(self._blocks_of_outputs, -1, matrix.shape[1])
