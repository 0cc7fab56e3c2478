"""Activations as they are computed, and layers of the user's own."""

from collections.abc import Callable
from typing import Any

import numpy as np

from distcnn.errors import ArgumentError
from distcnn.nn.activations import Activation, Sigmoid, Tanh
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Array, Call, Layer, Shape
from distcnn.portable import functions

PORTABLE_FORMS: dict[Any, Callable[..., Any]] = {
    Sigmoid.function: functions.sigmoid,
    Tanh.function: functions.tanh,
}
"""What computes a built-in function with the same bits on every machine; the others do anyway."""


class ActivationKernel:
    """Any elementwise function, into buffers that are made once.

    ``arithmetic`` is "native" or "portable"; a function of the user's own is the same in both.
    """

    def __init__(
        self, activation: Activation, shape: Shape, buffers: Buffers, arithmetic: str = "native"
    ) -> None:
        self._activation, self._function = activation, activation.function
        if arithmetic == "portable":
            self._function = PORTABLE_FORMS.get(type(activation).function, self._function)
        self._output, self._grad_input = buffers.images(shape), buffers.images(shape)

    def forward(self, x: Array, call: Call) -> Array:
        self._input = x
        self._function(x, out=self._output)
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array:
        self._activation.derivative(self._input, self._output, out=self._grad_input)
        self._grad_input *= grad_output
        return self._grad_input


class ReLUKernel:
    """``max(x, 0)``. Its output gives the derivative, so it may write over its input (``in_place``)
    and over the gradient it is given (``overwrite_gradient``), where the plan allows it.
    """

    def __init__(
        self, shape: Shape, buffers: Buffers, in_place: bool, overwrite_gradient: bool
    ) -> None:
        # NumPy (2.4) takes the maximum with an array in a third of the time of one with a number.
        self._zeros = buffers.zeros(shape[-2:])
        self._own_output = None if in_place else buffers.images(shape)
        self._own_grad_input = None if overwrite_gradient else buffers.images(shape)
        self._is_positive = buffers.images(shape, np.bool_)

    def forward(self, x: Array, call: Call) -> Array:
        self._output = x if self._own_output is None else self._own_output
        np.maximum(x, self._zeros, out=self._output)
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array:
        # A Boolean mask takes half the time of a derivative in floating point, and writing over
        # the gradient half of that.
        is_positive = np.greater(self._output, 0, out=self._is_positive)
        out = grad_output if self._own_grad_input is None else self._own_grad_input
        np.multiply(grad_output, is_positive, out=out)
        return out


class OwnLayerKernel:
    """Runs a user's layer, and checks its results. It cannot write to its inputs."""

    def __init__(self, name: str, layer: Layer, shape: Shape, output_shape: Shape) -> None:
        self._layer, self._shape, self._output_shape = layer, shape, output_shape
        self._who = f"{name} ({type(layer).__name__}, input {shape})"
        self._is_new = True

    def forward(self, x: Array, call: Call) -> Array:
        output = self._layer.forward(_read_only(x), call)
        return self._checked("forward", output, self._output_shape, x.dtype)

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        checked = dict(call.grads) if self._is_new else {}
        for grads in checked.values():
            grads.fill(_unwritten(grads))
        grad_input = self._layer.backward(_read_only(grad_output), call)
        for name, grads in checked.items():
            if (grads == _unwritten(grads)).any():
                raise ArgumentError(
                    f"{self._who}: backward did not write all of the gradient of {name}, of shape"
                    f' {grads.shape}: write it as call.grads["{name}"][...] = ...'
                )
        self._is_new = False
        if not input_gradient:
            return None
        return self._checked("backward", grad_input, self._shape, grad_output.dtype)

    def _checked(self, method: str, array: Array, shape: Shape, dtype: np.dtype) -> Array:
        if isinstance(array, np.ndarray):
            if array.shape == shape:
                return array.astype(dtype, copy=False)
            what = f"an array of shape {array.shape}"
        else:
            what = f"a {type(array).__name__}"
        raise ArgumentError(f"{self._who}: {method} returned {what}: it must return {shape}")


def _unwritten(grads: Array) -> np.floating:
    """The largest number of their type, which no gradient is."""
    largest: np.floating = np.finfo(grads.dtype).max
    return largest


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view
