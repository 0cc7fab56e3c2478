"""Fusion and cache blocking: a convolution fused with the max pooling and the ReLU after it, in
blocks, strips and groups of any size, has the bits of layer after layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distcnn.nn import Conv2d, Flatten, MaxPool2d, ReLU, Tanh
from distcnn.nn.kernels import blocking
from distcnn.nn.kernels.algorithms import FEWEST_FILTERS, FEWEST_TERMS
from distcnn.nn.kernels.blocking import strip_size
from distcnn.nn.layer import Array, Layer
from tests.support.networks import Network, planned, run_twice

Case = tuple[list[Layer], tuple[int, int, int], int]


@contextmanager
def blocks(most_bytes: int, fewest_columns: int = 96, fewest_images: int = 32) -> Iterator[None]:
    """Inside it, plans cut convolutions into blocks of about ``most_bytes``, in strips of at least
    ``fewest_columns`` and groups of at least ``fewest_images``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocking, "BLOCK_BYTES", most_bytes)
        patch.setattr(blocking, "FEWEST_COLUMNS", fewest_columns)
        patch.setattr(blocking, "FEWEST_IMAGES", fewest_images)
        yield


def made(
    layers: list[Layer],
    shape: tuple[int, int, int],
    count: int,
    dtype: type[np.floating] = np.float32,
) -> Network:
    network = planned(layers, shape, count, dtype)
    network.parameters.assign(np.random.default_rng(5).standard_normal(network.values.shape))
    return network


def is_fused(network: Network) -> bool:
    return len(network.plan.stages) < len(network.model.layers)


def assert_same(ours: list[Array], expected: list[Array]) -> None:
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """For im2col and Winograd; the windows cover the convolution's output exactly."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, stride, padding = pair(1, 4), pair(1, 2), pair(0, 1)
    window, windows = pair(1, 3), pair(1, 4)
    filters, channels = draw(st.sampled_from([(2, 1), (3, 2), (FEWEST_FILTERS, FEWEST_TERMS)]))
    size = [(windows[a] * window[a] - 1) * stride[a] + kernel[a] - 2 * padding[a] for a in (0, 1)]
    assume(min(size) > 0)
    layers = [
        Conv2d(filters, kernel, stride=stride, padding=padding),
        MaxPool2d(window),
        *draw(st.sampled_from([[], [ReLU()], [Tanh()]])),
    ]
    return layers, (channels, size[0], size[1]), draw(st.integers(1, 3))


@settings(deadline=None, derandomize=True, max_examples=80)
@given(case=cases(), input_gradient=st.booleans(), block_bytes=st.sampled_from([1, 3000, 2**30]))
def test_the_bits_are_those_of_one_layer_after_the_other(
    case: Case, input_gradient: bool, block_bytes: int
) -> None:
    with blocks(block_bytes):
        network = made(*case)
        unfused = network.unfused()
    assert_same(run_twice(network, input_gradient), run_twice(unfused, input_gradient))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([Conv2d(20, 5), MaxPool2d(2)], (1, 28, 28)),  # im2col: a tile is a window
        ([Conv2d(50, 5), MaxPool2d(2)], (20, 12, 12)),  # Winograd: two windows in a tile
        ([Conv2d(64, 3), MaxPool2d(2)], (32, 26, 26)),
        # The last of five tiles reaches beyond the image.
        ([Conv2d(16, 3, padding=1), MaxPool2d(2)], (24, 4, 28)),
        ([Conv2d(16, 3, padding=1), MaxPool2d((2, 3))], (24, 4, 27)),
        ([Conv2d(20, 5), MaxPool2d(2), ReLU()], (1, 28, 28)),
        ([Conv2d(50, 5), MaxPool2d(2), ReLU(), Conv2d(3, 2)], (20, 12, 12)),
    ],
)
def test_common_shapes_are_fused_with_the_same_bits(
    layers: list[Layer], shape: tuple[int, int, int]
) -> None:
    network = made(layers, shape, 2)
    assert is_fused(network)
    assert_same(run_twice(network), run_twice(network.unfused()))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(case=cases())
def test_the_gradient_check_is_passed(case: Case) -> None:
    assert made(*case, np.float64).gradient_error(np.random.default_rng(2)) < 1e-5


def test_by_hand() -> None:
    """One filter of ones over pairs of pixels gives sums of neighbours, of which the larger of each
    pair counts.
    """
    network = planned([Conv2d(1, (1, 2)), MaxPool2d((1, 2))], (1, 1, 5), 1, np.float64)
    assert is_fused(network)
    network.parameters.assign({"conv1.weight": 1, "conv1.bias": 0.5})
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
    """As above, minus 7: one sum of the second pair is positive, none of the first, and none of a
    pair of zeros.
    """
    network = planned([Conv2d(1, (1, 2)), MaxPool2d((1, 2)), ReLU()], (1, 1, 7), 1, np.float64)
    assert is_fused(network)
    network.parameters.assign({"conv1.weight": 1, "conv1.bias": -7})
    y = network.forward(
        np.array([1.0, 4.0, 2.0, 3.0, 7.0, 0, 7]).reshape(1, 1, 7, 1)
    )  # sums 5, 6 | 5, 10 | 7, 7
    np.testing.assert_array_equal(y.ravel(), [0, 3, 0])
    grad_x = network.backward(np.array([1.0, 10.0, 100.0]).reshape(1, 1, 3, 1), input_gradient=True)
    assert grad_x is not None
    np.testing.assert_array_equal(grad_x.ravel(), [0, 0, 0, 10, 10, 0, 0])
    np.testing.assert_array_equal(network.named_grads()["conv1.bias"], [10])


class FixedConv(Conv2d):
    """A user's convolution, which only fixes a size."""

    def __init__(self, out_channels: int) -> None:
        super().__init__(out_channels, 3)


class OwnConv(Conv2d):
    """A user's convolution, which computes by itself."""

    def forward(self, x: Array, call: object) -> Array:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param([FixedConv(2), MaxPool2d(2)], True, id="a subclass that computes the same"),
        pytest.param([OwnConv(2, 3), MaxPool2d(2)], False, id="a convolution of one's own"),
        pytest.param([Conv2d(2, 3), MaxPool2d(2, 1)], False, id="windows overlap"),
        pytest.param([Conv2d(2, 3), MaxPool2d(2, 3)], False, id="gaps"),
        pytest.param([Conv2d(2, 3), MaxPool2d(4)], False, id="a rest"),
        pytest.param([Conv2d(2, 3), Tanh(), MaxPool2d(2)], False, id="a layer between"),
        pytest.param([MaxPool2d(2), MaxPool2d(2)], False, id="no convolution"),
        pytest.param(  # tiles of three outputs
            [Conv2d(FEWEST_TERMS, (1, 4)), Conv2d(FEWEST_FILTERS, (1, 4)), MaxPool2d(2)],
            False,
            id="windows across tiles",
        ),
    ],
)
def test_what_is_fused(layers: list[Layer], expected: bool) -> None:
    assert is_fused(planned(layers, (1, 12, 12), 2)) == expected


@pytest.mark.parametrize("between", [[], [ReLU()], [Tanh()], [ReLU(), ReLU()]])
def test_a_flatten_after_the_pooling_changes_no_bit(between: list[Layer]) -> None:
    network = made([Conv2d(2, 3), MaxPool2d(2), *between, Flatten()], (1, 8, 8), 2)
    assert_same(run_twice(network), run_twice(network.unfused()))


D, F = FEWEST_TERMS, FEWEST_FILTERS
BLOCKED: dict[str, Case] = {
    "im2col, pooled": ([Conv2d(3, 5), MaxPool2d(2), ReLU()], (1, 12, 12), 4),
    "im2col, pooled, strips that share more than a step": (
        [Tanh(), Conv2d(3, (1, 5)), MaxPool2d((1, 2)), ReLU()],
        (2, 3, 10),
        4,
    ),
    "im2col, pooled, gaps between strips": (
        [Tanh(), Conv2d(3, 2, stride=3), MaxPool2d(2)],
        (2, 11, 18),
        4,
    ),
    "Winograd": ([Tanh(), Conv2d(F, 3), Tanh()], (D, 6, 14), 4),
    "Winograd, padded, a rest": (
        [Tanh(), Conv2d(F, (3, 4), stride=(2, 1), padding=(1, 2))],
        (D, 6, 12),
        4,
    ),
    "Winograd, pooled": ([Tanh(), Conv2d(F, 3), MaxPool2d(2), ReLU(), Flatten()], (D, 6, 26), 4),
    "Winograd, pooled, a rest": ([Tanh(), Conv2d(F, 3), MaxPool2d(2)], (D, 7, 9), 4),
    "Winograd, strips that share three steps": ([Tanh(), Conv2d(F, (1, 7))], (D, 3, 12), 4),
    "Winograd after Winograd": ([Conv2d(D, 3), ReLU(), Conv2d(F, 3), MaxPool2d(2)], (D, 8, 10), 4),
}
every_blocked = pytest.mark.parametrize("name", BLOCKED)
every_way = pytest.mark.parametrize(
    ("columns", "images"), [(96, 32), (96, 2), (1, 32), (1, 2)], ids=str
)


@every_blocked
@every_way
def test_the_numbers_do_not_depend_on_the_blocks(name: str, columns: int, images: int) -> None:
    whole = made(*BLOCKED[name], np.float64)
    for block_bytes in (1, 40_000):
        with blocks(block_bytes, columns, images):
            network = made(*BLOCKED[name], np.float64)
        for ours, expected in zip(run_twice(network), run_twice(whole), strict=True):
            tolerance = 1e-9 * np.abs(expected).max()
            np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=tolerance)


@every_blocked
def test_in_strips_and_groups_too_fusion_changes_no_bit(name: str) -> None:
    with blocks(1, 1, 2):
        network = made(*BLOCKED[name])
        unfused = network.unfused()
    assert_same(run_twice(network), run_twice(unfused))


@every_blocked
def test_in_strips_and_groups_the_gradient_check_is_passed(name: str) -> None:
    with blocks(1, 1, 2):
        assert made(*BLOCKED[name], np.float64).gradient_error(np.random.default_rng(2)) < 1e-5


@pytest.mark.parametrize(
    ("tiles", "count", "block_bytes", "expected"),
    [
        (4, 32, 100, (4, 32)),  # a block is small enough
        (4, 64, 200, (2, 64)),  # strips come first
        (4, 128, 400, (1, 128)),
        (4, 128, 1600, (1, 32)),  # then groups of images
        (4, 65, 400, (2, 65)),  # strips of one tile would be too narrow, the count is odd
        (3, 64, 200, (3, 32)),
    ],
)
def test_strips_come_before_groups(
    tiles: int, count: int, block_bytes: int, expected: tuple[int, int]
) -> None:
    assert strip_size(tiles, count, block_bytes, 100) == expected
