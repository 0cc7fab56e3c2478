"""Dense in portable arithmetic: operands are rounded to grids, so that products are exact."""

from collections.abc import Iterator

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.dense import SMALL_PRODUCT
from distcnn.nn.kernels.exact_products import multiply, store_gradient
from distcnn.nn.layer import Array, Call, Shape
from distcnn.portable.grids import (
    MOST_TERMS,
    anchor,
    bound_of,
    nan_without_grid,
    operand_bits,
    require_exact,
    round_by,
    round_to_grid,
)

BLOCK_FEATURES = 400
"""About how many input features a block has where products are large."""
PADDING = 16
"""Numbers after each row of a transposed block. Without them rows may be a multiple of 1 KiB apart,
and copies take twice the time, because columns share few sets of the cache."""
FEWEST_FEATURES = 64
"""The fewest of a block that makes a small product."""


class ExactDenseKernel:
    """``y = W x + b`` and its gradients. The bias is added to exact sums; its gradient is the exact
    sum of the rounded gradient of y.

    Products are taken in blocks of input features: a block of x is rounded when it is used, and a
    block of gradients is converted to the network's type, while they are in the caches. The blocks
    of W x are sums on a grid, and so is their sum. (With more than ``MOST_TERMS`` features the sum
    of the blocks may round; its order is fixed.)
    """

    def __init__(self, out_features: int, shape: Shape, buffers: Buffers) -> None:
        in_features, count = shape
        inner = buffers.of_type(np.float64)
        self._input_bits = operand_bits(in_features, count)
        self._weight_bits = operand_bits(in_features, out_features)
        self._grad_bits = operand_bits(count, out_features)
        for bits, other, terms in (
            (self._input_bits, self._weight_bits, in_features),
            (self._input_bits, self._grad_bits, count),
            (self._weight_bits, self._grad_bits, out_features),
        ):
            require_exact(bits, other, min(terms, MOST_TERMS))
        self._version = -1
        self._weight = inner.zeros((out_features, in_features))
        self._grad_output = inner.zeros((out_features, count))
        self._output = buffers.zeros((out_features, count))
        self._grad_input = buffers.zeros(shape)

        features = SMALL_PRODUCT // (out_features * count)
        self._is_small = features >= FEWEST_FEATURES
        wanted = features if self._is_small else BLOCK_FEATURES
        self._features = -(-in_features // -(-in_features // wanted))
        self._sum, self._part = (inner.zeros((out_features, count)) for _ in range(2))
        self._input_block = inner.zeros((self._features, count))
        self._transposed_block = inner.zeros((count, self._features + PADDING))
        self._grad_weight_block = inner.zeros((out_features, self._features))

    def forward(self, x: Array, call: Call) -> Array:
        if call.version != self._version:
            self._weight_bound = round_to_grid(
                call.values["weight"], self._weight_bits, self._weight
            )
            self._version = call.version
        bound = bound_of(x)
        self._input, self._anchor = x, anchor(bound, self._input_bits)
        self._sum.fill(0)
        for block in self._blocks():
            multiply(self._weight[:, block], self._rounded_input(block), self._part)
            self._sum += self._part
        bias = call.values["bias"] + nan_without_grid(bound, self._weight_bound)
        self._sum += bias[:, np.newaxis]
        np.copyto(self._output, self._sum, casting="same_kind")
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        round_to_grid(grad_output, self._grad_bits, self._grad_output)
        store_gradient(self._grad_output.sum(axis=1), call.grads["bias"])
        grad_weight = call.grads["weight"]
        for block in self._blocks():
            x_transposed = self._rounded_input(block).T
            exact = self._grad_weight_block[:, : len(x_transposed[0])]
            if self._is_small:  # BLAS is faster then with a copy
                copy = self._transposed_block[:, : len(x_transposed[0])]
                np.copyto(copy, x_transposed)
                x_transposed = copy
            multiply(self._grad_output, x_transposed, exact)
            store_gradient(exact, grad_weight[:, block])
        if not input_gradient:
            return None
        grads_transposed = np.ascontiguousarray(self._grad_output.T)
        for block in self._blocks():
            grads, weight = self._grad_input[block], self._weight[:, block]
            if self._is_small:
                exact = self._input_block[: len(grads)]
                multiply(weight.T, self._grad_output, exact)
                np.copyto(grads, exact, casting="same_kind")
            else:
                exact = self._transposed_block[:, : len(grads)]
                multiply(grads_transposed, weight, exact)
                np.copyto(grads, exact.T, casting="same_kind")
        return self._grad_input

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self._grad_input), self._features):
            yield slice(start, min(start + self._features, len(self._grad_input)))

    def _rounded_input(self, block: slice) -> Array:
        rounded = self._input_block[: block.stop - block.start]
        round_by(self._anchor, self._input[block], rounded)
        return rounded
