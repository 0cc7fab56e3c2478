"""The planner: which kernel runs each layer, which layers run as one, who may overwrite what.

It looks at the whole network once, for one shape of microbatch. All such decisions are made here;
kernels follow them, and layers know nothing of them.
"""

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
        # None after the last layer too, and (at -1) before the first.
        self._kinds = [*map(built_in, layers), None, None, None]

    def kernels(self) -> Iterator[tuple[int, Kernel]]:
        """The kernels in order, each with the index of its (first) layer."""
        index = 0
        while index < len(self._layers):
            kernel = self._kernel(index)
            yield index, kernel
            index += kernel.layers if isinstance(kernel, ConvKernel) else 1

    def _kernel(self, index: int) -> Kernel:
        """The kernel that begins with layer ``index``."""
        layer, shape, buffers = self._layers[index], self._shapes[index], self._buffers
        before, kind, after = (self._kinds[i] for i in (index - 1, index, index + 1))
        in_place = before in OUTPUT_MAY_BE_OVERWRITTEN
        match layer:
            case _ if kind is None:
                output_shape = self._shapes[index + 1]
                return OwnLayerKernel(self._names[index], layer, shape, output_shape)
            case Conv2d():
                return ConvKernel(layer, shape, buffers, self._pooling(index + 1), self._fused)
            case MaxPool2d():
                flattened = self._kinds[index + (2 if after is ReLU else 1)] is Flatten
                return MaxPoolKernel(layer, shape, buffers, flattened, in_place)
            case AvgPool2d():
                return AvgPoolKernel(layer, shape, buffers)
            case ReLU() if kind is ReLU:
                overwrite_gradient = after in GRADIENT_MAY_BE_OVERWRITTEN
                return ReLUKernel(shape, buffers, in_place, overwrite_gradient)
            case Activation():
                return ActivationKernel(layer, shape, buffers)
            case Flatten():
                return FlattenKernel(shape, buffers)
            case Dense():
                return DenseKernel(layer.out_features, shape, buffers)
        raise AssertionError(f"{kind} has no kernel")

    def _pooling(self, index: int) -> Pooling | None:
        """The max pooling at ``index`` with what follows it, for the convolution before it."""
        pool = self._layers[index] if self._kinds[index] is MaxPool2d else None
        if not isinstance(pool, MaxPool2d) or not pool.is_side_by_side:
            return None
        rectify = self._kinds[index + 1] is ReLU
        flattened = self._kinds[index + (2 if rectify else 1)] is Flatten
        return Pooling(pool.kernel_size, self._names[index], rectify, flattened)


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
