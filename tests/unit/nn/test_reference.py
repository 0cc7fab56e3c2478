"""The textbook (``distcnn.nn.reference``) is correct, and every fast kernel agrees with it.

The textbook is checked by central differences and values computed by hand; the kernels are then
compared with it over all combinations of kernel size, stride and padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn import nn
from distcnn.models import lenet
from distcnn.nn import reference as ref
from distcnn.nn.layer import Layer
from tests.support.networks import planned

Array = NDArray[np.floating]
Values = Mapping[str, Array]
Function = Callable[..., Array]

TOLERANCE = {np.float64: 1e-11, np.float32: 3e-5}
"""Largest difference, relative to the largest number in the array: products of 1,000 terms, and
minimal filtering, which adds and subtracts larger numbers on the way.
"""
precisions = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def run_kernels(
    layers: Sequence[Layer], x: Array, values: Values, grad_y: Array
) -> tuple[Array, Array, dict[str, Array]]:
    """Output, input gradient and parameter gradients of ``layers`` as the engine computes them.

    The batch is the first axis here and the last one in the engine; only this function knows that.
    A first pass over other numbers dirties every buffer that should start from zero.
    """
    network = planned(list(layers), x.shape[1:], len(x), x.dtype)
    network.parameters.assign(values)
    for images in (-1 - x, x):
        y = network.forward(np.ascontiguousarray(np.moveaxis(images, 0, -1))).copy()
        grad_x = network.backward(np.moveaxis(grad_y, 0, -1).copy(), input_gradient=True)
    assert grad_x is not None
    return np.moveaxis(y, -1, 0), np.moveaxis(grad_x, -1, 0), network.named_grads()


def assert_close(actual: Array, expected: Array) -> None:
    assert actual.shape == expected.shape
    scale = np.abs(expected).max(initial=1.0)
    tolerance = TOLERANCE[expected.dtype.type] * scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def draw(seed: int, *shapes: tuple[int, ...], dtype: Any = np.float64) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


# -- the textbook itself


X, WEIGHT, BIAS = draw(0, (2, 3, 7, 6), (4, 3, 3, 2), (4,))
FEATURES, DENSE_WEIGHT, DENSE_BIAS = draw(1, (3, 5), (4, 5), (4,))
STRIDE, PADDING = (2, 1), (1, 2)


@pytest.mark.parametrize(
    ("forward", "backward", "inputs"),
    [
        (
            lambda x, w, b: ref.conv2d(x, w, b, STRIDE, PADDING),
            lambda g, x, w, b: ref.conv2d_backward(g, x, w, STRIDE, PADDING),
            [X, WEIGHT, BIAS],
        ),
        (
            lambda x: ref.max_pool2d(x, (3, 2), (2, 1)),
            lambda g, x: [ref.max_pool2d_backward(g, x, (3, 2), (2, 1))],
            [X],
        ),
        (
            lambda x: ref.avg_pool2d(x, (3, 2), (2, 1)),
            lambda g, x: [ref.avg_pool2d_backward(g, x.shape, (3, 2), (2, 1))],
            [X],
        ),
        (
            ref.dense,
            lambda g, x, w, b: ref.dense_backward(g, x, w),
            [FEATURES, DENSE_WEIGHT, DENSE_BIAS],
        ),
        (ref.flatten, lambda g, x: [ref.flatten_backward(g, x.shape)], [X]),
        (ref.identity, lambda g, x: [ref.identity_backward(g)], [X]),
        (ref.relu, lambda g, x: [ref.relu_backward(g, x)], [X]),
        (ref.sigmoid, lambda g, x: [ref.sigmoid_backward(g, x)], [X]),
        (ref.tanh, lambda g, x: [ref.tanh_backward(g, x)], [X]),
    ],
    ids=[
        *("conv2d", "max_pool2d", "avg_pool2d", "dense", "flatten"),
        *("identity", "relu", "sigmoid", "tanh"),
    ],
)
def test_backward_is_the_derivative_of_forward(
    forward: Function, backward: Callable[..., Sequence[Array]], inputs: list[Array]
) -> None:
    """Along one random direction of all inputs at once: <dL/dx, d> against central differences."""
    directions = draw(2, *(array.shape for array in inputs))
    y = forward(*inputs)
    (grad_y,) = draw(3, y.shape)
    grads = backward(grad_y, *inputs)
    analytic = sum(np.vdot(grad, d) for grad, d in zip(grads, directions, strict=True))

    def loss(step: float) -> float:
        moved = [array + step * d for array, d in zip(inputs, directions, strict=True)]
        return float(np.vdot(forward(*moved), grad_y))

    assert (loss(1e-6) - loss(-1e-6)) / 2e-6 == pytest.approx(analytic, rel=1e-7)


def test_a_convolution_by_hand() -> None:
    x = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    weight, bias = np.array([[[[1.0, 10], [100, 1000]]]]), np.array([0.5])
    assert ref.conv2d(x, weight, bias).tolist() == [[[[5421.5, 6532.5], [8754.5, 9865.5]]]]
    corners = ref.conv2d(x, weight, bias, stride=(3, 3), padding=(1, 1))
    assert corners.tolist() == [[[[1000.5, 300.5], [70.5, 9.5]]]]
    grad_x, grad_weight, grad_bias = ref.conv2d_backward(np.ones((1, 1, 2, 2)), x, weight)
    assert grad_x.tolist() == [[[[1, 11, 10], [101, 1111, 1010], [100, 1100, 1000]]]]
    assert grad_weight.tolist() == [[[[12, 16], [24, 28]]]]
    assert grad_bias.tolist() == [4]


def test_pooling_by_hand() -> None:
    x = np.array([[[[1.0, 3, 3], [2, 3, 0]]]])
    ones = np.ones((1, 1, 1, 2))
    assert ref.max_pool2d(x, (2, 2), (1, 1)).tolist() == [[[[3, 3]]]]
    winners = ref.max_pool2d_backward(ones, x, (2, 2), (1, 1))
    assert winners.tolist() == [[[[0, 2, 0], [0, 0, 0]]]]  # of ties, the first wins
    assert ref.avg_pool2d(x, (2, 2), (1, 1)).tolist() == [[[[2.25, 2.25]]]]
    shares = ref.avg_pool2d_backward(ones, x.shape, (2, 2), (1, 1))
    assert shares.tolist() == [[[[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]]]]


def test_dense_and_activations_by_hand() -> None:
    x, weight = np.array([[1.0, 2]]), np.array([[3.0, 4], [5, 6]])
    assert ref.dense(x, weight, np.array([0.5, 1])).tolist() == [[11.5, 18]]
    assert ref.flatten(np.arange(8).reshape(1, 2, 2, 2)).tolist() == [[*range(8)]]
    numbers = np.array([-np.log(3), 0, np.log(3)])
    assert ref.relu(numbers).tolist() == [0, 0, np.log(3)]
    assert ref.relu_backward(np.ones(3), numbers).tolist() == [0, 0, 1]
    assert ref.sigmoid(numbers) == pytest.approx([0.25, 0.5, 0.75])
    assert ref.sigmoid_backward(np.ones(3), numbers) == pytest.approx([3 / 16, 1 / 4, 3 / 16])
    assert ref.tanh(numbers) == pytest.approx([-0.8, 0, 0.8])
    assert ref.tanh_backward(np.ones(3), numbers) == pytest.approx([0.36, 1, 0.36])
    assert ref.sigmoid(np.array([-1e4, 1e4])).tolist() == [0, 1]


@pytest.mark.parametrize("loss", [ref.softmax_cross_entropy, ref.squared_error])
def test_a_loss_has_the_gradient_it_returns(loss: Callable[..., tuple[float, Array]]) -> None:
    outputs, direction = draw(4, (4, 3), (4, 3))
    labels, weights = np.array([0, 2, 1, 1]), np.array([1.0, 2, 1, 0])
    _, grad = loss(outputs, labels, weights)
    above, below = (loss(outputs + step * direction, labels, weights)[0] for step in (1e-6, -1e-6))
    assert (above - below) / 2e-6 == pytest.approx(np.vdot(grad, direction), rel=1e-8)
    assert not grad[3].any()


def test_losses_by_hand() -> None:
    logits, label, one = np.log([[1.0, 2, 5]]), np.array([1]), np.ones(1)
    loss, grad = ref.softmax_cross_entropy(logits, label, one)
    assert (loss, grad[0]) == (pytest.approx(np.log(4)), pytest.approx([1 / 8, -3 / 4, 5 / 8]))
    assert ref.softmax_cross_entropy(np.array([[1e4, 0.0]]), np.array([1]), one)[0] == 1e4
    loss, grad = ref.squared_error(np.array([[1.0, 3]]), label, np.array([2.0]))
    assert (loss, grad.tolist()) == (5, [[2, 4]])


# -- every fast kernel against the textbook


def compare_convolution(
    channels: int, filters: int, kernel: ref.Pair, stride: ref.Pair, padding: ref.Pair, dtype: Any
) -> None:
    height, width = kernel[0] + 6, kernel[1] + 9
    x, weight, bias = draw(
        5, (3, channels, height, width), (filters, channels, *kernel), (filters,), dtype=dtype
    )
    expected = ref.conv2d(x, weight, bias, stride, padding)
    (grad_y,) = draw(6, expected.shape, dtype=dtype)
    layer = nn.Conv2d(filters, kernel, stride=stride, padding=padding)
    values = {"conv1.weight": weight, "conv1.bias": bias}
    y, grad_x, grads = run_kernels([layer], x, values, grad_y)
    assert_close(y, expected)
    expected_grads = ref.conv2d_backward(grad_y, x, weight, stride, padding)
    actual_grads = (grad_x, grads["conv1.weight"], grads["conv1.bias"])
    for actual, gradient in zip(actual_grads, expected_grads, strict=True):
        assert_close(actual, gradient)


@precisions
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(("channels", "filters"), [(1, 3), (24, 17)], ids=["thin", "thick"])
def test_convolution(channels: int, filters: int, kernel: int, dtype: Any) -> None:
    """Thick ones with stride 1 use minimal filtering, all others im2col."""
    for stride, padding in product((1, 2, 3), (0, 1, 2)):
        compare_convolution(channels, filters, (kernel,) * 2, (stride,) * 2, (padding,) * 2, dtype)


@pytest.mark.parametrize("kernel", [*product((1, 2, 4), (1, 3))])
def test_convolution_of_uneven_windows(kernel: ref.Pair) -> None:
    for channels, filters in ((2, 3), (24, 16)):
        for stride, padding in product(((1, 1), (1, 2), (3, 1)), ((0, 0), (0, 2), (3, 1))):
            compare_convolution(channels, filters, kernel, stride, padding, np.float64)


@precisions
@pytest.mark.parametrize("tied", [False, True])
def test_pooling(tied: bool, dtype: Any) -> None:
    rng = np.random.default_rng(7)
    pairs = [(1, 1), (2, 2), (3, 3), (1, 3), (3, 2), (4, 1)]
    for window, stride in product(pairs, pairs):
        x = (
            rng.integers(-1, 2, (3, 2, 9, 11))
            if tied
            else rng.permutation(594).reshape(3, 2, 9, 11)
        )
        x = x.astype(dtype)
        expected = ref.max_pool2d(x, window, stride)
        (grad_y,) = draw(8, expected.shape, dtype=dtype)
        y, grad_x, _ = run_kernels([nn.MaxPool2d(window, stride)], x, {}, grad_y)
        np.testing.assert_array_equal(y, expected)
        assert_close(grad_x, ref.max_pool2d_backward(grad_y, x, window, stride))
        y, grad_x, _ = run_kernels([nn.AvgPool2d(window, stride)], x, {}, grad_y)
        assert_close(y, ref.avg_pool2d(x, window, stride))
        assert_close(grad_x, ref.avg_pool2d_backward(grad_y, x.shape, window, stride))


@pytest.mark.parametrize("activation", [None, nn.ReLU, nn.Tanh])
@pytest.mark.parametrize(
    ("channels", "filters", "dtype"),
    [(1, 3, np.float64), (1, 3, np.float32), (24, 16, np.float64)],
    ids=["thin", "thin-float32", "thick"],
)
def test_convolution_pooling_and_activation_together(
    channels: int, filters: int, activation: type[nn.Activation] | None, dtype: Any
) -> None:
    """With windows that fill the convolution's output, so that the plan may fuse, and with others.

    Thin ones sum small integers exactly, with many ties. Minimal filtering rounds even integers, so
    the thick ones get numbers without ties.
    """
    rng = np.random.default_rng(9)
    for kernel, window, spare in product((1, 3, 5), ((1, 2), (2, 2), (3, 1)), (0, 1)):
        height, width = kernel - 1 + 6 + spare, kernel - 1 + 8 + spare
        x = rng.integers(-3, 4, (2, channels, height, width)).astype(dtype)
        if channels > 1:
            x += rng.random(x.shape)
        weight = rng.integers(-3, 4, (filters, channels, kernel, kernel)).astype(dtype)
        bias = rng.integers(-3, 4, filters).astype(dtype)
        maps = ref.conv2d(x, weight, bias)
        expected = pooled = ref.max_pool2d(maps, window, window)
        grad_y = rng.integers(-3, 4, pooled.shape).astype(dtype)
        grad_pooled = grad_y
        if activation is nn.ReLU:
            expected, grad_pooled = ref.relu(pooled), ref.relu_backward(grad_y, pooled)
        elif activation is nn.Tanh:
            expected, grad_pooled = ref.tanh(pooled), ref.tanh_backward(grad_y, pooled)
        layers = [nn.Conv2d(filters, kernel), nn.MaxPool2d(window)]
        layers += [activation()] if activation else []
        y, grad_x, grads = run_kernels(
            layers, x, {"conv1.weight": weight, "conv1.bias": bias}, grad_y
        )
        assert_close(y, expected)
        grad_maps = ref.max_pool2d_backward(grad_pooled, maps, window, window)
        expected_grads = ref.conv2d_backward(grad_maps, x, weight)
        actual_grads = (grad_x, grads["conv1.weight"], grads["conv1.bias"])
        for actual, gradient in zip(actual_grads, expected_grads, strict=True):
            assert_close(actual, gradient)


@precisions
@pytest.mark.parametrize(("features", "outputs", "count"), [(1, 1, 1), (3, 5, 2), (400, 7, 33)])
def test_dense(features: int, outputs: int, count: int, dtype: Any) -> None:
    x, weight, bias, grad_y = draw(
        10, (count, features), (outputs, features), (outputs,), (count, outputs), dtype=dtype
    )
    y, grad_x, grads = run_kernels(
        [nn.Dense(outputs)], x, {"dense1.weight": weight, "dense1.bias": bias}, grad_y
    )
    assert_close(y, ref.dense(x, weight, bias))
    actual_grads = (grad_x, grads["dense1.weight"], grads["dense1.bias"])
    for actual, expected in zip(actual_grads, ref.dense_backward(grad_y, x, weight), strict=True):
        assert_close(actual, expected)


@precisions
def test_elementwise_layers(dtype: Any) -> None:
    x, grad_y = draw(11, *[(3, 2, 4, 5)] * 2, dtype=dtype)
    expected: dict[type[Layer], tuple[Array, Array]] = {
        nn.ReLU: (ref.relu(x), ref.relu_backward(grad_y, x)),
        nn.Sigmoid: (ref.sigmoid(x), ref.sigmoid_backward(grad_y, x)),
        nn.Tanh: (ref.tanh(x), ref.tanh_backward(grad_y, x)),
        nn.Identity: (ref.identity(x), ref.identity_backward(grad_y)),
    }
    for layer, (y, grad_x) in expected.items():
        actual = run_kernels([layer()], x, {}, grad_y)
        assert_close(actual[0], y)
        assert_close(actual[1], grad_x)
    y, grad_x, _ = run_kernels([nn.Flatten()], x, {}, ref.flatten(grad_y))
    np.testing.assert_array_equal(y, ref.flatten(x))
    np.testing.assert_array_equal(grad_x, grad_y)


@precisions
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "squared_error"])
def test_losses(name: str, dtype: Any) -> None:
    (outputs,) = draw(12, (9, 10), dtype=dtype)
    labels, weights = np.arange(9) % 4, np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], dtype)
    expected, expected_grad = getattr(ref, name)(outputs, labels, weights)
    actual, actual_grad = getattr(nn, name)(np.ascontiguousarray(outputs.T), labels, weights)
    assert actual == pytest.approx(expected, rel=1e-6)
    assert_close(actual_grad.T, expected_grad)


@precisions
def test_a_whole_network(dtype: Any) -> None:
    rng = np.random.default_rng(13)
    images = rng.standard_normal((2, 1, 28, 28)).astype(dtype)
    labels = np.array([3, 7])
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "dense1": (500, 800)}
    shapes["dense2"] = (10, 500)
    parameters = {}
    for name, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        parameters[f"{name}.weight"] = (rng.standard_normal(shape) * scale).astype(dtype)
        parameters[f"{name}.bias"] = (rng.standard_normal(shape[0]) * 0.1).astype(dtype)
    _, expected = ref.lenet_gradient(images, labels, parameters)

    layers = lenet((1, 28, 28), 10).layers
    logits, _, _ = run_kernels(layers, images, parameters, np.zeros((2, 10), dtype))
    _, grad_logits = ref.softmax_cross_entropy(logits, labels, np.ones(2, dtype))
    _, _, actual = run_kernels(layers, images, parameters, grad_logits)
    assert list(actual) == list(expected)
    for name, gradient in expected.items():
        assert_close(actual[name], gradient)
