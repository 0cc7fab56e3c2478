"""What every layer is.

Letters used in all of ``distcnn.nn``: N examples of a microbatch, C channels, H and W height and
width, K = C*kh*kw the length of one patch, ``kh, kw`` the kernel's (or window's) height and width,
``oh, ow`` the output's.

Arrays hold the batch innermost, ``(C, H, W, N)`` or ``(features, N)``: every window of an image is
then a block whose inner runs are at least N numbers long, so that copies and maxima work on long
runs. In memory, the images that layers hand on lie row by row, all channels of a row together
(``image_buffer``): neighbouring rows of all channels are then one matrix, which a convolution
multiplies where it lies. Layers take any memory order. A layer's buffers are planned once, for one
fixed shape, and reused in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.errors import explained
from distcnn.nn.kernels.arena import Arena

Array = NDArray[np.floating]
Shape = tuple[int, ...]
Initialiser = Callable[[np.random.Generator, Shape, int, int], Array]
"""``(rng, shape, fan_in, fan_out) -> array of that shape``."""

_ARENA = Arena()


@dataclass(frozen=True)
class Parameter:
    """A named array that is learned: its shape is PyTorch's; ``fan_in`` and ``fan_out`` are for its
    initialiser.
    """

    name: str
    shape: Shape
    initialiser: Initialiser
    fan_in: int
    fan_out: int


class Layer:
    """One differentiable function with fixed shapes.

    ``plan`` is called once, then ``forward`` and ``backward`` in pairs. What they return are the
    layer's own buffers: they hold until the next call.
    """

    kind = "layer"
    """The stem of the layer's name inside a network, such as ``conv`` in ``conv1.weight``."""

    needs_output = True
    """Whether backward reads what forward returned; where not, the next layer may use that buffer
    for its own ends.
    """
    owns_input = False
    """Set by the network before ``plan``: the layer before does not need what it returned, so this
    layer may overwrite its input.
    """
    gives_away_gradient = False
    """Whether what backward returns is a buffer of its own that it has done with: the layer before
    may overwrite it.
    """
    owns_grad_output = False
    """Set by the network before ``plan``: the layer after gives its gradient away, so this layer
    may overwrite what comes from there.
    """

    @explained("it takes no arguments")
    def __init__(self) -> None:
        """Nothing: a layer with hyper-parameters defines its own."""

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        """Allocate for inputs of shape ``(*input_shape, microbatch_size)``; return the output's
        shape without the batch.

        Raises ``ValueError`` when the layer cannot take such an input.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define plan(input_shape, microbatch_size, dtype)"
        )

    def parameters(self) -> tuple[Parameter, ...]:
        """The layer's parameters, known once it is planned."""
        return ()

    def bind(self, values: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        """Take the arrays, one per parameter, where values are read from and gradients
        written to.
        """

    def forward(self, x: Array) -> Array:
        """The output ``(*output_shape, N)`` for the input ``x`` of shape ``(*input_shape, N)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        """Write the parameters' gradients; return the input's gradient ``(*input_shape, N)``.

        ``input_gradient=False`` (a network's first layer) saves that work and returns None.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define backward(grad_output, input_gradient)"
        )


def buffer(shape: Shape, dtype: DTypeLike) -> Array:
    """An array of zeros that starts on a cache line, so that no kernel's result or speed can hang
    on where it happened to lie.
    """
    dtype = np.dtype(dtype)
    return _ARENA.zeros(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


def image_buffer(shape: Shape, dtype: DTypeLike) -> Array:
    """A ``buffer`` for images of ``shape`` (C, H, W, N) that lies in memory as (H, C, W, N)."""
    channels, height, *others = shape
    return buffer((height, channels, *others), dtype).swapaxes(0, 1)


def buffer_like(array: Array, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """A ``buffer`` of the shape of ``array`` that lies in memory in the same order."""
    order = np.argsort([-stride for stride in array.strides], kind="stable")
    inner = buffer(tuple(array.shape[axis] for axis in order), dtype or array.dtype)
    return inner.transpose(np.argsort(order))


def image_shape(layer: Layer, input_shape: Shape) -> tuple[int, int, int]:
    """``input_shape`` as (C, H, W), or a ``ValueError`` that names the layer."""
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(
            f"{type(layer).__name__} takes images (channels, height, width), but its input has"
            f" shape {input_shape}: put it before Flatten"
        )
    channels, height, width = input_shape
    return channels, height, width
