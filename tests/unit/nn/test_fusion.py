"""A convolution fused with the max pooling after it, and a ReLU, gives the bits of one layer after
the other, and the right gradient.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.nn import Conv2d, Flatten, MaxPool2d, ReLU, Sequential, Tanh, convolution
from distcnn.nn.gradient_check import gradient_error
from distcnn.nn.kernels.algorithms import LEAST_DEPTH, LEAST_FILTERS, MinimalFiltering
from distcnn.nn.kernels.fusion import Fused, fuse
from distcnn.nn.layer import Layer
from tests.support.networks import planned

Array = NDArray[np.floating]
Case = tuple[list[Layer], tuple[int, int, int], int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Of both makes of filtering; the windows fill what the convolution gives."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, stride, padding, window, windows = (
        pair(1, 4),
        pair(1, 2),
        pair(0, 1),
        pair(1, 3),
        pair(1, 4),
    )
    filters, channels = draw(st.sampled_from([(2, 1), (3, 2), (LEAST_FILTERS, LEAST_DEPTH)]))
    size = [(windows[a] * window[a] - 1) * stride[a] + kernel[a] - 2 * padding[a] for a in (0, 1)]
    assume(min(size) > 0)
    layers = [
        Conv2d(filters, kernel, stride=stride, padding=padding),
        MaxPool2d(window),
        *draw(st.sampled_from([[], [ReLU()], [Tanh()]])),
    ]
    return layers, (channels, size[0], size[1]), draw(st.integers(1, 3))


def planned(case: Case, dtype: type[np.floating] = np.float32) -> Sequential:
    layers, shape, count = case
    network = planned(Sequential(layers), shape, count, dtype)
    network.values[:] = np.random.default_rng(5).standard_normal(network.values.shape)
    return network


def is_fused(network: Sequential) -> bool:
    return any(isinstance(stage, Fused) for _, stage in fuse(network.layers))


def run(
    network: Sequential, input_gradient: bool, observe: tuple[bool, bool] = (False, False)
) -> list[Array]:
    """Output and gradients, of a second microbatch, so that a buffer which must start anew shows;
    ``observe``: forward, backward.
    """
    rng, results = np.random.default_rng(1), []
    for _ in range(2):
        network.observe = (lambda what, array: None) if observe[0] else None
        y = network.forward(
            rng.integers(-2, 3, (*network.input_shape, network.microbatch_size)).astype(
                network.dtype
            )
        )
        results = [y.copy()]
        network.observe = (lambda what, array: None) if observe[1] else None
        grad_x = network.backward(
            rng.standard_normal(y.shape).astype(network.dtype), input_gradient
        )
        results += [network.grads.copy(), *([] if grad_x is None else [grad_x.copy()])]
    return results


def run_others(network: Sequential) -> None:
    """So that nothing which the last microbatch left behind, fused or not, is of use to the
    next.
    """
    for observe in (None, lambda what, array: None):
        network.observe = observe
        network.backward(
            np.ones_like(
                network.forward(
                    -np.ones((*network.input_shape, network.microbatch_size), network.dtype)
                )
            )
        )


@settings(deadline=None, derandomize=True, max_examples=80)
@given(case=cases(), input_gradient=st.booleans(), block_bytes=st.sampled_from([1, 3000, 2**30]))
def test_the_bits_are_those_of_one_layer_after_the_other(
    case: Case, input_gradient: bool, block_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "BLOCK_BYTES", block_bytes)
        network = planned(case)
    ours = run(network, input_gradient)
    for observe in ((True, True), (True, False), (False, True)):
        run_others(network)
        for our, expected in zip(ours, run(network, input_gradient, observe), strict=True):
            np.testing.assert_array_equal(our, expected)


@pytest.mark.parametrize(
    ("layers", "shape", "outputs"),
    [
        ([Conv2d(20, 5), MaxPool2d(2)], (1, 28, 28), 2),  # direct: a tile is a window
        ([Conv2d(50, 5), MaxPool2d(2)], (20, 12, 12), 4),  # minimal: two windows in a tile
        ([Conv2d(64, 3), MaxPool2d(2)], (32, 26, 26), 6),
        (
            [Conv2d(16, 3, padding=1), MaxPool2d(2)],
            (24, 4, 28),
            6,
        ),  # the last of five tiles reaches beyond the image
        ([Conv2d(16, 3, padding=1), MaxPool2d((2, 3))], (24, 4, 27), 6),
        ([Conv2d(20, 5), MaxPool2d(2), ReLU()], (1, 28, 28), 2),
        ([Conv2d(50, 5), MaxPool2d(2), ReLU(), Conv2d(3, 2)], (20, 12, 12), 4),
    ],
)
def test_common_shapes_are_fused_with_the_same_bits(
    layers: list[Layer], shape: tuple[int, int, int], outputs: int
) -> None:
    network = planned((layers, shape, 2))
    assert is_fused(network)
    assert network.layers[0]._filtering.outputs == outputs  # type: ignore[attr-defined]
    ours = run(network, True)
    run_others(network)
    for our, expected in zip(ours, run(network, True, (True, True)), strict=True):
        np.testing.assert_array_equal(our, expected)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(case=cases())
def test_the_gradient_check_is_passed(case: Case) -> None:
    network, rng = planned(case, np.float64), np.random.default_rng(2)
    shape = (*network.input_shape, network.microbatch_size)
    assert gradient_error(network.model, rng.standard_normal(shape), rng, network.parameters) < 1e-5


def test_by_hand() -> None:
    """One filter of ones over pairs of pixels: sums of neighbours, of which the larger of each pair
    counts.
    """
    network = planned(Sequential([Conv2d(1, (1, 2)), MaxPool2d((1, 2))]), (1, 1, 5), 1, np.float64)
    assert is_fused(network)
    network.named_values()["conv1.weight"][...] = 1
    network.named_values()["conv1.bias"][...] = 0.5
    y = network.forward(
        np.array([1.0, 4.0, 2.0, 3.0, 7.0]).reshape(1, 1, 5, 1)
    )  # sums 5, 6 | 5, 10
    np.testing.assert_array_equal(y.ravel(), [6.5, 10.5])
    grad_x = network.backward(np.array([1.0, 10.0]).reshape(1, 1, 2, 1), input_gradient=True)
    assert grad_x is not None
    np.testing.assert_array_equal(grad_x.ravel(), [0, 1, 1, 10, 10])
    np.testing.assert_array_equal(network.named_grads()["conv1.weight"].ravel(), [4 + 30, 2 + 70])
    np.testing.assert_array_equal(network.named_grads()["conv1.bias"], [11])


def test_a_rectified_pooling_by_hand() -> None:
    """As above, less 7: of the second pair one sum is positive, of the first none, and of a pair of
    zeros none.
    """
    network = planned(
        Sequential([Conv2d(1, (1, 2)), MaxPool2d((1, 2)), ReLU()]), (1, 1, 7), 1, np.float64
    )
    assert [index for index, _ in fuse(network.layers)] == [0]
    network.named_values()["conv1.weight"][...] = 1
    network.named_values()["conv1.bias"][...] = -7
    y = network.forward(
        np.array([1.0, 4.0, 2.0, 3.0, 7.0, 0, 7]).reshape(1, 1, 7, 1)
    )  # sums 5, 6 | 5, 10 | 7, 7
    np.testing.assert_array_equal(y.ravel(), [0, 3, 0])
    grad_x = network.backward(np.array([1.0, 10.0, 100.0]).reshape(1, 1, 3, 1), input_gradient=True)
    assert grad_x is not None
    np.testing.assert_array_equal(grad_x.ravel(), [0, 0, 0, 10, 10, 0, 0])
    np.testing.assert_array_equal(network.named_grads()["conv1.bias"], [10])


class OwnConv(Conv2d):
    """A user's, which may do anything in its methods."""


class OwnPool(MaxPool2d):
    """A user's."""


@pytest.mark.parametrize(
    "layers",
    [
        [Conv2d(2, 3), MaxPool2d(2, 1)],
        [Conv2d(2, 3), MaxPool2d(2, 3)],
        [Conv2d(2, 3), MaxPool2d(4)],
        [Conv2d(2, 3), Tanh(), MaxPool2d(2)],
        [MaxPool2d(2), MaxPool2d(2)],
        [OwnConv(2, 3), MaxPool2d(2)],
        [Conv2d(2, 3), OwnPool(2)],
        [
            Conv2d(LEAST_DEPTH, (1, 4)),
            Conv2d(LEAST_FILTERS, (1, 4)),
            MaxPool2d(2),
        ],  # tiles of three outputs
    ],
    ids=[
        "windows overlap",
        "gaps",
        "a rest",
        "a layer between",
        "no convolution",
        "own convolution",
        "own pooling",
        "windows across tiles",
    ],
)
def test_others_are_left_alone(layers: list[Layer]) -> None:
    assert not is_fused(planned(Sequential(layers), (1, 12, 12), 2))


def test_whoever_observes_sees_every_layer() -> None:
    network, seen = planned(([Tanh(), Conv2d(2, 3), MaxPool2d(2)], (1, 8, 8), 2)), []
    network.observe = lambda what, array: seen.append((what, array.shape))
    network.backward(
        np.ones_like(network.forward(np.ones((1, 8, 8, 2), np.float32))), input_gradient=True
    )
    assert [what for what, _ in seen] == [
        *("input", "output of tanh1", "output of conv1", "output of maxpool1"),
        *("input gradient of maxpool1", "input gradient of conv1", "input gradient of tanh1"),
    ]
    assert dict(seen)["output of conv1"] == (2, 6, 6, 2)


def test_what_lies_between_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for filters, channels in ((3, 1), (LEAST_FILTERS, LEAST_DEPTH)):
        conv = Conv2d(filters, 3)
        network = planned(([Tanh(), conv, MaxPool2d(2)], (channels, 10, 10), 2))
        assert isinstance(conv._filtering, MinimalFiltering) == (filters == LEAST_FILTERS)
        monkeypatch.setattr(
            Conv2d, "images", property(lambda self: pytest.fail("the whole output was asked for"))
        )
        run(network, True)


@pytest.mark.parametrize(
    ("between", "shared"),
    [([], True), ([ReLU()], True), ([Tanh()], False), ([ReLU(), ReLU()], False)],
)
def test_a_flatten_hands_on_what_the_pooling_before_it_wrote(
    between: list[Layer], shared: bool
) -> None:
    pooling, observers = MaxPool2d(2), ((False, False), (True, True))
    network = planned(([Conv2d(2, 3), pooling, *between, Flatten()], (1, 8, 8), 2))
    y = network.forward(np.ones((1, 8, 8, 2), np.float32))
    assert np.shares_memory(y, pooling.output) == shared
    for ours, expected in zip(*(run(network, True, observe) for observe in observers), strict=True):
        np.testing.assert_array_equal(ours, expected)
