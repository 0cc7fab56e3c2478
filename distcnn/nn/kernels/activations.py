"""Activations as they are computed."""

from __future__ import annotations

import numpy as np

from distcnn.nn.activations import Activation
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Array, Call, Shape


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
    """``max(x, 0)``. Its output gives the derivative, so it needs no buffers of its own where it
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
        self._is_positive = buffers.activations(shape, np.bool_)

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
