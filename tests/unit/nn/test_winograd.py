"""Winograd convolution: its matrices by hand and against plain sums, when it is used, and that it
agrees with im2col.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.nn import Conv2d
from distcnn.nn.kernels import algorithms
from distcnn.nn.kernels.algorithms import (
    FEWEST_FILTERS,
    FEWEST_TERMS,
    MOST_POINTS,
    Geometry,
    choose_tiling,
)
from distcnn.nn.kernels.winograd import winograd_matrices
from tests.support.networks import Network, planned, run_twice

Array = NDArray[np.floating]
examples = settings(deadline=None, derandomize=True, max_examples=25)
ALL = [(m, taps) for taps in range(2, MOST_POINTS) for m in range(2, MOST_POINTS - taps + 2)]


def correlation(pixels: Array, kernel: Array) -> Array:
    """Plain sums."""
    count = len(pixels) - len(kernel) + 1
    return np.array(
        [sum(kernel[j] * pixels[s + j] for j in range(len(kernel))) for s in range(count)]
    )


@pytest.mark.parametrize(("outputs", "taps"), ALL)
def test_every_minimal_algorithm_gives_the_sums(outputs: int, taps: int) -> None:
    a, b, g = winograd_matrices(outputs, taps)
    rng = np.random.default_rng(outputs * 10 + taps)
    pixels, kernel = rng.standard_normal(outputs + taps - 1), rng.standard_normal(taps)
    np.testing.assert_allclose(
        a.T @ ((g @ kernel) * (b.T @ pixels)), correlation(pixels, kernel), rtol=1e-12, atol=1e-12
    )


def test_two_outputs_of_three_taps_by_hand() -> None:
    """With the points 0, 1, -1 and infinity: Winograd's own, except for signs."""
    a, b, g = winograd_matrices(2, 3)
    np.testing.assert_array_equal(a.T, [[1, 1, 1, 0], [0, 1, -1, 1]])
    np.testing.assert_array_equal(b.T, [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
    np.testing.assert_array_equal(g, [[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def test_the_row_of_ones_takes_the_bias() -> None:
    for outputs, taps in ALL:
        np.testing.assert_array_equal(winograd_matrices(outputs, taps)[0][1], np.ones(outputs))


@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "stride", "size", "expected"),
    [
        (
            20,
            50,
            (5, 5),
            (1, 1),
            (8, 8),
            4,
        ),  # two tiles of 8 points: 16 products a row of outputs, directly 40
        (32, 64, (3, 3), (1, 1), (24, 24), 6),  # four of 8: 32, directly 72
        (32, 64, (3, 3), (2, 1), (12, 24), 6),  # a vertical stride does no harm
        (32, 64, (3, 3), (1, 2), (24, 12), 1),
        (64, 64, (1, 1), (1, 1), (28, 28), 1),
        (64, 64, (3, 1), (1, 1), (28, 28), 1),
        (64, 64, (9, 9), (1, 1), (20, 20), 1),
        (1, 20, (5, 5), (1, 1), (24, 24), 1),
        (64, FEWEST_FILTERS - 1, (3, 3), (1, 1), (24, 24), 1),
        (64, 64, (3, 3), (1, 1), (1, 1), 1),  # one output: nothing to share
        (64, 64, (3, 3), (1, 1), (2, 2), 2),
    ],
)
def test_which_algorithm_is_taken(
    channels: int,
    filters: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    size: tuple[int, int],
    expected: int,
) -> None:
    tiling = choose_tiling(Geometry(channels, 30, filters, kernel, stride, size, 2))
    assert (tiling.is_winograd, tiling.tile_width) == (expected > 1, expected)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Conv2d, tuple[int, int, int], int]:
    kernel = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    channels = -(-FEWEST_TERMS // kernel[0])
    padding = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    height, width = (
        max(1, kernel[axis] - 2 * padding[axis]) + draw(st.integers(1, 7)) for axis in (0, 1)
    )
    layer = Conv2d(FEWEST_FILTERS, kernel, stride=(draw(st.integers(1, 3)), 1), padding=padding)
    return layer, (channels, height, width), draw(st.integers(1, 3))


def made(
    layer: Conv2d, shape: tuple[int, int, int], count: int, dtype: type[np.floating] = np.float64
) -> Network:
    network = planned([layer], shape, count, dtype)
    network.parameters.assign(np.random.default_rng(5).standard_normal(network.values.shape))
    return network


def with_im2col(
    layer: Conv2d, shape: tuple[int, int, int], count: int, dtype: type[np.floating] = np.float64
) -> Network:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithms, "FEWEST_TERMS", 10**9)
        return made(layer, shape, count, dtype)


@examples
@given(shapes())
def test_winograd_and_im2col_agree(case: tuple[Conv2d, tuple[int, int, int], int]) -> None:
    results = zip(run_twice(made(*case)), run_twice(with_im2col(*case)), strict=True)
    for ours, expected in results:
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@settings(examples, max_examples=8)
@given(shapes())
def test_winograd_passes_the_gradient_check(case: tuple[Conv2d, tuple[int, int, int], int]) -> None:
    assert made(*case).gradient_error(np.random.default_rng(2)) < 1e-5


def test_float32_stays_within_a_few_roundings() -> None:
    """Relative to the largest value; im2col reaches about 4e-7."""
    for case in ((Conv2d(50, 5), (20, 12, 12), 4), (Conv2d(64, 3), (32, 26, 26), 2)):
        results = zip(
            run_twice(made(*case, np.float32)), run_twice(with_im2col(*case)), strict=True
        )
        for ours, expected in results:
            assert np.abs(ours - expected).max() < 6e-6 * np.abs(expected).max()
