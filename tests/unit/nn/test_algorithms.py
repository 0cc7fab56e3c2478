"""Filtering along the width: the minimal algorithms' matrices by hand and against plain sums, and
convolutions that use them.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.nn import Conv2d, Sequential, convolution
from distcnn.nn.gradient_check import gradient_error
from distcnn.nn.kernels.algorithms import (
    LEAST_DEPTH,
    LEAST_FILTERS,
    MOST_POINTS,
    DirectFiltering,
    Geometry,
    MinimalFiltering,
    plan_filtering,
)
from distcnn.nn.kernels.winograd import minimal_matrices
from tests.support.networks import planned

Array = NDArray[np.floating]
examples = settings(deadline=None, derandomize=True, max_examples=25)
ALL = [(m, taps) for taps in range(2, MOST_POINTS) for m in range(2, MOST_POINTS - taps + 2)]


def correlation(pixels: Array, kernel: Array) -> Array:
    """One sum after another."""
    count = len(pixels) - len(kernel) + 1
    return np.array(
        [sum(kernel[j] * pixels[s + j] for j in range(len(kernel))) for s in range(count)]
    )


@pytest.mark.parametrize(("outputs", "taps"), ALL)
def test_every_minimal_algorithm_gives_the_sums(outputs: int, taps: int) -> None:
    a, b, g = minimal_matrices(outputs, taps)
    rng = np.random.default_rng(outputs * 10 + taps)
    pixels, kernel = rng.standard_normal(outputs + taps - 1), rng.standard_normal(taps)
    np.testing.assert_allclose(
        a.T @ ((g @ kernel) * (b.T @ pixels)), correlation(pixels, kernel), rtol=1e-12, atol=1e-12
    )


def test_two_outputs_of_three_taps_by_hand() -> None:
    """With points 0, 1, -1 and infinity: Winograd's, up to how the signs are shared out."""
    a, b, g = minimal_matrices(2, 3)
    np.testing.assert_array_equal(a.T, [[1, 1, 1, 0], [0, 1, -1, 1]])
    np.testing.assert_array_equal(b.T, [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
    np.testing.assert_array_equal(g, [[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def test_the_row_of_ones_takes_the_bias() -> None:
    for outputs, taps in ALL:
        np.testing.assert_array_equal(minimal_matrices(outputs, taps)[0][1], np.ones(outputs))


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
        (64, LEAST_FILTERS - 1, (3, 3), (1, 1), (24, 24), 1),
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
    filtering = plan_filtering(Geometry(channels, filters, kernel, stride, size, 2), np.float32)
    assert type(filtering) is (DirectFiltering if expected == 1 else MinimalFiltering)
    assert filtering.tiles == -(-size[1] // expected)
    assert filtering.points == (1 if expected == 1 else expected + kernel[1] - 1)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Conv2d, tuple[int, int, int], int]:
    kernel = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    channels = -(-LEAST_DEPTH // kernel[0])
    padding = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    height, width = (
        max(1, kernel[axis] - 2 * padding[axis]) + draw(st.integers(1, 7)) for axis in (0, 1)
    )
    stride = draw(st.integers(1, 3)), 1
    return (
        Conv2d(LEAST_FILTERS, kernel, stride=stride, padding=padding),
        (channels, height, width),
        draw(st.integers(1, 3)),
    )


def planned(
    layer: Conv2d, shape: tuple[int, int, int], count: int, dtype: type[np.floating] = np.float64
) -> Sequential:
    layer = Conv2d(
        layer.out_channels, layer.kernel_size, stride=layer.stride, padding=layer.padding
    )
    network = planned(Sequential([layer]), shape, count, dtype)
    network.values[:] = np.random.default_rng(5).standard_normal(network.values.shape)
    return network


def run(network: Sequential, seed: int, dtype: type[np.floating] = np.float64) -> list[Array]:
    """Output, gradients of the input and of the parameters; of a second microbatch, so that buffers
    which must start from zeros show.
    """
    rng = np.random.default_rng(seed)
    for _ in range(2):
        y = network.forward(
            rng.standard_normal((*network.input_shape, network.microbatch_size)).astype(dtype)
        )
        grad_x = network.backward(rng.standard_normal(y.shape).astype(dtype), input_gradient=True)
    assert grad_x is not None
    return [y.copy(), grad_x.copy(), network.grads.copy()]


def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "plan_filtering", DirectFiltering)


@examples
@given(shapes())
def test_minimal_and_direct_filtering_agree(case: tuple[Conv2d, tuple[int, int, int], int]) -> None:
    minimal = planned(*case)
    with pytest.MonkeyPatch.context() as patch:
        direct(patch)
        plain = planned(*case)
    for ours, expected in zip(run(minimal, 1), run(plain, 1), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


@settings(examples, max_examples=8)
@given(shapes())
def test_minimal_filtering_passes_the_gradient_check(
    case: tuple[Conv2d, tuple[int, int, int], int],
) -> None:
    network = planned(*case)
    rng = np.random.default_rng(2)
    assert (
        gradient_error(
            network.model,
            rng.standard_normal((*network.input_shape, network.microbatch_size)),
            rng,
            network.parameters,
        )
        < 1e-5
    )


@pytest.mark.parametrize("block_bytes", [1, 4096, 40_000, 2**40])
@pytest.mark.parametrize(
    ("kernel", "stride", "height"),
    [
        ((3, 3), (1, 1), 13),
        ((2, 3), (3, 1), 14),
        ((3, 4), (2, 2), 12),
        ((5, 1), (1, 1), 9),
        ((1, 3), (4, 1), 12),
    ],
)
def test_any_size_of_block_gives_the_same(
    block_bytes: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    height: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = Conv2d(LEAST_FILTERS, kernel, stride=stride, padding=(1, 0)), (LEAST_DEPTH, height, 9), 2
    expected = run(planned(*case), 3)
    monkeypatch.setattr(convolution, "BLOCK_BYTES", block_bytes)
    for ours, each in zip(run(planned(*case), 3), expected, strict=True):
        np.testing.assert_allclose(ours, each, rtol=1e-12, atol=1e-12)


def test_float32_stays_within_a_few_roundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the largest value; direct filtering comes to about 4e-7."""
    for case in ((Conv2d(50, 5), (20, 12, 12), 4), (Conv2d(64, 3), (32, 26, 26), 2)):
        results = run(planned(*case, np.float32), 4, np.float32)
        with monkeypatch.context() as patch:
            direct(patch)
            exact = run(planned(*case), 4)
        for ours, expected in zip(results, exact, strict=True):
            assert np.abs(ours - expected).max() < 6e-6 * np.abs(expected).max()
