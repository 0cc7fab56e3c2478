"""The planner: which kernel runs each layer, which layers run as one, who may overwrite what.

It looks at the whole network once, for one shape of microbatch. All such decisions are made here;
kernels follow them, and layers know nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from distcnn.nn.activations import Activation, ReLU
from distcnn.nn.convolution import Conv2d
from distcnn.nn.dense import Dense, Flatten
from distcnn.nn.kernels.activations import ActivationKernel, OwnLayerKernel, ReLUKernel
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.convolution import ConvKernel
from distcnn.nn.kernels.dense import DenseKernel, FlattenKernel
from distcnn.nn.kernels.fusion import Pooling
from distcnn.nn.kernels.pooling import AvgPoolKernel, MaxPoolKernel
from distcnn.nn.layer import Array, Call, Layer, Shape
from distcnn.nn.pooling import AvgPool2d, MaxPool2d

BUILT_IN = (Conv2d, MaxPool2d, AvgPool2d, ReLU, Activation, Flatten, Dense)
"""What kernels compute; any other layer runs its own ``forward`` and ``backward``."""
OUTPUT_MAY_BE_OVERWRITTEN = (Conv2d, MaxPool2d, Dense)
"""By the layer after them: in backward they do not read their output again."""
GRADIENT_MAY_BE_OVERWRITTEN = (Conv2d, MaxPool2d, AvgPool2d, Dense)
"""By the layer before them: they do not read again what they returned from backward."""
METHODS = {"output_shape", "parameters", "forward", "backward"}
"""A subclass that defines one of these computes by itself, not by its base's kernel."""


class Kernel(Protocol):
    """Runs a layer, or a few that are fused, for one shape of microbatch."""

    def forward(self, x: Array, call: Call) -> Array:
        """The output; it holds until the next call."""

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        """Write the parameters' gradients to ``call.grads``; return the input's gradient, or None
        without ``input_gradient`` (always given to kernels that have no parameters).
        """


class Planner:
    """Chooses the kernels of ``layers``, called ``names``; with ``fused``, layers may run as one.

    ``shapes`` are those of each layer's input and of the last one's output, with the batch.
    """

    def __init__(
        self,
        layers: tuple[Layer, ...],
        names: tuple[str, ...],
        shapes: list[Shape],
        buffers: Buffers,
        fused: bool,
    ) -> None:
        self._layers, self._names, self._shapes = layers, names, shapes
        self._buffers, self._fused = buffers, fused
        self._kinds = [built_in(layer) for layer in layers]

    def kernels(self) -> Iterator[tuple[int, Kernel]]:
        """The kernels in order, each with the index of its (first) layer."""
        index = 0
        while index < len(self._layers):
            kernel, layers = self._kernel(index)
            yield index, kernel
            index += layers

    def _kernel(self, index: int) -> tuple[Kernel, int]:
        """The kernel that begins with layer ``index``, and how many layers it runs."""
        layer, shape, buffers = self._layers[index], self._shapes[index], self._buffers
        kind = self._kind(index)
        in_place = self._kind(index - 1) in OUTPUT_MAY_BE_OVERWRITTEN
        kernel: Kernel
        match layer:
            case _ if kind is None:
                kernel = OwnLayerKernel(self._names[index], layer, shape, self._shapes[index + 1])
            case Conv2d():
                return self._convolution(index, layer)
            case MaxPool2d():
                after = index + (2 if self._kind(index + 1) is ReLU else 1)
                flattened = self._kind(after) is Flatten
                kernel = MaxPoolKernel(layer, shape, buffers, flattened, in_place)
            case AvgPool2d():
                kernel = AvgPoolKernel(layer, shape, buffers)
            case ReLU() if kind is ReLU:
                overwrite_gradient = self._kind(index + 1) in GRADIENT_MAY_BE_OVERWRITTEN
                kernel = ReLUKernel(shape, buffers, in_place, overwrite_gradient)
            case Activation():
                kernel = ActivationKernel(layer, shape, buffers)
            case Flatten():
                kernel = FlattenKernel(shape, buffers)
            case Dense():
                kernel = DenseKernel(layer.out_features, shape, buffers)
            case _:
                raise AssertionError(f"{kind} has no kernel")
        return kernel, 1

    def _convolution(self, index: int, layer: Conv2d) -> tuple[Kernel, int]:
        """With the max pooling after it, and the ReLU after that, where they can be fused."""
        pooling, layers = None, 1
        following = self._layers[index + 1] if self._kind(index + 1) is MaxPool2d else None
        if isinstance(following, MaxPool2d) and following.is_side_by_side:
            rectify = self._kind(index + 2) is ReLU
            layers = 3 if rectify else 2
            flattened = self._kind(index + layers) is Flatten
            name = self._names[index + 1]
            pooling = Pooling(following.kernel_size, name, rectify, flattened)
        kernel = ConvKernel(layer, self._shapes[index], self._buffers, pooling, self._fused)
        return kernel, layers if kernel.is_fused else 1

    def _kind(self, index: int) -> type[Layer] | None:
        """The built-in class of a layer; None for a layer of one's own, and outside the list."""
        return self._kinds[index] if 0 <= index < len(self._kinds) else None


def built_in(layer: Layer) -> type[Layer] | None:
    """The class of ``BUILT_IN`` whose kernel computes ``layer``: its own, or a base whose
    computation it left as it is. None for a layer of the user's own.
    """
    defined: set[str] = set()
    for kind in type(layer).__mro__:
        if kind is Activation and not defined & METHODS:
            return Activation  # which calls the layer's own function and derivative
        if kind in BUILT_IN and not defined:
            return kind
        defined |= vars(kind).keys() & (METHODS | {"function", "derivative"})
    return None
