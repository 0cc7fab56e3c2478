"""Networks: flat vectors and their views, names, order, errors, buffers, and the gradient check of
whole CNNs.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.errors import ArgumentError
from distcnn.nn import (
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    Identity,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)
from tests.support.networks import planned

examples = settings(deadline=None, derandomize=True, max_examples=40)
SHAPE = (2, 9, 8)


def small_cnn() -> Sequential:
    """Two convolutions, both poolings, three activations and two dense layers: 2x9x8 to 3."""
    return Sequential(
        [
            *(Conv2d(3, (3, 2), padding=(1, 0)), MaxPool2d(2), ReLU()),
            *(Conv2d(4, 2, stride=(1, 2), padding=1), Tanh(), AvgPool2d(2, 1)),
            *(Flatten(), Dense(5), Sigmoid(), Dense(3)),
        ]
    )


@examples
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_whole_cnn_passes_the_gradient_check(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    network = planned(small_cnn(), SHAPE, count, np.float64)
    network.parameters.assign(0.5 * rng.standard_normal(network.values.shape))
    assert network.gradient_error(rng, rng.standard_normal((*SHAPE, count))) < 1e-5


def test_names_count_the_layers_of_each_kind_and_keep_their_order() -> None:
    network = planned(small_cnn(), SHAPE, 1)
    names = [
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
        "dense1.weight",
        "dense1.bias",
        "dense2.weight",
        "dense2.bias",
    ]
    assert (
        list(network.named_values())
        == list(network.named_grads())
        == list(network.model.parameters(SHAPE))
        == names
    )
    layers = [
        "conv1",
        "maxpool1",
        "relu1",
        "conv2",
        "tanh1",
        "avgpool1",
        "flatten1",
        "dense1",
        "sigmoid1",
        "dense2",
    ]
    assert list(network.model.names) == layers


def test_shapes_are_those_of_pytorch_and_fill_the_flat_vectors_without_a_gap() -> None:
    network = planned(small_cnn(), SHAPE, 1)
    shapes = {name: values.shape for name, values in network.named_values().items()}
    assert shapes == {
        **{
            "conv1.weight": (3, 2, 3, 2),
            "conv1.bias": (3,),
            "conv2.weight": (4, 3, 2, 2),
            "conv2.bias": (4,),
        },
        **{
            "dense1.weight": (5, 16),
            "dense1.bias": (5,),
            "dense2.weight": (3, 5),
            "dense2.bias": (3,),
        },
    }
    assert network.values.shape == network.grads.shape == (36 + 3 + 48 + 4 + 80 + 5 + 15 + 3,)
    network.parameters.assign(np.arange(network.values.size))
    np.testing.assert_array_equal(
        np.concatenate([v.ravel() for v in network.named_values().values()]), network.values
    )


def test_named_arrays_are_views_of_the_flat_vectors() -> None:
    network = planned(small_cnn(), SHAPE, 1)
    with network.parameters.changing() as flat:
        network.parameters.named(flat)["conv1.bias"][1] = 7
    network.named_grads()["dense2.bias"][2] = 9
    assert np.flatnonzero(network.values).tolist() == [37]
    assert network.named_values()["conv1.bias"][1] == 7
    assert np.flatnonzero(network.grads).tolist() == [network.grads.size - 1]


def test_layers_read_the_flat_values_and_write_the_flat_grads() -> None:
    network = planned([Dense(1)], (2,), 1, np.float64)
    network.parameters.assign([2, 3, 5])
    assert network.forward(np.array([[1.0], [10.0]])).item() == 37
    network.backward(np.array([[2.0]]))
    np.testing.assert_array_equal(network.grads, [2, 20, 2])


def test_parameter_at_finds_the_owner_of_every_element() -> None:
    network = planned(small_cnn(), SHAPE, 1)
    owners = [name for name, values in network.named_values().items() for _ in range(values.size)]
    assert [
        network.parameters.parameter_at(index) for index in range(network.values.size)
    ] == owners


def test_initialise_is_decided_by_the_seed_alone() -> None:
    first, second, other = (
        planned(small_cnn(), SHAPE, 1).initialise(np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.values, second.values)
    assert not np.array_equal(first.values, other.values)


def test_initialise_does_not_depend_on_the_microbatch_or_on_what_was_there() -> None:
    network = planned(small_cnn(), SHAPE, 1).initialise(np.random.default_rng(3))
    expected = network.values.copy()
    network.parameters.assign(np.nan)
    np.testing.assert_array_equal(network.initialise(np.random.default_rng(3)).values, expected)
    np.testing.assert_array_equal(
        planned(small_cnn(), SHAPE, 16).initialise(np.random.default_rng(3)).values, expected
    )


def test_an_initialiser_of_another_shape_is_refused() -> None:
    for drawn in (np.ones((3, 3)), np.ones(16), np.ones((1, 16))):
        network = planned(
            [Flatten(), Dense(2, weight_initialiser=lambda *_, drawn=drawn: drawn)], (4, 4, 1), 1
        )
        with pytest.raises(
            ArgumentError,
            match=r"the initialiser of dense1\.weight returned an array of shape .*, not \(2, 16\)",
        ):
            network.initialise(np.random.default_rng(0))
    network = planned([Flatten(), Dense(2, weight_initialiser=lambda *_: 0.5)], (4, 4, 1), 1)
    assert set(
        network.initialise(np.random.default_rng(0)).named_values()["dense1.weight"].flat
    ) == {0.5}


def test_backward_overwrites_the_gradients_and_skips_the_inputs() -> None:
    rng = np.random.default_rng(0)
    network = planned(small_cnn(), SHAPE, 2, np.float64).initialise(rng)
    x, grad_output = rng.standard_normal((*SHAPE, 2)), rng.standard_normal((3, 2))
    network.forward(x)
    grad_x = network.backward(grad_output, input_gradient=True)
    assert grad_x is not None
    assert grad_x.shape == x.shape
    expected = network.grads.copy()
    network.grads[:] = np.nan
    network.forward(x)
    assert network.backward(grad_output) is None
    np.testing.assert_array_equal(network.grads, expected)


def test_an_earlier_microbatch_leaves_no_trace() -> None:
    rng = np.random.default_rng(0)
    used = planned(small_cnn(), SHAPE, 2).initialise(np.random.default_rng(1))
    used.forward(rng.standard_normal((*SHAPE, 2)))
    used.backward(rng.standard_normal((3, 2)).astype(np.float32), input_gradient=True)
    fresh = planned(small_cnn(), SHAPE, 2).initialise(np.random.default_rng(1))
    x, grad_output = (
        rng.standard_normal((*SHAPE, 2)).astype(np.float32),
        rng.standard_normal((3, 2)).astype(np.float32),
    )
    np.testing.assert_array_equal(used.forward(x), fresh.forward(x))
    used_grad, fresh_grad = (
        network.backward(grad_output, input_gradient=True) for network in (used, fresh)
    )
    assert used_grad is not None
    assert fresh_grad is not None
    np.testing.assert_array_equal(used_grad, fresh_grad)
    np.testing.assert_array_equal(used.grads, fresh.grads)


def test_forward_and_backward_leave_their_arguments_alone() -> None:
    rng = np.random.default_rng(0)
    network = planned(small_cnn(), SHAPE, 2, np.float64).initialise(rng)
    x, grad_output = rng.standard_normal((*SHAPE, 2)), rng.standard_normal((3, 2))
    before = x.copy(), grad_output.copy(), network.values.copy()
    network.forward(x)
    network.backward(grad_output, input_gradient=True)
    for now, then in zip((x, grad_output, network.values), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_the_same_buffers_serve_every_microbatch() -> None:
    rng = np.random.default_rng(0)
    network = planned(small_cnn(), SHAPE, 2, np.float64).initialise(rng)
    x, grad_output = rng.standard_normal((*SHAPE, 2)), rng.standard_normal((3, 2))
    first = network.forward(x)
    first_grad = network.backward(grad_output, input_gradient=True)
    assert network.forward(x + 1) is first
    assert np.shares_memory(network.backward(grad_output, input_gradient=True), first_grad)


def test_a_step_allocates_less_than_one_activation() -> None:
    network = planned(
        [
            *(Conv2d(8, 3, padding=1), MaxPool2d(2), ReLU()),
            *(Conv2d(8, 3, padding=1), Tanh(), AvgPool2d(2)),
            *(Flatten(), Dense(150), ReLU(), Dense(150)),
        ],
        (2, 16, 16),
        256,
    )
    x, grad_output = np.ones((2, 16, 16, 256), np.float32), np.ones((150, 256), np.float32)
    # NumPy's own working space for a cast takes 100 kB whatever the size, so the smallest
    # activation must be larger.
    smallest_activation_bytes = 8 * 4 * 4 * 256 * 4

    def step() -> None:
        network.forward(x)
        network.backward(grad_output)

    step()
    tracemalloc.start()
    step()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < smallest_activation_bytes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_has_the_planned_dtype(dtype: type[np.floating]) -> None:
    network = planned(small_cnn(), SHAPE, 2, dtype).initialise(np.random.default_rng(0))
    outputs = network.forward(np.ones((*SHAPE, 2), dtype))
    grad_x = network.backward(np.ones_like(outputs), input_gradient=True)
    assert grad_x is not None
    assert {array.dtype for array in (network.values, network.grads, outputs, grad_x)} == {
        np.dtype(dtype)
    }


def test_a_network_without_parameters_has_empty_vectors() -> None:
    network = planned([Identity(), MaxPool2d(2)], (1, 2, 2), 1, np.float64).initialise(
        np.random.default_rng(0)
    )
    assert network.values.shape == network.grads.shape == (0,)
    assert network.forward(np.array([1.0, 4.0, 3.0, 2.0]).reshape(1, 2, 2, 1)).item() == 4


def test_an_empty_network_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential needs at least one layer"):
        Sequential([])


def test_an_error_names_the_layer_that_does_not_fit() -> None:
    layers = [Conv2d(3, 3), MaxPool2d(2), Conv2d(3, 3), MaxPool2d(3)]
    with pytest.raises(
        ValueError,
        match=r"^conv2: a window of kernel_size 3x3 is larger than its padded input of 2x2",
    ):
        planned(layers, (1, 7, 7), 1)
    with pytest.raises(
        ValueError,
        match=r"^maxpool2: a window of kernel_size 3x3 is larger than its padded input of 1x1",
    ):
        planned(layers, (1, 8, 8), 1)
    with pytest.raises(ValueError, match=r"^dense2: Dense takes flat inputs"):
        planned([Flatten(), Dense(2), Identity(), _Unflatten(), Dense(2)], (1, 2, 2), 1)


class _Unflatten(Identity):
    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*input_shape, 1, 1)


def test_an_input_of_another_shape_than_planned_is_refused() -> None:
    network = planned([Conv2d(1, 1)], (1, 20, 20), 2)
    for shape in (
        (1, 3, 3, 2),
        (1, 20, 20, 1),
        (2, 1, 20, 20),
    ):  # a smaller one would be read beyond its end
        with pytest.raises(
            ValueError, match=r"the input has shape .* planned for \(1, 20, 20, 2\)"
        ):
            network.forward(np.ones(shape, np.float32))


def test_parameter_at_refuses_an_index_beyond_the_parameters() -> None:
    network = planned([Dense(2)], (3,), 1)
    for index in (-1, 8):
        with pytest.raises(IndexError, match=rf"index \(={index}\) must be 0 to 7"):
            network.parameters.parameter_at(index)
