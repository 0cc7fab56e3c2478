"""Activations: elementwise functions, and the base class for your own.

For y = f(x) elementwise, dL/dx = dL/dy * f'(x). A new one is two methods:

    class Softplus(Activation):
        def function(self, x, out):
            np.logaddexp(x, 0, out=out)

        def derivative(self, x, y, out):      # f'(x); y = f(x) is at hand
            np.negative(y, out=out)
            np.expm1(out, out=out)
            np.negative(out, out=out)          # 1 - exp(-softplus(x)) = sigmoid(x)
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from distcnn.nn.layer import Array, Layer, Shape, buffer, image_buffer


class Activation(Layer):
    """An elementwise function: any shape ``(..., N)`` to the same shape."""

    kind = "activation"

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        allocate = image_buffer if len(input_shape) == 3 else buffer
        self._make = partial(allocate, (*input_shape, microbatch_size))
        self._dtype, self._buffers = dtype, dict[str, Array]()
        return input_shape

    def _buffer(self, name: str, dtype: DTypeLike | None = None) -> Array:
        """Made when it is first needed: fused with a pooling, it never is."""
        if name not in self._buffers:
            self._buffers[name] = self._make(self._dtype if dtype is None else dtype)
        return self._buffers[name]

    def forward(self, x: Array) -> Array:
        self._input, self._output = x, self._buffer("output")
        self.function(x, out=self._output)
        return self._output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        if not input_gradient:
            return None
        grad_input = self._buffer("grad_input")
        self.derivative(self._input, self._output, out=grad_input)
        grad_input *= grad_output
        return grad_input

    def function(self, x: Array, out: Array) -> None:
        """Write f(x) into ``out``."""
        raise NotImplementedError(f"{type(self).__name__} must define function(x, out)")

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        """Write f'(x) into ``out``; ``y`` is f(x)."""
        raise NotImplementedError(f"{type(self).__name__} must define derivative(x, y, out)")


class ReLU(Activation):
    """``max(x, 0)``; derivative 1 where x > 0, else 0 (0 at 0). Nair and Hinton 2010.

    Its output tells the derivative, so it may overwrite its input; that is not taken for granted of
    what a subclass makes of it.
    """

    kind = "relu"

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        # NumPy (2.4) takes the maximum with an array in a third of the time of one with a number.
        self._zeros = buffer((*input_shape, microbatch_size)[-2:], dtype)
        return super().plan(input_shape, microbatch_size, dtype)

    def forward(self, x: Array) -> Array:
        if type(self) is not ReLU or not self.owns_input:
            return super().forward(x)
        self._output = x
        self.function(x, out=x)
        return x

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        if type(self) is not ReLU or not input_gradient:
            return super().backward(grad_output, input_gradient)
        is_positive = np.greater(self._output, 0, out=self._buffer("is_positive", np.bool_))
        # Half the time of a derivative in floating point, and half of that where no other array is
        # written.
        return np.multiply(
            grad_output,
            is_positive,
            out=grad_output if self.owns_grad_output else self._buffer("grad_input"),
        )

    def function(self, x: Array, out: Array) -> None:
        np.maximum(x, self._zeros, out=out)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.greater(y, 0, out=out)


class Sigmoid(Activation):
    """``1 / (1 + exp(-x))``, computed as ``(1 + tanh(x/2)) / 2``, which cannot overflow; derivative
    ``y (1 - y)``.
    """

    kind = "sigmoid"

    def function(self, x: Array, out: Array) -> None:
        np.multiply(x, 0.5, out=out)
        np.tanh(out, out=out)
        out += 1
        out *= 0.5

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.subtract(1, y, out=out)
        out *= y


class Tanh(Activation):
    """``tanh(x)``; derivative ``1 - y^2``."""

    kind = "tanh"

    def function(self, x: Array, out: Array) -> None:
        np.tanh(x, out=out)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.multiply(y, y, out=out)
        np.subtract(1, out, out=out)


class Identity(Activation):
    """``x`` itself; derivative 1."""

    kind = "identity"

    def function(self, x: Array, out: Array) -> None:
        np.copyto(out, x)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        out.fill(1)
