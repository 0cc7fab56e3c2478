"""Plans in portable arithmetic: results do not depend on the order of sums, and they are those of
float64 to the bits that operands have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.models import MODELS
from distcnn.nn import (
    NATIVE,
    PORTABLE,
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    ReLU,
    Sequential,
    numpy_settings,
)
from distcnn.nn.kernels import exact_algorithms, exact_dense, exact_products, exact_winograd
from distcnn.nn.kernels.algorithms import Geometry, choose_tiling
from distcnn.nn.kernels.blocking import Blocking
from distcnn.nn.layer import Array, Layer
from distcnn.portable import grids
from tests.support.networks import Network, planned, run_twice

Multiply = Callable[..., Array]
MATMUL = np.matmul
examples = settings(deadline=None, derandomize=True, max_examples=60)


def matmul_by(sums: Multiply) -> Multiply:
    """``np.matmul`` with the products of two stacks of matrices computed by ``sums``."""

    def multiply(a: Array, b: Array, out: Array | None = None) -> Array:
        result = sums(a, b[:, np.newaxis])[..., 0] if b.ndim == 1 else sums(a, b)
        if out is None:
            return result
        out[...] = result
        return out

    return multiply


@matmul_by
def reversed_sums(a: Array, b: Array) -> Array:
    """Each sum from its last term to its first, one term after another."""
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*outer, a.shape[-2], b.shape[-1]), np.result_type(a, b))
    for k in reversed(range(a.shape[-1])):
        total += a[..., :, k : k + 1] * b[..., k : k + 1, :]
    return total


@matmul_by
def sums_in_blocks(a: Array, b: Array) -> Array:
    """The sums of blocks of terms, added up."""
    block = 7
    total = MATMUL(a[..., :block], b[..., :block, :])
    for k in range(block, a.shape[-1], block):
        total += MATMUL(a[..., k : k + block], b[..., k : k + block, :])
    return total


@matmul_by
def checked_sums(a: Array, b: Array) -> Array:
    """The product, if it is the same in two orders."""
    result = MATMUL(a, b)
    if (result != reversed_sums(a, b)).any():
        raise Inexact
    return result


class Inexact(Exception):
    """A product depends on the order of its sums."""


ORDERS: list[Multiply] = [reversed_sums, sums_in_blocks]


def made(
    layers: list[Layer] | Sequential,
    shape: tuple[int, int, int],
    count: int,
    arithmetic: str = PORTABLE,
    dtype: type[np.floating] = np.float32,
) -> Network:
    network = planned(layers, shape, count, dtype, arithmetic=arithmetic)
    values = np.random.default_rng(5).standard_normal(network.values.shape)
    network.parameters.assign(values.astype(np.float32) * np.float32(0.2))
    return network


def results(network: Network) -> list[Array]:
    with numpy_settings():
        return run_twice(network)


def as_bytes(arrays: list[Array]) -> list[bytes]:
    return [(array + 0.0).tobytes() for array in arrays]


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[Layer], tuple[int, int, int], int]:
    """A convolution of any kind (im2col and Winograd), what may follow it, and a dense layer."""
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride = draw(st.sampled_from([1, 1, 1, 2])), draw(st.sampled_from([1, 1, 1, 2]))
    conv = Conv2d(
        draw(st.sampled_from([1, 3, 17, 20])),
        kernel,
        stride=stride,
        padding=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
    )
    channels = draw(st.sampled_from([1, 3, 8, 24]))
    shape = channels, kernel[0] + draw(st.integers(1, 9)), kernel[1] + draw(st.integers(1, 9))
    layers: list[Layer] = [conv]
    height, width = conv.output_shape(shape)[1:]
    if height > 1 and width > 1:
        layers += draw(
            st.sampled_from(
                [[], [ReLU()], [MaxPool2d(2)], [MaxPool2d(2), ReLU()], [AvgPool2d(2)],
                 [MaxPool2d((2, 1)), ReLU()], [MaxPool2d(2, 1)]]
            )
        )  # fmt: skip
    return [*layers, Flatten(), Dense(draw(st.integers(1, 40)))], shape, draw(st.integers(1, 9))


@examples
@given(networks(), st.sampled_from(ORDERS))
def test_bits_do_not_depend_on_the_order_of_sums(
    case: tuple[list[Layer], tuple[int, int, int], int], order: Multiply
) -> None:
    expected = as_bytes(results(made(*case)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "matmul", order)
        assert as_bytes(results(made(*case))) == expected


@pytest.mark.parametrize("name", MODELS)
def test_the_order_of_sums_matters_to_native_arithmetic_only(name: str) -> None:
    model = MODELS[name]((1, 28, 28), 10)
    found: dict[str, list[list[bytes]]] = {PORTABLE: [], NATIVE: []}
    for arithmetic, seen in found.items():
        for order in (MATMUL, *ORDERS):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(np, "matmul", order)
                seen.append(as_bytes(results(made(model, (1, 28, 28), 4, arithmetic))))
    assert all(each == found[PORTABLE][0] for each in found[PORTABLE])
    assert any(each != found[NATIVE][0] for each in found[NATIVE])


def with_more_bits(bits: Callable[..., int], more: int, *terms: int) -> int:
    return bits(*terms) + more


OPERAND_BITS = [
    (exact_algorithms, "operand_bits"),
    (exact_algorithms, "FLOAT32_ROUNDED_BITS"),
    (exact_dense, "operand_bits"),
]
SUM_BITS = [(exact_winograd, "PRECISION")]
TRANSFORM_BITS = [(exact_winograd, name) for name in ("FLOAT32_PRECISION", "FLOAT32_ROUNDED_BITS")]


@pytest.mark.parametrize(
    ("layer", "count", "limits", "more"),
    # A dense layer has the bits for all its features, but takes them in three blocks. Winograd's
    # operands stay some bits below their bounds, which hold for any images. With few columns it is
    # not the sums of dU that limit d and dy, but the transforms.
    [
        (Conv2d(3, 3), 16, OPERAND_BITS, 2),
        (Dense(100), 16, OPERAND_BITS, 2),
        (Conv2d(30, 3), 16, SUM_BITS, 6),
        (Conv2d(30, (3, 5)), 16, SUM_BITS, 6),
        (Conv2d(30, 3), 1, TRANSFORM_BITS, 2),
        (Conv2d(30, (3, 5)), 1, TRANSFORM_BITS, 2),
    ],
)
def test_every_product_is_exact_and_with_more_bits_an_operand_not(
    layer: Layer,
    count: int,
    limits: list[tuple[ModuleType, str]],
    more: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Numbers of one sign and about one magnitude, whose sums come close to the largest possible.
    shape = 16, 9, 9
    layers = [Flatten(), layer] if isinstance(layer, Dense) else [layer]
    monkeypatch.setattr(np, "matmul", checked_sums)

    def run() -> None:
        rng, network = np.random.default_rng(0), planned(layers, shape, count, arithmetic=PORTABLE)
        network.parameters.assign(rng.uniform(0.8, 0.999, network.values.shape))
        network.forward(rng.uniform(0.8, 0.999, (*shape, count)).astype(np.float32))
        output_shape = (*network.output_shape, count)
        grad_output = rng.uniform(0.8, 0.999, output_shape).astype(np.float32)
        network.backward(grad_output, input_gradient=True)

    run()
    for module, name in limits:
        limit = getattr(module, name)
        raised = limit + more if isinstance(limit, int) else partial(with_more_bits, limit, more)
        monkeypatch.setattr(module, name, raised)
    with pytest.raises(ValueError, match="not exact"):  # when the plan is made
        run()
    for module in (exact_algorithms, exact_winograd, exact_dense):
        monkeypatch.setattr(module, "require_exact", lambda *bits: None)
    with pytest.raises(Inexact):
        run()


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 2000)),
)
def test_winograd_leaves_operands_16_bits(
    kernel: tuple[int, int], channels: tuple[int, int], size: tuple[int, int, int]
) -> None:
    height, width, count = size
    padded_height, (given, filters) = height + kernel[0] - 1, channels
    geometry = Geometry(given, padded_height, filters, kernel, (1, 1), (height, width), count)
    tiling = choose_tiling(geometry)
    if not tiling.is_winograd:
        return
    matrices = exact_winograd.Matrices(tiling.tile_width, kernel[1])
    bits = exact_winograd.Bits.of(matrices, Blocking(geometry, tiling, 1, 4), precision=24)
    assert min(bits.pixels, bits.grads, bits.weights) >= 16


@examples
@given(networks())
def test_results_are_those_of_float64_to_the_bits_of_operands(
    case: tuple[list[Layer], tuple[int, int, int], int],
) -> None:
    if any(isinstance(layer, (MaxPool2d, ReLU)) for layer in case[0]):
        return  # a value that changes sides changes gradients
    ours = results(made(*case))
    expected = results(made(*case, NATIVE, np.float64))
    for one, other in zip(ours, expected, strict=True):
        assert np.abs(one - other).max() <= 2e-5 * np.abs(other).max() + 1e-30


@examples
@given(networks())
def test_fused_layers_have_the_bits_of_one_after_another(
    case: tuple[list[Layer], tuple[int, int, int], int],
) -> None:
    network = made(*case)
    assert as_bytes(results(network)) == as_bytes(results(network.unfused()))


def test_sums_of_more_terms_than_are_exact_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    layers: list[Layer] = [Conv2d(20, 5), MaxPool2d(2), ReLU(), Flatten(), Dense(10)]
    whole = results(made(layers, (8, 12, 12), 6))
    for module in (grids, exact_products, exact_algorithms, exact_winograd, exact_dense):
        monkeypatch.setattr(module, "MOST_TERMS", 16)
    split = results(made(layers, (8, 12, 12), 6))
    for one, other in zip(split, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())
    monkeypatch.setattr(np, "matmul", reversed_sums)
    assert as_bytes(results(made(layers, (8, 12, 12), 6))) == as_bytes(split)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**101])
@pytest.mark.parametrize("layer", [Conv2d(2, 3), Dense(2)])
def test_what_has_no_grid_makes_the_whole_output_nan(layer: Layer, bad: float) -> None:
    layers, shape = ([layer], (1, 6, 6)) if isinstance(layer, Conv2d) else (
        [Flatten(), layer], (1, 6, 6))  # fmt: skip
    network = made(layers, shape, 3)
    x = np.random.default_rng(0).standard_normal((*shape, 3)).astype(np.float32)
    x[0, 0, 0, 0] = bad
    with numpy_settings():
        assert np.isnan(network.forward(x)).all()


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e-30, 1e25])
def test_zeros_tiny_and_large_numbers(scale: float) -> None:
    layers: list[Layer] = [Conv2d(3, 3), Flatten(), Dense(4)]
    network = made(layers, (2, 6, 6), 3)
    x = (np.random.default_rng(0).standard_normal((2, 6, 6, 3)) * scale).astype(np.float32)
    exact = made(layers, (2, 6, 6), 3, NATIVE, np.float64)
    with numpy_settings():
        ours, expected = network.forward(x), exact.forward(x.astype(np.float64))
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


def test_new_values_are_rounded_anew() -> None:
    network = made([Flatten(), Dense(3)], (1, 2, 2), 1)
    x = np.ones((1, 2, 2, 1), np.float32)
    before = network.forward(x).copy()
    with network.parameters.changing() as values:
        values *= 2
    np.testing.assert_array_equal(network.forward(x), before * 2)


def test_values_by_hand() -> None:
    network = made([Conv2d(1, 2)], (1, 2, 3), 1)
    network.parameters.assign([1, 2, 3, 4, 0.5])  # weights row by row, bias
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    assert network.forward(x).ravel().tolist() == [0 + 2 + 9 + 16 + 0.5, 1 + 4 + 12 + 20 + 0.5]
    grad_input: Any = network.backward(np.ones((1, 1, 2, 1), np.float32), input_gradient=True)
    assert network.named_grads()["conv1.weight"].ravel().tolist() == [1, 3, 7, 9]
    assert network.named_grads()["conv1.bias"].tolist() == [2]
    assert grad_input.ravel().tolist() == [1, 3, 2, 3, 7, 4]
