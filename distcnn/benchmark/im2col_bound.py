"""The bound that a step is measured against: the matrix products of im2col, alone.

A step must compute its products, and BLAS computes them. What they take alone, in the shapes of
the textbook and with the same BLAS, is a yardstick that does not depend on the kernels. One
microbatch of N examples needs, for a convolution of K = C kh kw inputs to each output and O output
channels, and for a dense layer of I inputs and O outputs,

              forward               weight gradient           input gradient
    Conv2d    (O, K) (K, oh ow N)   (K, oh ow N) (oh ow N, O)   (K, O) (O, oh ow N)
    Dense     (O, I) (I, N)         (O, N) (N, I)               (I, O) (O, N)

and no input gradient for the first of them. The convolution's weight gradient is X G^T, which BLAS
computes faster than G X^T. A kernel may need fewer multiplications (Winograd), so a step can be
faster than this bound.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from distcnn.nn import Conv2d, Dense, Sequential
from distcnn.nn.layer import Array, Shape
from distcnn.spans import MEASURE, Span

_MEASURE = Span(MEASURE)


Product = tuple[Array, Array, Array]
"""Two matrices, and room for their product."""


def im2col_products(model: Sequential, input_shape: Shape, microbatch_size: int) -> list[Product]:
    """The products of one microbatch: forward in the order of the layers, then backward."""
    forward: list[Product] = []
    backward: list[Product] = []
    shapes = pairwise(model.shapes(input_shape))
    for layer, (inputs, outputs) in zip(model.layers, shapes, strict=True):
        if isinstance(layer, Conv2d):
            terms, positions = inputs[0] * math.prod(layer.kernel_size), math.prod(outputs[1:])
        elif isinstance(layer, Dense):
            terms, positions = inputs[0], 1
        else:
            continue
        columns = positions * microbatch_size
        weight, x = _random(outputs[0], terms), _random(terms, columns)
        y = _random(outputs[0], columns)
        for_input = [_product(weight.T, y)] if forward else []
        forward.append(_product(weight, x))
        for_weight = _product(x, y.T) if isinstance(layer, Conv2d) else _product(y, x.T)
        backward = [for_weight, *for_input, *backward]
    return forward + backward


def seconds_of(products: Sequence[Product]) -> float:
    """How long ``products`` take, one after the other."""
    with _MEASURE:
        start = time.perf_counter()
        for first, second, out in products:
            np.matmul(first, second, out=out)
        return time.perf_counter() - start


def _product(first: Array, second: Array) -> Product:
    return first, second, np.empty((first.shape[0], second.shape[1]), np.float32)


def _random(rows: int, columns: int) -> Array:
    return np.random.default_rng(0).random((rows, columns), np.float32)
