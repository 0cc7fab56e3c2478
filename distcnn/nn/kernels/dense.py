"""Dense and Flatten as they are computed."""

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Array, Call, Shape

SMALL_PRODUCT = 10**6
"""Multiplications up to which OpenBLAS reads its operands in place; for larger products it first
copies the whole weight matrix, for the few columns of one microbatch."""
FEWEST_ROWS = 16
"""The fewest rows of a block: with fewer, the calls cost more than the copies."""


class DenseKernel:
    """``y = W x + b`` and its gradients, in blocks of rows that make small products."""

    def __init__(self, out_features: int, shape: Shape, buffers: Buffers) -> None:
        in_features, count = shape
        self._output = buffers.zeros((out_features, count))
        self._grad_input = buffers.zeros((in_features, count))
        self._blocks_of_outputs = blocks_of_rows(out_features, in_features * count)
        self._blocks_of_inputs = blocks_of_rows(in_features, out_features * count)
        self._input_transposed = None
        if self._blocks_of_outputs > 1:  # small products are fastest with it copied
            self._input_transposed = buffers.zeros((count, in_features))

    def forward(self, x: Array, call: Call) -> Array:
        self._input = x
        weight = self._by_outputs(call.values["weight"])
        np.matmul(weight, x, out=self._by_outputs(self._output))
        self._output += call.values["bias"][:, np.newaxis]
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        x_transposed = self._input.T
        if self._input_transposed is not None:
            np.copyto(self._input_transposed, x_transposed)
            x_transposed = self._input_transposed
        grad_weight = self._by_outputs(call.grads["weight"])
        np.matmul(self._by_outputs(grad_output), x_transposed, out=grad_weight)
        np.sum(grad_output, axis=1, out=call.grads["bias"])
        if not input_gradient:
            return None
        weight, blocks = call.values["weight"], self._blocks_of_inputs
        transposed_by_inputs = weight.reshape(len(weight), blocks, -1).transpose(1, 2, 0)
        grad_input = self._grad_input.reshape(blocks, -1, grad_output.shape[1])
        np.matmul(transposed_by_inputs, grad_output, out=grad_input)
        return self._grad_input

    def _by_outputs(self, matrix: Array) -> Array:
        """``matrix`` (out_features, columns) as (blocks, rows, columns)."""
        return matrix.reshape(self._blocks_of_outputs, -1, matrix.shape[1])


def blocks_of_rows(rows: int, multiplications_of_a_row: int) -> int:
    """The number of equal blocks of ``rows`` that make small products; 1 if there is none."""
    for blocks in range(1, rows // FEWEST_ROWS + 1):
        if rows % blocks == 0 and rows // blocks * multiplications_of_a_row <= SMALL_PRODUCT:
            return blocks
    return 1


class FlattenKernel:
    """A view where the input is contiguous; a copy where its axes have another order in memory."""

    def __init__(self, shape: Shape, buffers: Buffers) -> None:
        self._shape, self._buffers = shape, buffers
        self._copy: Array | None = None

    def forward(self, x: Array, call: Call) -> Array:
        if not x.flags.c_contiguous:
            if self._copy is None:  # a max pooling before it, the usual case, needs none
                self._copy = self._buffers.zeros(self._shape)
            np.copyto(self._copy, x)
            x = self._copy
        return x.reshape(-1, self._shape[-1])

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array:
        return grad_output.reshape(self._shape)
