"""Convolution: a gradient check, values by hand, a reference of plain loops, and the tutorial's
example to the last digit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.nn import Conv2d, Dense, Flatten
from distcnn.optim import SGD
from tests.support.networks import Network, planned

Array = NDArray[np.floating]
examples = settings(deadline=None, derandomize=True, max_examples=60)


@dataclass(frozen=True)
class Case:
    input_shape: tuple[int, int, int]
    count: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    seed: int

    def network(self) -> Network:
        layer = Conv2d(self.out_channels, self.kernel, stride=self.stride, padding=self.padding)
        network = planned([layer], self.input_shape, self.count, np.float64)
        network.parameters.assign(
            np.random.default_rng(self.seed).standard_normal(network.values.shape)
        )
        return network

    def images(self, rng: np.random.Generator) -> Array:
        return rng.standard_normal((*self.input_shape, self.count))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, padding = pair(1, 4), pair(0, 2)
    spare = pair(0, 4)
    height, width = (max(1, kernel[axis] - 2 * padding[axis]) + spare[axis] for axis in (0, 1))
    return Case(
        input_shape=(draw(st.integers(1, 3)), height, width),
        count=draw(st.integers(1, 3)),
        out_channels=draw(st.integers(1, 3)),
        kernel=kernel,
        stride=pair(1, 3),
        padding=padding,
        seed=draw(st.integers(0, 2**32 - 1)),
    )


@examples
@given(cases())
def test_gradients_agree_with_finite_differences(case: Case) -> None:
    rng = np.random.default_rng(case.seed + 1)
    assert case.network().gradient_error(rng, case.images(rng)) < 1e-5


@examples
@given(cases(), cases())
def test_convolutions_one_after_another_pass_the_gradient_check(first: Case, second: Case) -> None:
    # A padded convolution hands back the inside of a larger array: the layer before it must take
    # that as well.
    height, width = (max(8, second.kernel[axis] + 2) for axis in (0, 1))
    layers = [Conv2d(c.out_channels, c.kernel, padding=c.padding) for c in (first, second)]
    network = planned(layers, (first.input_shape[0], height, width), 2, np.float64)
    rng = np.random.default_rng(first.seed)
    network.parameters.assign(rng.standard_normal(network.values.shape))
    assert (
        network.gradient_error(rng, rng.standard_normal((first.input_shape[0], height, width, 2)))
        < 1e-5
    )


def test_a_2x2_kernel_by_hand() -> None:
    network = planned([Conv2d(1, 2)], (1, 3, 3), 1, np.float64)
    network.parameters.assign([1, 2, 3, 4, 0.5])
    x = np.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(network.forward(x)[0, :, :, 0], [[37.5, 47.5], [67.5, 77.5]])

    grad_x = network.backward(
        np.array([[1.0, 2.0], [0.0, -1.0]]).reshape(1, 2, 2, 1), input_gradient=True
    )
    assert grad_x is not None
    np.testing.assert_array_equal(grad_x[0, :, :, 0], [[1, 4, 4], [3, 9, 6], [0, -3, -4]])
    np.testing.assert_array_equal(network.grads, [0, 2, 6, 8, 2])


def test_a_rectangular_kernel_with_different_stride_and_padding_by_hand() -> None:
    """Kernel 1x2, stride (1, 2), padding (1, 1) on 2x3: windows begin in padded columns 0 and 2;
    the last column is in none.
    """
    network = planned([Conv2d(1, (1, 2), stride=(1, 2), padding=1)], (1, 2, 3), 1, np.float64)
    network.parameters.assign([1, 10, 0])
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(
        network.forward(x)[0, :, :, 0], [[0, 0], [10, 32], [40, 65], [0, 0]]
    )

    grad_output = np.array([[9.0, 9.0], [1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]).reshape(1, 4, 2, 1)
    grad_x = network.backward(grad_output, input_gradient=True)
    assert grad_x is not None
    np.testing.assert_array_equal(grad_x[0, :, :, 0], [[10, 2, 20], [30, 4, 40]])
    np.testing.assert_array_equal(network.grads, [24, 43, 46])


def test_a_pixel_that_no_window_reads_gets_gradient_zero() -> None:
    network = planned([Conv2d(1, 2, stride=3)], (1, 4, 5), 1, np.float64)
    network.parameters.assign(1)
    network.forward(np.ones((1, 4, 5, 1)))
    grad_x = network.backward(np.ones((1, 1, 2, 1)), input_gradient=True)
    assert grad_x is not None
    np.testing.assert_array_equal(
        grad_x[0, :, :, 0], [[1, 1, 0, 1, 1], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    )


TUTORIAL_IMAGE = [
    [[0, 1, 1, 0, 2], [2, 2, 2, 2, 1], [1, 0, 0, 2, 0], [0, 1, 1, 0, 0], [1, 2, 0, 0, 2]],
    [[1, 0, 2, 2, 0], [0, 0, 0, 2, 0], [1, 2, 1, 2, 1], [1, 0, 0, 0, 0], [1, 2, 1, 1, 1]],
    [[2, 1, 2, 0, 0], [1, 0, 0, 1, 0], [0, 2, 1, 0, 1], [0, 1, 2, 2, 2], [2, 1, 0, 0, 1]],
]
TUTORIAL_SENSITIVITY = [[[0, 1, 1], [2, 2, 2], [1, 0, 0]], [[1, 0, 2], [0, 0, 0], [1, 2, 1]]]
TUTORIAL_FILTERS = [
    [
        [[-1, 1, 0], [0, 1, 0], [0, 1, 1]],
        [[-1, -1, 0], [0, 0, 0], [0, -1, 0]],
        [[0, 0, -1], [0, 1, 0], [1, -1, -1]],
    ],
    [
        [[1, 1, -1], [-1, -1, 1], [0, -1, 1]],
        [[0, 1, 0], [-1, 0, -1], [-1, 1, 0]],
        [[-1, 0, 0], [-1, 0, 1], [-1, 0, 0]],
    ],
]
TUTORIAL_OUTPUT = [[[6, 7, 5], [3, -1, -1], [2, -1, 4]], [[2, -5, -8], [1, -4, -4], [0, -5, -5]]]
TUTORIAL_UPDATED_FILTERS = [
    [
        [[-1.008, 0.99, -0.009], [-0.005, 0.994, -0.006], [-0.006, 0.995, 0.996]],
        [[-1.004, -1.001, -0.004], [-0.01, -0.009, -0.012], [-0.002, -1.002, -0.002]],
        [[-0.002, -0.002, -1.003], [-0.005, 0.992, -0.005], [0.993, -1.008, -1.007]],
    ],
    [
        [[0.998, 0.998, -1.001], [-1.004, -1.007, 0.997], [-0.004, -1.004, 0.998]],
        [[0, 0.999, 0], [-1.009, -0.005, -1.004], [-1.004, 1, 0]],
        [[-1.004, -0.006, -0.005], [-1.002, -0.005, 0.998], [-1.002, -0.001, 0]],
    ],
]
TUTORIAL_UPDATED_BIASES = [0.991, -0.007]


def test_the_tutorials_example_digit_for_digit() -> None:
    network = planned([Conv2d(2, 3, stride=2, padding=1)], (3, 5, 5), 1, np.float64)
    network.parameters.assign({"conv1.weight": TUTORIAL_FILTERS, "conv1.bias": [1, 0]})
    outputs = network.forward(np.array(TUTORIAL_IMAGE, np.float64)[..., np.newaxis])
    np.testing.assert_array_equal(outputs[..., 0], TUTORIAL_OUTPUT)

    network.backward(np.array(TUTORIAL_SENSITIVITY, np.float64)[..., np.newaxis])
    with network.parameters.changing() as flat:
        SGD().start(flat).step(flat, network.grads, learning_rate=0.001)
    values = network.named_values()
    np.testing.assert_allclose(values["conv1.weight"], TUTORIAL_UPDATED_FILTERS, rtol=0, atol=1e-15)
    np.testing.assert_allclose(values["conv1.bias"], TUTORIAL_UPDATED_BIASES, rtol=0, atol=1e-15)


def test_one_integer_means_both_directions() -> None:
    layer = Conv2d(1, 3, stride=2, padding=1)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (1, 1))


@pytest.mark.parametrize("out_channels", [0, -1])
def test_too_few_output_channels_are_refused(out_channels: int) -> None:
    with pytest.raises(
        ValueError, match=rf"out_channels \(={out_channels}\) must be an integer of at least 1"
    ):
        Conv2d(out_channels, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, r"kernel_size \(=0\) must be an integer of at least 1"),
        (
            {"kernel_size": (3, 0)},
            r"kernel_size \(=\(3, 0\)\) must be an integer of at least 1, or a pair of them",
        ),
        (
            {"kernel_size": (3, 3, 3)},
            r"kernel_size \(=\(3, 3, 3\)\) must be an integer of at least 1, or a pair of them",
        ),
        (
            {"kernel_size": (2.0, 3)},
            r"kernel_size \(=\(2\.0, 3\)\) must be an integer of at least 1, or a pair of them",
        ),
        ({"kernel_size": 3, "stride": 0}, r"stride \(=0\) must be an integer of at least 1"),
        (
            {"kernel_size": 3, "stride": (1,)},
            r"stride \(=\(1,\)\) must be an integer of at least 1, or a pair of them",
        ),
        ({"kernel_size": 3, "padding": -1}, r"padding \(=-1\) must be an integer of at least 0"),
        (
            {"kernel_size": 3, "padding": (0, -2)},
            r"padding \(=\(0, -2\)\) must be an integer of at least 0",
        ),
    ],
)
def test_bad_sizes_are_refused_by_name_and_value(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Conv2d(1, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernel", "padding"), [((6, 1), 0), ((1, 7), 0), ((8, 1), 1), ((5, 9), (0, 1))]
)
def test_a_kernel_larger_than_its_padded_input_is_refused(
    kernel: tuple[int, int], padding: int | tuple[int, int]
) -> None:
    message = (
        rf"conv1: a window of kernel_size {kernel[0]}x{kernel[1]} is larger than its padded input"
        r" .*input 5x6.*smaller kernel_size"
    )
    with pytest.raises(ValueError, match=message):
        planned([Conv2d(1, kernel, padding=padding)], (1, 5, 6), 1)


def test_a_kernel_as_large_as_its_padded_input_gives_one_output() -> None:
    assert planned([Conv2d(4, (7, 10), padding=(1, 2))], (1, 5, 6), 1).output_shape == (4, 1, 1)


@pytest.mark.parametrize("before", [[Flatten()], [Flatten(), Dense(9)]], ids=["flatten", "dense"])
def test_flat_input_is_refused(before: list[Flatten | Dense]) -> None:
    with pytest.raises(
        ValueError,
        match=r"conv1: Conv2d takes images \(channels, height, width\).*put it before Flatten",
    ):
        planned([*before, Conv2d(1, 1)], (1, 3, 3), 1)
