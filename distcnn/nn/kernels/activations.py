"""Activations as they are computed, and layers of the user's own.

``forward`` and ``backward`` are called in pairs; what they return holds until the next call.
"""

from __future__ import annotations

import numpy as np

from distcnn.errors import ArgumentError
from distcnn.nn.activations import Activation
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Array, Call, Layer, Shape


class ActivationKernel:
    """Any elementwise function, into buffers that are made once."""

    def __init__(self, activation: Activation, shape: Shape, buffers: Buffers) -> None:
        self._activation = activation
        self._output, self._grad_input = buffers.activations(shape), buffers.activations(shape)

    def forward(self, x: Array, call: Call) -> Array:
        self._input = x
        self._activation.function(x, out=self._output)
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        if not input_gradient:
            return None
        self._activation.derivative(self._input, self._output, out=self._grad_input)
        self._grad_input *= grad_output
        return self._grad_input


class ReLUKernel:
    """``max(x, 0)``. Its output tells the derivative, so it needs no buffers of its own where it
    may write over its input (``in_place``) and over the gradient it is given
    (``overwrite_gradient``).
    """

    def __init__(
        self, shape: Shape, buffers: Buffers, in_place: bool, overwrite_gradient: bool
    ) -> None:
        # NumPy (2.4) takes the maximum with an array in a third of the time of one with a number.
        self._zeros = buffers.zeros(shape[-2:])
        self._own_output = None if in_place else buffers.activations(shape)
        self._own_grad_input = None if overwrite_gradient else buffers.activations(shape)
        images = len(shape) == 4
        mask = (shape[1], shape[0], *shape[2:]) if images else shape
        is_positive = buffers.zeros(mask, np.bool_)
        self._is_positive = is_positive.swapaxes(0, 1) if images else is_positive

    def forward(self, x: Array, call: Call) -> Array:
        self._output = x if self._own_output is None else self._own_output
        np.maximum(x, self._zeros, out=self._output)
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        if not input_gradient:
            return None
        # A Boolean mask takes half the time of a derivative in floating point, and writing over
        # the gradient half of that.
        is_positive = np.greater(self._output, 0, out=self._is_positive)
        out = grad_output if self._own_grad_input is None else self._own_grad_input
        np.multiply(grad_output, is_positive, out=out)
        return out


class OwnLayerKernel:
    """A layer of the user's own: runs its ``forward`` and ``backward``, and checks what they give.

    It may not write to what it is given, for other layers still read that.

    Raises:
        ArgumentError: an output or a gradient is not an array of the right shape, or a
            parameter's gradient was not written.
    """

    def __init__(self, name: str, layer: Layer, input_shape: Shape, output_shape: Shape) -> None:
        self._layer = layer
        self._input_shape, self._output_shape = input_shape, output_shape
        self._who = f"{name} ({type(layer).__name__}, input {input_shape})"
        self._is_new = True

    def forward(self, x: Array, call: Call) -> Array:
        output = self._layer.forward(_read_only(x), call)
        return self._checked("forward", output, self._output_shape, x.dtype)

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        if self._is_new:
            for grads in call.grads.values():
                grads.fill(_unwritten(grads))
        grad_input = self._layer.backward(_read_only(grad_output), call)
        if self._is_new:
            for name, grads in call.grads.items():
                if (grads == _unwritten(grads)).any():
                    raise ArgumentError(
                        f"{self._who}: backward did not write all of the gradient of {name}, of"
                        f' shape {grads.shape}: write it as call.grads["{name}"][...] = ...'
                    )
            self._is_new = False
        if not input_gradient:
            return None
        return self._checked("backward", grad_input, self._input_shape, grad_output.dtype)

    def _checked(self, method: str, array: Array, shape: Shape, dtype: np.dtype) -> Array:
        if not isinstance(array, np.ndarray) or array.shape != shape:
            what = (
                f"an array of shape {array.shape}"
                if isinstance(array, np.ndarray)
                else f"a {type(array).__name__}"
            )
            raise ArgumentError(f"{self._who}: {method} returned {what}: it must return {shape}")
        return array.astype(dtype, copy=False)


def _read_only(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _unwritten(array: Array) -> float:
    """A mark that no gradient has: the largest number."""
    return float(np.finfo(array.dtype).max)
