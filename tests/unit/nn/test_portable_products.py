"""The products of portable plans are exact, and with more bits an operand they are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.nn import PORTABLE, Conv2d, Dense, Flatten
from distcnn.nn.kernels import exact_algorithms, exact_dense, exact_products, exact_winograd
from distcnn.nn.kernels.algorithms import Geometry, choose_tiling
from distcnn.nn.kernels.blocking import Blocking
from distcnn.nn.kernels.winograd import ALL_ONES
from distcnn.nn.layer import Layer
from distcnn.portable import grids
from tests.support.networks import planned
from tests.support.sums import MATMUL, Shapes, checked

SHAPE = 16, 9, 9
Limits = list[tuple[ModuleType, str]]
OPERAND_BITS: Limits = [
    *((exact_algorithms, name) for name in ("operand_bits", "FLOAT32_ROUNDED_BITS")),
    (exact_dense, "operand_bits"),
]
SUM_BITS: Limits = [(exact_winograd, name) for name in ("PRECISION", "MOST_BITS")]
TRANSFORM_BITS: Limits = [
    (exact_winograd, name) for name in ("FLOAT32_PRECISION", "FLOAT32_ROUNDED_BITS")
]


def run(layer: Layer, count: int) -> None:
    """Forward and backward, with numbers of one sign and about one magnitude: their sums come close
    to the largest possible.
    """
    layers = [Flatten(), layer] if isinstance(layer, Dense) else [layer]
    rng, network = np.random.default_rng(0), planned(layers, SHAPE, count, arithmetic=PORTABLE)
    network.parameters.assign(rng.uniform(0.8, 0.999, network.values.shape))
    network.forward(rng.uniform(0.8, 0.999, (*SHAPE, count)).astype(np.float32))
    output_shape = (*network.output_shape, count)
    grad_output = rng.uniform(0.8, 0.999, output_shape).astype(np.float32)
    network.backward(grad_output, input_gradient=True)


def with_more_bits(bits: Callable[..., int], more: int, *terms: int) -> int:
    return bits(*terms) + more


@pytest.mark.parametrize(
    ("layer", "count", "limits", "more", "products"),
    # Some bits more than one, because bounds hold for any images, and these stay below them. Other
    # products of the first two have so few terms that float32 operands cannot exceed float64. With
    # few columns it is not the sums of dU that limit d and dy, but the transforms.
    [
        (Conv2d(3, 3), 16, OPERAND_BITS, 7, "W V, dW"),
        (Dense(100), 64, OPERAND_BITS, 7, "W x, dW, dx"),
        (Conv2d(30, 3), 16, SUM_BITS, 10, "U V, A^T M, dU, dV, B dV"),
        (Conv2d(30, (3, 5)), 16, SUM_BITS, 10, "U V, A^T M, dU, dV, B dV"),
        (Conv2d(30, 3), 1, TRANSFORM_BITS, 6, "B^T d, A dy"),
        (Conv2d(30, (3, 5)), 1, TRANSFORM_BITS, 6, "B^T d"),
    ],
)
def test_every_product_is_exact_and_with_more_bits_an_operand_not(
    layer: Layer,
    count: int,
    limits: Limits,
    more: int,
    products: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inexact: set[Shapes] = set()
    monkeypatch.setattr(np, "matmul", checked(inexact))
    run(layer, count)
    assert not inexact
    for module, name in limits:
        limit = getattr(module, name)
        raised = limit + more if isinstance(limit, int) else partial(with_more_bits, limit, more)
        monkeypatch.setattr(module, name, raised)
    with pytest.raises(ValueError, match="not exact"):  # when the plan is made
        run(layer, count)
    for module in (exact_algorithms, exact_winograd, exact_dense):
        monkeypatch.setattr(module, "require_exact", lambda *bits: None)
    run(layer, count)
    assert len(inexact) >= len(products.split(", ")), inexact


@pytest.mark.parametrize("layer", [Conv2d(3, 3), Conv2d(30, 3), Dense(100)])
def test_sums_of_more_terms_than_are_exact_are_split(
    layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    inexact: set[Shapes] = set()
    check = checked(inexact)

    def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if b.ndim > 1:  # else it is a sum for a bias
            seen.add(a.shape[-1])
        return check(a, b, out)

    monkeypatch.setattr(np, "matmul", multiply)
    run(layer, 16)
    assert max(seen) > 40
    for module in (grids, exact_products, exact_algorithms, exact_winograd, exact_dense):
        monkeypatch.setattr(module, "MOST_TERMS", 16)
    seen.clear()
    run(layer, 16)
    assert max(seen) == 16
    assert not inexact


@pytest.mark.parametrize("layer", [Conv2d(30, 3), Conv2d(30, (3, 5))])
def test_what_winograd_transforms_back_are_integers(
    layer: Conv2d, monkeypatch: pytest.MonkeyPatch
) -> None:
    products, width = [], layer.kernel_size[1]
    matrices = exact_winograd.Matrices({3: 4, 5: 3}[width], width)
    back = {matrices.a_transposed.shape, matrices.b.shape}

    def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if a.dtype == np.float64 and a.shape in back:
            products.append(b.copy())
        return MATMUL(a, b, out=out)

    monkeypatch.setattr(np, "matmul", multiply)
    run(layer, 16)
    assert len(products) > 1
    for product in products:
        np.testing.assert_array_equal(product, np.rint(product))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 40000), st.integers(1, 40000)),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 2000)),
)
def test_winograd_leaves_operands_16_bits_and_products_as_many_as_they_need(
    kernel: tuple[int, int], channels: tuple[int, int], size: tuple[int, int, int]
) -> None:
    height, width, count = size
    padded_height, (inputs, filters) = height + kernel[0] - 1, channels
    geometry = Geometry(inputs, padded_height, filters, kernel, (1, 1), (height, width), count)
    tiling = choose_tiling(geometry)
    if not tiling.is_winograd:
        return
    matrices = exact_winograd.Matrices(tiling.tile_width, kernel[1])
    bits = exact_winograd.Bits.of(matrices, Blocking(geometry, tiling, 1, 4), precision=24)
    assert min(bits.pixels, bits.grads, bits.weights) >= 16
    assert max(bits.rows, bits.grad_products) <= 24
    for back, operand, terms in (
        (matrices.a_transposed, bits.rows, kernel[0] * inputs),
        (matrices.b, bits.grad_products, kernel[0] * filters),
    ):
        largest = operand + bits.weight_exponent + grids.bits_of_terms(terms)
        grids.require_exact(largest, grids.bits_of_transform(back), 1)
    assert set(matrices.a[ALL_ONES]) == {1}  # its unit is that of the bias's gradient, too
