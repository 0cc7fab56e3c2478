"""Pooling: a gradient check, values by hand, a reference of plain loops, and the rule for ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray

from distcnn.nn import AvgPool2d, Flatten, MaxPool2d
from tests.support.networks import Network, planned

Array = NDArray[np.floating]
Pool = type[MaxPool2d] | type[AvgPool2d]
examples = settings(deadline=None, derandomize=True, max_examples=60)
both = pytest.mark.parametrize("pool", [MaxPool2d, AvgPool2d])


@dataclass(frozen=True)
class Case:
    """With ``stride`` below ``kernel`` windows overlap; above, there are gaps between them. One
    case can have both.
    """

    input_shape: tuple[int, int, int]
    count: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    seed: int

    def network(self, pool: Pool) -> Network:
        return planned([pool(self.kernel, self.stride)], self.input_shape, self.count, np.float64)

    def distinct_images(self, rng: np.random.Generator) -> Array:
        """Pixels at least 0.1 apart, so that a small step changes no maximum."""
        shape = (*self.input_shape, self.count)
        return rng.permutation(int(np.prod(shape))).reshape(shape) * 0.1

    def tied_images(self, rng: np.random.Generator) -> Array:
        return rng.integers(-1, 2, (*self.input_shape, self.count)).astype(np.float64)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, spare = pair(1, 3), pair(0, 5)
    return Case(
        input_shape=(draw(st.integers(1, 3)), kernel[0] + spare[0], kernel[1] + spare[1]),
        count=draw(st.integers(1, 3)),
        kernel=kernel,
        stride=pair(1, 4),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def run(network: Network, image: ArrayLike, grad_output: ArrayLike) -> tuple[Array, Array]:
    """Forward and backward of one image of one channel, as 2-D arrays."""
    output = network.forward(np.array(image, np.float64)[np.newaxis, ..., np.newaxis])[
        0, :, :, 0
    ].copy()
    grad = network.backward(
        np.array(grad_output, np.float64)[np.newaxis, ..., np.newaxis], input_gradient=True
    )
    assert grad is not None
    return output, grad[0, :, :, 0]


@both
@examples
@given(case=cases())
def test_gradients_agree_with_finite_differences(pool: Pool, case: Case) -> None:
    rng = np.random.default_rng(case.seed)
    assert case.network(pool).gradient_error(rng, case.distinct_images(rng)) < 1e-5


IMAGE = [[1, 5, 2, 0], [3, 4, 8, 1], [7, 0, 6, 9], [2, 1, 3, 4]]


def test_max_pooling_by_hand() -> None:
    output, grad = run(
        planned([MaxPool2d(2)], (1, 4, 4), 1, np.float64), IMAGE, [[10, 20], [30, 40]]
    )
    np.testing.assert_array_equal(output, [[5, 8], [7, 9]])
    np.testing.assert_array_equal(
        grad, [[0, 10, 0, 0], [0, 0, 20, 0], [30, 0, 0, 40], [0, 0, 0, 0]]
    )


def test_average_pooling_by_hand() -> None:
    output, grad = run(planned([AvgPool2d(2)], (1, 4, 4), 1, np.float64), IMAGE, [[4, 8], [12, 16]])
    np.testing.assert_array_equal(output, [[3.25, 2.75], [2.5, 5.5]])
    np.testing.assert_array_equal(grad, [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


def test_overlapping_windows_add_up_in_max_pooling() -> None:
    output, grad = run(
        planned([MaxPool2d(3, 1)], (1, 4, 4), 1, np.float64), IMAGE, [[1, 2], [4, 8]]
    )
    np.testing.assert_array_equal(output, [[8, 9], [8, 9]])
    np.testing.assert_array_equal(grad, [[0, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 10], [0, 0, 0, 0]])


def test_overlapping_windows_add_up_in_average_pooling() -> None:
    output, grad = run(
        planned([AvgPool2d((1, 2), 1)], (1, 2, 3), 1, np.float64),
        [[1, 3, 5], [0, 2, 8]],
        [[2, 4], [6, 8]],
    )
    np.testing.assert_array_equal(output, [[2, 4], [1, 5]])
    np.testing.assert_array_equal(grad, [[1, 3, 2], [3, 7, 4]])


@both
def test_pixels_in_the_gaps_and_the_left_over_edge_get_gradient_zero(pool: Pool) -> None:
    _, grad = run(
        planned([pool(1, (2, 3))], (1, 4, 6), 1, np.float64), np.ones((4, 6)), [[1, 2], [3, 4]]
    )
    np.testing.assert_array_equal(
        grad, [[1, 0, 0, 2, 0, 0], [0, 0, 0, 0, 0, 0], [3, 0, 0, 4, 0, 0], [0, 0, 0, 0, 0, 0]]
    )


def test_the_first_of_equals_in_row_major_order_takes_the_whole_gradient() -> None:
    network = planned([MaxPool2d(2)], (1, 4, 4), 1, np.float64)
    image = [[0, 7, 3, 3], [7, 7, 3, 3], [1, 2, 0, 0], [5, 5, 9, 9]]
    _, grad = run(network, image, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(grad, [[0, 1, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 4, 0]])


@both
@examples
@given(case=cases())
def test_a_constant_image_gets_back_the_sum_of_the_gradients_exactly_once(
    pool: Pool, case: Case
) -> None:
    network, rng = case.network(pool), np.random.default_rng(case.seed)
    output = network.forward(np.full((*case.input_shape, case.count), -0.25))
    grad_output = rng.integers(-9, 10, output.shape).astype(np.float64)
    grad = network.backward(grad_output, input_gradient=True)
    assert grad is not None
    assert grad.sum() == pytest.approx(grad_output.sum(), abs=1e-9)


def test_the_maximum_of_negative_values_is_negative() -> None:
    output, grad = run(
        planned([MaxPool2d(2)], (1, 2, 2), 1, np.float64), [[-4, -3], [-2, -5]], [[1]]
    )
    np.testing.assert_array_equal(output, [[-2]])
    np.testing.assert_array_equal(grad, [[0, 0], [1, 0]])


@both
def test_the_stride_is_the_window_unless_given(pool: Pool) -> None:
    assert pool((2, 3)).stride == (2, 3)
    assert pool(2, (1, 3)).stride == (1, 3)


@both
def test_errors_name_the_layer_the_argument_and_the_value(pool: Pool) -> None:
    with pytest.raises(ValueError, match=r"kernel_size \(=0\) must be an integer of at least 1"):
        pool(0)
    with pytest.raises(ValueError, match=r"stride \(=\(1, 0\)\) must be an integer of at least 1"):
        pool(2, (1, 0))
    with pytest.raises(
        ValueError,
        match=r"pool1: a window of kernel_size 3x2 is larger than its padded input of 2x5",
    ):
        planned([pool((3, 2))], (1, 2, 5), 1)
    with pytest.raises(
        ValueError, match=rf"pool1: {pool.__name__} takes images .* but its input has shape \(9,\)"
    ):
        planned([Flatten(), pool(1)], (1, 3, 3), 1)
