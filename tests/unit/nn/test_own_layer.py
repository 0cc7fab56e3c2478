"""Layers as descriptions, and a user's own layers: modes, random streams, parameters, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distcnn.errors import ArgumentError
from distcnn.nn import (
    AvgPool2d,
    Call,
    Conv2d,
    Dense,
    Flatten,
    Layer,
    MaxPool2d,
    Parameter,
    ReLU,
    Sequential,
    Tanh,
    glorot_uniform,
    uniform,
    zeros,
)
from distcnn.nn.kernels.activations import OwnLayerKernel
from distcnn.nn.layer import Array, Shape
from tests.support.networks import planned, run_twice

COUNT = 4


class Dropout(Layer):
    """Much like the one in docs/own_code.md."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, x: Array, call: Call) -> Array:
        if not call.training:
            return x
        call.saved = (call.random.random(x.shape) >= self.rate) / (1 - self.rate)
        return x * call.saved

    def backward(self, grad_output: Array, call: Call) -> Array:
        return grad_output * call.saved if call.training else grad_output


class Scale(Layer):
    """One factor for each feature; ``spoil`` breaks it."""

    def __init__(self, spoil: str = "") -> None:
        self.spoil = spoil

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def parameters(self, input_shape: Shape) -> tuple[Parameter, ...]:
        return (Parameter("factor", input_shape, lambda rng, *_: rng.standard_normal(5), 1, 1),)

    def forward(self, x: Array, call: Call) -> Any:
        call.saved = x
        if self.spoil == "in place":
            x *= 2
        y = call.values["factor"][:, np.newaxis] * x
        return {"output": y[1:], "nothing": None}.get(self.spoil, y)

    def backward(self, grad_output: Array, call: Call) -> Array:
        if self.spoil == "replaced":
            call.grads["factor"] = np.ones(5)  # type: ignore[index]
        elif self.spoil != "unwritten":
            np.sum(grad_output * call.saved, axis=1, out=call.grads["factor"])
        grad = grad_output * call.values["factor"][:, np.newaxis]
        return grad.T if self.spoil == "gradient" else grad


def seeded(seed: int) -> Callable[[str], np.random.Generator]:
    return lambda layer: np.random.default_rng([seed, *layer.encode()])


def images(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 2, 3, COUNT)).astype(np.float32)


def test_a_dropout_depends_on_its_generator_alone() -> None:
    model = Sequential([Flatten(), Dropout(0.5), Dense(9), ReLU(), Dropout(0.5)])
    parameters = model.initialise((1, 2, 3), np.random.default_rng(0))
    first, other = (model.plan((1, 2, 3), COUNT, parameters) for _ in range(2))
    y = first.forward(images(), training=True, random_source=seeded(1)).copy()
    first.forward(images(1), training=True, random_source=seeded(2))
    np.testing.assert_array_equal(first.forward(images(), True, seeded(1)), y)
    np.testing.assert_array_equal(other.forward(images(), True, seeded(1)), y)
    assert not np.array_equal(other.forward(images(), True, seeded(2)), y)


def test_each_layer_draws_from_a_stream_of_its_own() -> None:
    asked: list[str] = []

    def random(layer: str) -> np.random.Generator:
        asked.append(layer)
        return np.random.default_rng(0)

    network = planned([Flatten(), Dropout(0.5), ReLU(), Dropout(0.1)], (1, 2, 3), COUNT)
    network.forward(images(), training=True, random_source=random)
    assert asked == ["dropout1", "dropout2"]
    network.forward(images(), training=False, random_source=random)
    assert asked == ["dropout1", "dropout2"], "nothing is drawn in evaluation"


def test_in_evaluation_a_dropout_is_the_identity() -> None:
    x = images()
    network = planned([Dropout(0.5)], (1, 2, 3), COUNT)
    np.testing.assert_array_equal(network.forward(x, training=False), x)


def test_random_numbers_without_a_source_are_an_error_with_the_remedy() -> None:
    network = planned([Flatten(), Dropout(0.5)], (1, 2, 3), COUNT)
    with pytest.raises(ArgumentError, match=r"dropout1 draws random numbers.*pass random_source="):
        network.forward(images(), training=True)


def test_own_layers_pass_the_gradient_check_anywhere() -> None:
    layers = [Dropout(0.3), MaxPool2d(1), Flatten(), Dense(5), Scale(), ReLU(), Scale(), Dense(2)]
    network = planned(layers, (1, 2, 3), COUNT, np.float64).initialise(np.random.default_rng(3))
    assert network.gradient_error(np.random.default_rng(0), random_source=seeded(0)) < 1e-7


def test_a_users_own_parameters_are_part_of_the_flat_vectors() -> None:
    network = planned([Flatten(), Dense(5), Scale()], (1, 2, 3), COUNT)
    network.initialise(np.random.default_rng(0))
    assert list(network.named_values()) == ["dense1.weight", "dense1.bias", "scale1.factor"]
    run_twice(network)
    assert network.named_grads()["scale1.factor"].all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("output", r"scale1 \(Scale.*forward returned an array of shape \(4, 4\).*\(5, 4\)"),
        ("nothing", r"scale1 \(Scale.*forward returned a NoneType"),
        ("gradient", r"scale1 \(Scale.*backward returned an array of shape \(4, 5\).*\(5, 4\)"),
        ("unwritten", r"scale1 \(Scale.*gradient of factor"),
        ("replaced", r"scale1 \(Scale.*gradient of factor.*\[\.\.\.\] ="),
        ("in place", r"read-only"),
    ],
)
def test_an_error_names_the_layer_its_class_and_the_shapes(spoil: str, message: str) -> None:
    network = planned([Flatten(), Dense(5), Scale(spoil)], (1, 2, 3), COUNT)
    with pytest.raises(ValueError, match=message):
        network.backward(np.ones_like(network.forward(images())))


def test_a_layer_that_defines_nothing_says_what_it_must_define() -> None:
    class Half(Layer):
        pass

    with pytest.raises(NotImplementedError, match="Half must define all of output_shape"):
        planned([Half()], (3,), 1)


def test_a_subclass_of_a_built_in_layer_cannot_call_its_forward() -> None:
    class Clipped(Dense):
        def forward(self, x: Array, call: Call) -> Array:
            return np.minimum(super().forward(x, call), 1)

    network = planned([Clipped(2)], (3,), COUNT)
    with pytest.raises(
        NotImplementedError, match=r"Clipped must define all of forward.*only a plan runs"
    ):
        network.forward(np.ones((3, COUNT), np.float32))


def test_layers_are_printed_as_one_writes_them() -> None:
    layers = [
        Conv2d(20, 5),
        Conv2d(20, (5, 3), stride=2, padding=1, weight_initialiser=glorot_uniform),
        Dense(10, bias_initialiser=uniform(0.1)),
        *(MaxPool2d(2), MaxPool2d(3, 2), AvgPool2d((1, 2)), Tanh(), Dropout(0.5)),
    ]
    assert list(map(repr, layers)) == [
        "Conv2d(20, 5)",
        "Conv2d(20, (5, 3), stride=2, padding=1, weight_initialiser=glorot_uniform)",
        "Dense(10, bias_initialiser=uniform(0.1))",
        *("MaxPool2d(2)", "MaxPool2d(3, stride=2)", "AvgPool2d((1, 2))", "Tanh()", "Dropout(0.5)"),
    ]


def test_layers_and_networks_of_equal_hyper_parameters_are_equal() -> None:
    one, same, other = (Sequential([Flatten(), Dense(n)]) for n in (3, 3, 4))
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert Dense(3) != Dense(3, weight_initialiser=zeros)
    assert MaxPool2d(2) == MaxPool2d(2, 2)


def test_arrays_as_hyper_parameters_are_compared_by_their_elements() -> None:
    class Table(Layer):
        def __init__(self, values: Any) -> None:
            self.values = values

    assert Table(np.arange(3)) == Table(np.arange(3))
    assert Table(np.arange(3)) != Table(np.arange(4))
    assert Table(np.arange(3)) != Table(3)
    assert repr(Table(np.arange(3))) == "Table(array([0, 1, 2]))"


def test_a_layer_does_not_change() -> None:
    with pytest.raises(AttributeError, match=r"Dense\.out_features is set already"):
        Dense(3).out_features = 4


def test_one_layer_object_may_stand_in_two_places() -> None:
    relu, dense = ReLU(), Dense(5)
    network = planned([dense, relu, dense, relu], (5,), COUNT, np.float64)
    network.initialise(np.random.default_rng(0))
    assert network.gradient_error(np.random.default_rng(0)) < 1e-7


def test_a_summary_tells_shapes_parameters_and_memory() -> None:
    summary = Sequential([Flatten(), Dense(10)]).summary((1, 28, 28), 16)
    assert "1x28x28" in summary
    assert "Dense(10)" in summary
    assert "7,850 parameters" in summary
    assert "MB" in summary


def test_a_printed_model_shows_shapes_if_it_fits_mnist() -> None:
    assert "20x24x24" in str(Sequential([Conv2d(20, 5), Flatten(), Dense(10)]))
    too_large = Sequential([Conv2d(20, 35)])
    assert str(too_large) == repr(too_large)


@pytest.mark.parametrize("spoil", ["", "unwritten"])
def test_in_portable_arithmetic_x_is_float64_and_parameters_are_float32(spoil: str) -> None:
    """So is the output, which the kernel converts; a gradient that is not written is found."""

    class Shift(Layer):
        def output_shape(self, input_shape: Shape) -> Shape:
            return input_shape

        def forward(self, x: Array, call: Call) -> Array:
            assert (x.dtype, call.values["by"].dtype) == (np.float64, np.float32)
            return (x + call.values["by"][:, np.newaxis]).astype(np.float32)

        def backward(self, grad_output: Array, call: Call) -> Array:
            assert grad_output.dtype == np.float64
            if spoil:
                call.grads["by"][1:] = 0
            else:
                call.grads["by"][...] = grad_output[:, 0] + grad_output[:, 1]
            return grad_output

    kernel = OwnLayerKernel("shift1", Shift(), (2, 2), (2, 2))
    by, grads = np.array([1, 2], np.float32), np.zeros(2, np.float32)
    call = Call("shift1", {"by": by}, {"by": grads})
    y = kernel.forward(np.ones((2, 2)), call)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, [[2, 2], [3, 3]])
    if spoil:
        with pytest.raises(ArgumentError, match="did not write all of the gradient of by"):
            kernel.backward(np.ones((2, 2)), call, True)
        return
    np.testing.assert_array_equal(kernel.backward(np.ones((2, 2)), call, True), np.ones((2, 2)))
    np.testing.assert_array_equal(grads, [2, 2])
