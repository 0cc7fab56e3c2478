"""Runs the user's own layers and checks their results."""

from __future__ import annotations

import numpy as np

from distcnn.errors import ArgumentError
from distcnn.nn.layer import Array, Call, Layer, Shape


class OwnLayerKernel:
    """Runs ``forward`` and ``backward`` of a user's layer, and checks their results.

    The layer must not write to its inputs, which other layers still read.

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
        own = dict(call.grads)
        if self._is_new:
            for grads in own.values():
                grads.fill(_unwritten(grads))
        grad_input = self._layer.backward(_read_only(grad_output), call)
        if self._is_new:
            for name, grads in own.items():
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
    """A value that no gradient has: the largest number."""
    return float(np.finfo(array.dtype).max)
