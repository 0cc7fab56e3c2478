"""The plain products of a network: those of im2col, from its layers' shapes alone, on arrays of
their own.

A kernel may need fewer multiplications than these (by tricks), or the same in other shapes. So
beside the products that a step really calls (``distcnn.benchmark.matrix_products``) these are a
yardstick that stays where it is whatever kernels do. One microbatch needs, with the letters of
``distcnn.nn.layer`` and O outputs,

    Conv2d   forward  (O, K) x (K, oh*ow*N)     weights  (K, oh*ow*N) x (oh*ow*N, O)     input  (K, O) x (O, oh*ow*N)
    Dense    forward  (O, I) x (I, N)           weights  (O, N) x (N, I)                 input  (I, O) x (O, N)

and no input gradient for the first layer with parameters. The convolution's weight gradient stands
as X G^T, which BLAS computes faster than G X^T.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from distcnn.benchmark.matrix_products import Product, count_operations
from distcnn.nn import Conv2d, Dense
from distcnn.nn.kernels.arena import buffer
from distcnn.nn.planned import PlannedNetwork


def plain_products(network: PlannedNetwork) -> list[Product]:
    """Those of one microbatch, forward in the layers' order, then backward; layers of other kinds
    have none.
    """
    forward: list[Product] = []
    backward: list[list[Product]] = []
    shapes = network.model.shapes(network.input_shape)
    for layer, input_shape, output_shape in zip(
        network.layers, shapes[:-1], shapes[1:], strict=True
    ):
        if isinstance(layer, Conv2d):
            positions = math.prod(output_shape[1:]) * network.microbatch_size
            products = list(
                _of_layer(
                    layer.out_channels,
                    input_shape[0] * math.prod(layer.kernel_size),
                    positions,
                    long_first=True,
                )
            )
        elif isinstance(layer, Dense):
            products = list(
                _of_layer(
                    layer.out_features, input_shape[0], network.microbatch_size, long_first=False
                )
            )
        else:
            continue
        forward.append(products[0])
        backward.append(products[1:] if backward else products[1:2])
    return forward + [product for products in reversed(backward) for product in products]


def _of_layer(outputs: int, inputs: int, columns: int, long_first: bool) -> Iterator[Product]:
    weight, x, y = _random(outputs, inputs), _random(inputs, columns), _random(outputs, columns)
    yield _product(weight, x, buffer((outputs, columns), np.float32))
    if long_first:
        yield _product(x, y.T, buffer((inputs, outputs), np.float32))
    else:
        yield _product(y, x.T, buffer((outputs, inputs), np.float32))
    yield _product(weight.T, y, buffer((inputs, columns), np.float32))


def _product(first: np.ndarray, second: np.ndarray, out: np.ndarray) -> Product:
    return Product(np.matmul, (first, second), {"out": out}, count_operations(first, out))


def _random(*shape: int) -> np.ndarray:
    array = buffer(shape, np.float32)
    array[...] = np.random.default_rng(0).random(shape, np.float32)
    return array
