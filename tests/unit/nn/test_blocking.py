"""A convolution whose microbatch is too large for the caches takes it in strips, or in groups of
images: the numbers stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.nn import Conv2d, Flatten, MaxPool2d, ReLU, Sequential, Tanh, convolution
from distcnn.nn.gradient_check import gradient_error
from distcnn.nn.kernels import blocking
from distcnn.nn.kernels.algorithms import LEAST_DEPTH, LEAST_FILTERS
from distcnn.nn.kernels.fusion import Fused, fuse
from distcnn.nn.layer import Layer
from tests.support.networks import planned

Array = NDArray[np.floating]
Shape = tuple[int, int, int]
Layers = list[type[Layer] | tuple[type[Layer], tuple[object, ...]]]

NETWORKS: dict[str, tuple[Layers, Shape]] = {
    "direct, pooled": ([(Conv2d, (3, 5)), (MaxPool2d, (2,)), ReLU], (1, 12, 12)),
    "minimal": ([(Conv2d, (LEAST_FILTERS, 3)), Tanh], (LEAST_DEPTH, 6, 9)),
    "minimal, padded, of two strides": (
        [Tanh, (Conv2d, (LEAST_FILTERS, (3, 3), (2, 1), 1))],
        (LEAST_DEPTH, 6, 9),
    ),
    "minimal, pooled": (
        [Tanh, (Conv2d, (LEAST_FILTERS, 3)), (MaxPool2d, (2,)), ReLU],
        (LEAST_DEPTH, 6, 14),
    ),
    "minimal, pooled, a rest": (
        [Tanh, (Conv2d, (LEAST_FILTERS, 3)), (MaxPool2d, (2,))],
        (LEAST_DEPTH, 7, 9),
    ),
    "minimal after minimal": (
        [(Conv2d, (LEAST_DEPTH, 3)), ReLU, (Conv2d, (LEAST_FILTERS, 3)), (MaxPool2d, (2,))],
        (LEAST_DEPTH, 8, 10),
    ),
}
in_groups_of_two = pytest.mark.usefixtures("groups_of_two")


@pytest.fixture
def groups_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocking, "FEWEST_TOGETHER", 2)


def planned(name: str, count: int, dtype: type[np.floating] = np.float32) -> Sequential:
    return made_of(*NETWORKS[name], count, dtype)


def make_layer(make: Callable[..., Layer], arguments: tuple[Any, ...]) -> Layer:
    """The third and fourth of a convolution are its stride and padding."""
    return make(*arguments[:2], **dict(zip(("stride", "padding"), arguments[2:], strict=False)))


def made_of(layers: Layers, shape: Shape, count: int, dtype: type[np.floating]) -> Sequential:
    made = [make_layer(*each) if isinstance(each, tuple) else each() for each in layers]
    network = planned(Sequential(made), shape, count, dtype)
    network.values[:] = np.random.default_rng(5).standard_normal(network.values.shape)
    return network


def groups_of(network: Sequential) -> list[int]:
    return [len(layer._groups) for layer in network.layers if isinstance(layer, Conv2d)]


@in_groups_of_two
@pytest.mark.parametrize("name", NETWORKS)
def test_the_numbers_are_those_of_each_group_alone(name: str) -> None:
    whole, half = planned(name, 4), planned(name, 2)
    assert set(groups_of(whole)) == {2}
    assert set(groups_of(half)) == {1}
    rng = np.random.default_rng(1)
    for _ in range(2):  # a second microbatch: buffers that must start anew
        x = rng.standard_normal((*whole.input_shape, 4)).astype(np.float32)
        grad_y = rng.standard_normal((*whole.output_shape, 4)).astype(np.float32)
        y, grad_x, grads = whole.forward(x), whole.backward(grad_y, input_gradient=True), 0.0
        assert grad_x is not None
        for images in (slice(0, 2), slice(2, 4)):
            np.testing.assert_array_equal(half.forward(x[..., images]), y[..., images])
            expected = half.backward(grad_y[..., images], input_gradient=True)
            assert expected is not None
            np.testing.assert_array_equal(grad_x[..., images], expected)
            grads = grads + half.grads.astype(np.float64)
        np.testing.assert_allclose(whole.grads, grads, rtol=1e-4, atol=1e-4 * np.abs(grads).max())


@in_groups_of_two
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_check_is_passed(name: str) -> None:
    network, rng = planned(name, 4, np.float64), np.random.default_rng(2)
    assert (
        gradient_error(
            network.model, rng.standard_normal((*network.input_shape, 4)), rng, network.parameters
        )
        < 1e-5
    )


@in_groups_of_two
@pytest.mark.parametrize("name", [name for name in NETWORKS if "pooled" in name])
def test_fused_or_not_the_bits_are_the_same(name: str) -> None:
    network, rng = planned(name, 4), np.random.default_rng(3)
    is_fused = any(isinstance(stage, Fused) for _, stage in fuse(network.layers))
    assert is_fused == ("a rest" not in name)
    x = rng.standard_normal((*network.input_shape, 4)).astype(np.float32)
    results = []
    for observe in (None, lambda what, array: None):
        network.observe = observe
        y = network.forward(x).copy()
        grad_x = network.backward(y, input_gradient=True)
        assert grad_x is not None
        results.append((y, grad_x.copy(), network.grads.copy()))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


STRIPS: dict[str, tuple[Layers, Shape, int]] = {
    "direct, pooled": (*NETWORKS["direct, pooled"], 4),
    "direct, pooled, strips that share more than a step": (
        [Tanh, (Conv2d, (3, (1, 5))), (MaxPool2d, ((1, 2),)), ReLU],
        (2, 3, 10),
        3,
    ),
    "direct, pooled, gaps between strips": (
        [Tanh, (Conv2d, (3, 2, 3)), (MaxPool2d, (2,))],
        (2, 11, 18),
        3,
    ),
    "minimal": ([Tanh, (Conv2d, (LEAST_FILTERS, 3)), Tanh], (LEAST_DEPTH, 6, 14), 2),
    "minimal, padded, a rest": (
        [Tanh, (Conv2d, (LEAST_FILTERS, (3, 4), (2, 1), (1, 2)))],
        (LEAST_DEPTH, 6, 12),
        3,
    ),
    "minimal, pooled": (
        [Tanh, (Conv2d, (LEAST_FILTERS, 3)), (MaxPool2d, (2,)), ReLU, Flatten],
        (LEAST_DEPTH, 6, 26),
        4,
    ),
    "minimal, strips that share three steps": (
        [Tanh, (Conv2d, (LEAST_FILTERS, (1, 7)))],
        (LEAST_DEPTH, 3, 12),
        3,
    ),
    "minimal, strips and groups": (
        [Tanh, (Conv2d, (LEAST_FILTERS, 3)), (MaxPool2d, (2,))],
        (LEAST_DEPTH, 6, 14),
        4,
    ),
}


@pytest.fixture
def in_strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "BLOCK_BYTES", 1)
    monkeypatch.setattr(blocking, "FEWEST_COLUMNS", 1)
    monkeypatch.setattr(blocking, "FEWEST_TOGETHER", 2 if "groups" in request.node.name else 4)


def with_strips(name: str, dtype: type[np.floating] = np.float64) -> Sequential:
    layers, shape, expected = STRIPS[name]
    network = made_of(layers, shape, 4, dtype)
    assert groups_of(network) == [expected]
    return network


def run_twice(network: Sequential) -> list[Array]:
    rng = np.random.default_rng(1)
    for _ in range(2):  # a second microbatch: columns that must start anew
        x = rng.standard_normal((*network.input_shape, 4)).astype(network.dtype)
        y = network.forward(x)
        grad_x = network.backward(
            rng.standard_normal(y.shape).astype(network.dtype), input_gradient=True
        )
    assert grad_x is not None
    return [y.copy(), grad_x.copy(), network.grads.copy()]


@pytest.mark.parametrize("name", STRIPS)
def test_the_numbers_of_strips_are_those_of_whole_images(
    name: str, request: pytest.FixtureRequest
) -> None:
    layers, shape, _ = STRIPS[name]
    whole = made_of(layers, shape, 4, np.float64)
    assert groups_of(whole) == [1]
    request.getfixturevalue("in_strips")
    strips = with_strips(name)
    for ours, expected in zip(run_twice(strips), run_twice(whole), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.usefixtures("in_strips")
@pytest.mark.parametrize("name", STRIPS)
def test_the_gradient_check_is_passed_with_strips(name: str) -> None:
    network, rng = with_strips(name), np.random.default_rng(2)
    assert (
        gradient_error(
            network.model, rng.standard_normal((*network.input_shape, 4)), rng, network.parameters
        )
        < 1e-5
    )


@pytest.mark.usefixtures("in_strips")
@pytest.mark.parametrize("name", [name for name in STRIPS if "pooled" in name])
def test_fused_or_not_the_bits_are_the_same_with_strips(name: str) -> None:
    network = with_strips(name, np.float32)
    fused = run_twice(network)
    network.observe = lambda what, array: None
    for one, other in zip(fused, run_twice(network), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("layers", "shape", "count", "expected"),
    [
        ([Conv2d(64, 3), MaxPool2d(2)], (32, 26, 26), 32, 1),
        ([Conv2d(64, 3), MaxPool2d(2)], (32, 26, 26), 64, 2),
        ([Conv2d(64, 3), MaxPool2d(2)], (32, 26, 26), 128, 4),
        ([Conv2d(64, 3), MaxPool2d(2)], (32, 26, 26), 100, 4),  # one tile each
        ([Conv2d(64, 3), MaxPool2d(2)], (32, 26, 26), 65, 2),  # odd: two strips
        ([Conv2d(50, 5), MaxPool2d(2)], (20, 12, 12), 64, 1),
        ([Conv2d(50, 5), MaxPool2d(2)], (20, 12, 12), 128, 2),
        ([Conv2d(32, 3), ReLU()], (1, 28, 28), 2048, 1),  # writes its output where it lies, whole
    ],
)
def test_how_many_groups(layers: list[Layer], shape: Shape, count: int, expected: int) -> None:
    assert groups_of(planned(Sequential(layers), shape, count)) == [expected]
