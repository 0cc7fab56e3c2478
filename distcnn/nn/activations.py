"""Activations: elementwise functions, and the base class for your own."""

import numpy as np

from distcnn.nn.layer import Array, Call, Layer, Shape


class Activation(Layer):
    """An elementwise function y = f(x): any shape ``(..., N)`` to the same shape.

    One of your own defines ``function`` and ``derivative``; docs/own_code.md has an example.
    """

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def function(self, x: Array, out: Array) -> None:
        """Write f(x) into ``out``, an array of the same shape."""
        raise NotImplementedError(f"{type(self).__name__} must define function(x, out)")

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        """Write f'(x) into ``out``; ``y`` is f(x)."""
        raise NotImplementedError(f"{type(self).__name__} must define derivative(x, y, out)")

    def forward(self, x: Array, call: Call) -> Array:
        y: Array = np.empty_like(x)
        self.function(x, out=y)
        call.saved = x, y
        return y

    def backward(self, grad_output: Array, call: Call) -> Array:
        x, y = call.saved
        grad_input: Array = np.empty_like(x)
        self.derivative(x, y, out=grad_input)
        grad_input *= grad_output
        return grad_input


class ReLU(Activation):
    """``max(x, 0)``, with derivative 0 at 0 (Nair and Hinton 2010)."""

    def function(self, x: Array, out: Array) -> None:
        np.maximum(x, 0, out=out)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.greater(y, 0, out=out)


class Sigmoid(Activation):
    """``1 / (1 + exp(-x))``, computed as ``(1 + tanh(x/2)) / 2``, which cannot overflow."""

    def function(self, x: Array, out: Array) -> None:
        np.multiply(x, 0.5, out=out)
        np.tanh(out, out=out)
        out += 1
        out *= 0.5

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.subtract(1, y, out=out)
        out *= y


class Tanh(Activation):
    """``tanh(x)``."""

    def function(self, x: Array, out: Array) -> None:
        np.tanh(x, out=out)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        np.multiply(y, y, out=out)
        np.subtract(1, out, out=out)


class Identity(Activation):
    """``x`` itself."""

    def function(self, x: Array, out: Array) -> None:
        np.copyto(out, x)

    def derivative(self, x: Array, y: Array, out: Array) -> None:
        out.fill(1)
