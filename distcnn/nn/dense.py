"""Dense (fully connected) layers, and the Flatten before them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from distcnn.errors import explained
from distcnn.nn.geometry import is_count
from distcnn.nn.initialisers import he_normal, zeros
from distcnn.nn.layer import Array, Initialiser, Layer, Parameter, Shape, buffer


class Flatten(Layer):
    """(C, H, W, N) to (C*H*W, N), in that order, which is PyTorch's. A copy where the images lie in
    memory in another order.

    A max pooling before it (or a ReLU between) writes them in this one.
    """

    kind = "flatten"

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        self._features = math.prod(input_shape)
        self._shape = (*input_shape, microbatch_size)
        self._make_output = partial(buffer, self._shape, dtype)
        self._output: Array | None = None
        return (self._features,)

    def forward(self, x: Array) -> Array:
        if not x.flags.c_contiguous:
            if self._output is None:
                self._output = self._make_output()
            np.copyto(self._output, x)
            x = self._output
        return x.reshape(self._features, -1)

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        return grad_output.reshape(self._shape) if input_gradient else None


SMALL_PRODUCT = 10**6
"""Multiplications up to which OpenBLAS reads its operands where they lie; for larger products it
first copies all of a weight matrix, of which each number then serves for the few columns of one
microbatch."""
FEWEST_ROWS = 16
"""Of a block: with fewer, the calls cost more than the copies."""


class Dense(Layer):
    """``y = W x + b``: (in_features, N) to (out_features, N).

    Backward, with G = dL/dy: y[o, n] = sum over i of W[o, i] x[i, n] + b[o], so ``dL/dW = G x^T``,
    ``dL/db = sum over n of G`` and ``dL/dx = W^T G`` (Rumelhart, Hinton and Williams 1986).
    Parameters: ``weight`` (out_features, in_features), ``bias`` (out_features,). The number of
    inputs is the input's, so it is not given (PyTorch's ``Linear(784, 10)`` is ``Dense(10)``).
    ``ArgumentError`` for other arguments, ``ValueError`` when out_features is below 1 or the input
    is not flat.
    """

    kind, needs_output, gives_away_gradient = "dense", False, True

    @explained(
        "write Dense(out_features), and weight_initialiser=..., bias_initialiser=... by name: the"
        " number of inputs is the input's (PyTorch's Linear(784, 10) is Dense(10) here)"
    )
    def __init__(
        self,
        out_features: int,
        *,
        weight_initialiser: Initialiser = he_normal,
        bias_initialiser: Initialiser = zeros,
    ) -> None:
        if not is_count(out_features, 1):
            raise ValueError(f"out_features (={out_features!r}) must be an integer of at least 1")
        self.out_features = out_features
        self.weight_initialiser = weight_initialiser
        self.bias_initialiser = bias_initialiser

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        if len(input_shape) != 1:
            raise ValueError(
                f"Dense takes flat inputs (features,), but its input has shape {input_shape}: put"
                " Flatten before it"
            )
        self.in_features = input_shape[0]
        self._output = buffer((self.out_features, microbatch_size), dtype)
        self._grad_input = buffer((self.in_features, microbatch_size), dtype)
        self._blocks_of_outputs = blocks_of_rows(
            self.out_features, self.in_features * microbatch_size
        )
        self._input_turned = buffer(
            (microbatch_size if self._blocks_of_outputs > 1 else 0, self.in_features), dtype
        )
        self._blocks_of_inputs = blocks_of_rows(
            self.in_features, self.out_features * microbatch_size
        )
        return (self.out_features,)

    def parameters(self) -> tuple[Parameter, ...]:
        fans = (self.in_features, self.out_features)
        return (
            Parameter(
                "weight", (self.out_features, self.in_features), self.weight_initialiser, *fans
            ),
            Parameter("bias", (self.out_features,), self.bias_initialiser, *fans),
        )

    def bind(self, values: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        self._weight, self._bias = values["weight"], values["bias"][:, np.newaxis]
        self._grad_weight, self._grad_bias = grads["weight"], grads["bias"]

    def forward(self, x: Array) -> Array:
        self._input = x
        np.matmul(self._by_outputs(self._weight), x, out=self._by_outputs(self._output))
        self._output += self._bias
        return self._output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        turned = self._input.T
        if self._blocks_of_outputs > 1:
            np.copyto(
                self._input_turned, turned
            )  # small products are fast where no operand must be turned
            turned = self._input_turned
        np.matmul(self._by_outputs(grad_output), turned, out=self._by_outputs(self._grad_weight))
        np.sum(grad_output, axis=1, out=self._grad_bias)
        if not input_gradient:
            return None
        blocks = self._blocks_of_inputs
        weights_of_blocks = self._weight.reshape(self.out_features, blocks, -1).transpose(1, 2, 0)
        np.matmul(
            weights_of_blocks,
            grad_output,
            out=self._grad_input.reshape(blocks, -1, grad_output.shape[1]),
        )
        return self._grad_input

    def _by_outputs(self, matrix: Array) -> Array:
        """``matrix`` (out_features, columns) as (blocks, rows, columns)."""
        return matrix.reshape(self._blocks_of_outputs, -1, matrix.shape[1])


def blocks_of_rows(rows: int, multiplications_of_a_row: int) -> int:
    """Into how many equal blocks to cut ``rows`` so that each makes a small product; 1 where that
    cannot be.

    A pure function of shapes, so the same on all ranks.
    """
    for blocks in range(1, rows // FEWEST_ROWS + 1):
        if rows % blocks == 0 and rows // blocks * multiplications_of_a_row <= SMALL_PRODUCT:
            return blocks
    return 1
