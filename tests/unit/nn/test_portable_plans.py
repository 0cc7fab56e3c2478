"""Plans in portable arithmetic: results do not depend on the order of sums, and they are those of
float64 to the bits that operands have.
"""

from __future__ import annotations

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
from distcnn.nn.layer import Array, Layer
from tests.support.networks import Network, planned, run_twice
from tests.support.sums import MATMUL, ORDERS, Multiply, skipping_zeros

examples = settings(deadline=None, derandomize=True, max_examples=60)


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


IM2COL, WINOGRAD = Conv2d(3, 3, stride=(1, 2)), Conv2d(24, 3)
"""For inputs of 8 channels or more."""
PRECISIONS = [
    ([IM2COL], 2e-6),
    ([IM2COL, AvgPool2d(2)], 2e-6),
    ([Conv2d(3, 2, padding=1)], 2e-6),
    ([Flatten(), Dense(30)], 2e-6),
    # 16 bits or more, times what the transforms make of their rounding.
    ([WINOGRAD], 1e-4),
    ([Conv2d(24, 3, padding=1), AvgPool2d(2)], 1e-4),
    ([Conv2d(24, 5)], 1e-4),
    ([Conv2d(24, (3, 2))], 5e-4),
    ([Conv2d(64, (4, 2), padding=2)], 5e-4),
    ([Conv2d(24, (2, 7), padding=(0, 3))], 1e-4),
]


@pytest.mark.parametrize(("layers", "error"), PRECISIONS)
@pytest.mark.parametrize(
    ("scale", "grad_scale"), [(1, 1), (1e-12, 1e-12), (1e-35, 1), (1e20, 1), (1, 1e-36)]
)
def test_results_are_those_of_float64_to_the_bits_of_operands(
    layers: list[Layer], error: float, scale: float, grad_scale: float
) -> None:
    shape, count = (8, 9, 12), 5
    ours, expected = (
        made(layers, shape, count, arithmetic, dtype)
        for arithmetic, dtype in ((PORTABLE, np.float32), (NATIVE, np.float64))
    )
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((*shape, count)) * scale).astype(np.float32)
    grads = rng.standard_normal((*ours.output_shape, count)) * grad_scale
    grad_output = grads.astype(np.float32)
    for network in (ours, expected):
        network.parameters.assign(without_bias(network))
    with numpy_settings():
        results = [(run.forward(x), run.backward(grad_output, True)) for run in (ours, expected)]
    pairs = [*zip(*results, strict=True), (ours.grads, expected.grads)]
    for found, exact in pairs:
        assert np.abs(found - exact).max() <= error * np.abs(exact).max()


def without_bias(network: Network) -> Array:
    values = network.values.copy()
    for name, array in network.parameters.named(values).items():
        if name.endswith("bias"):
            array.fill(0)
    return values


@pytest.mark.parametrize("layers", [[IM2COL], [WINOGRAD], [WINOGRAD, MaxPool2d(2)], [Dense(9)]])
def test_a_gradient_of_float64_is_rounded_as_one_of_float32(layers: list[Layer]) -> None:
    """A loss gives float64, if what it sees is not a float32 gradient of another layer."""
    shape, count = ((8, 9, 12), 5) if not isinstance(layers[0], Dense) else ((96,), 5)
    network = made(layers, shape, count)
    rng = np.random.default_rng(0)
    network.forward(rng.standard_normal((*shape, count)).astype(np.float32))
    grad_output = rng.standard_normal((*network.output_shape, count)).astype(np.float32)
    narrow = as_bytes([network.backward(grad_output, True), network.grads])
    wide = as_bytes([network.backward(grad_output.astype(np.float64), True), network.grads])
    assert narrow == wide
    assert all(grads.any() for grads in network.named_grads().values())


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("layer", [IM2COL, WINOGRAD])
def test_images_of_other_types(layer: Layer, kind: type[np.number]) -> None:
    network = made([layer], (8, 9, 12), 2)
    x = np.random.default_rng(0).integers(0, 200, (8, 9, 12, 2)).astype(kind)
    found = network.forward(x).copy()
    assert as_bytes([found]) == as_bytes([network.forward(x.astype(np.float32))])


@examples
@given(networks())
def test_fused_layers_have_the_bits_of_one_after_another(
    case: tuple[list[Layer], tuple[int, int, int], int],
) -> None:
    network = made(*case)
    assert as_bytes(results(network)) == as_bytes(results(network.unfused()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**101])
@pytest.mark.parametrize("layer", [IM2COL, WINOGRAD, Dense(2)])
@pytest.mark.parametrize("multiply", [MATMUL, skipping_zeros])
def test_what_has_no_grid_makes_all_that_it_enters_nan(
    layer: Layer, bad: float, multiply: Multiply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "matmul", multiply)
    layers, shape = [Flatten(), layer] if isinstance(layer, Dense) else [layer], (8, 6, 6)
    network = made(layers, shape, 3)
    x = np.zeros((*shape, 3), np.float32)
    grad_output = np.zeros((*network.output_shape, 3), np.float32)
    x[0, 0, 0, 0] = bad
    with numpy_settings():
        assert np.isnan(network.forward(x)).all()
        x.fill(1)
        assert not np.isnan(network.forward(x)).any()
        values = network.values.copy()
        values[0] = bad
        network.parameters.assign(values)
        assert np.isnan(network.forward(x)).all()
        x[0, 0, 0, 0] = bad
        network.parameters.assign(np.zeros_like(values))
        assert np.isnan(network.forward(x)).all()
        grad_output.flat[0] = bad
        network.backward(grad_output)
    assert np.isnan(network.named_grads()[f"{network.model.names[-1]}.bias"]).any()


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e-30, 1e25])
@pytest.mark.parametrize("layer", [IM2COL, WINOGRAD, Dense(4)])
def test_zeros_tiny_and_large_numbers(layer: Layer, scale: float) -> None:
    layers = [Flatten(), layer] if isinstance(layer, Dense) else [layer]
    network, exact = (made(layers, (8, 9, 9), 3, *kind) for kind in ((), (NATIVE, np.float64)))
    x = (np.random.default_rng(0).standard_normal((8, 9, 9, 3)) * scale).astype(np.float32)
    for each in (network, exact):
        each.parameters.assign(without_bias(each))
    with numpy_settings():
        ours, expected = network.forward(x), exact.forward(x.astype(np.float64))
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max() + 2.0**-149


@pytest.mark.parametrize("layer", [IM2COL, WINOGRAD, Dense(3)])
def test_new_values_are_rounded_anew(layer: Layer) -> None:
    layers = [Flatten(), layer] if isinstance(layer, Dense) else [layer]
    network = made(layers, (8, 9, 9), 2)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 9, 9, 2)).astype(np.float32)
    grad_output = rng.standard_normal((*network.output_shape, 2)).astype(np.float32)

    def both() -> list[Array]:
        return [network.forward(x).copy(), np.copy(network.backward(grad_output, True))]

    before = both()
    with network.parameters.changing() as values:
        values *= 2
    for now, then in zip(both(), before, strict=True):
        np.testing.assert_array_equal(now, then * 2)


@pytest.mark.parametrize("layer", [IM2COL, WINOGRAD, Dense(3)])
def test_no_gradient_of_a_parameter_is_minus_zero(layer: Layer) -> None:
    layers = [Flatten(), layer] if isinstance(layer, Dense) else [layer]
    network = made(layers, (8, 9, 9), 2)
    network.forward(np.full((8, 9, 9, 2), 1e-30, np.float32))
    network.backward(np.full((*network.output_shape, 2), -1e-30, np.float32))
    for name, grads in network.named_grads().items():
        assert name.endswith("bias") or not grads.any()  # below all float32 numbers
        assert not np.signbit(grads[grads == 0]).any()


def test_values_by_hand() -> None:
    network = made([Conv2d(1, 2)], (1, 2, 3), 1)
    network.parameters.assign([1, 2, 3, 4, 0.5])  # weights row by row, bias
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    assert network.forward(x).ravel().tolist() == [0 + 2 + 9 + 16 + 0.5, 1 + 4 + 12 + 20 + 0.5]
    grad_input: Any = network.backward(np.ones((1, 1, 2, 1), np.float32), input_gradient=True)
    assert network.named_grads()["conv1.weight"].ravel().tolist() == [1, 3, 7, 9]
    assert network.named_grads()["conv1.bias"].tolist() == [2]
    assert grad_input.ravel().tolist() == [1, 3, 2, 3, 7, 4]
