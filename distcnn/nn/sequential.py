"""A network: layers one after another, over one flat vector of parameter values and one of
gradients.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from distcnn.errors import ArgumentError, explained
from distcnn.nn.kernels.fusion import align, fuse
from distcnn.nn.layer import Array, Layer, Parameter, Shape, buffer

AS_A_LIST = "write Sequential([first, second, ...]): the layers are one list"


class Sequential:
    """Layers in a row. ``plan`` it for one shape of microbatch, ``initialise`` it, then ``forward``
    and ``backward``.

    ``values`` and ``grads`` are the flat vectors, in the order of the layers; ``named_values()``
    and ``named_grads()`` are views of them, named by the layer's kind and its number among its
    kind: ``conv1.weight``, ``conv1.bias``, ``dense2.weight`` ...
    """

    @explained(AS_A_LIST)
    def __init__(self, layers: Sequence[Layer]) -> None:
        if isinstance(layers, Layer):
            raise ArgumentError(f"Sequential(<{type(layers).__name__}>): {AS_A_LIST}")
        self.layers = list(layers)
        if not self.layers:
            raise ValueError("Sequential needs at least one layer")
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                remedy = (
                    f"write {layer.__name__}()"
                    if isinstance(layer, type)
                    else "make it a distcnn.nn.Layer"
                )
                raise ArgumentError(
                    f"layers[{index}] of Sequential is {layer!r}, not a layer: {remedy}"
                )
        if len({id(layer) for layer in self.layers}) < len(self.layers):
            raise ValueError(
                "Sequential holds one layer object twice: a layer keeps what its backward needs, so"
                " make one for each place"
            )
        self.observe: Callable[[str, Array], None] | None = None
        """Called with a name ("input", "output of conv1", "input gradient of conv1") and the array,
        on the way forward and back.
        """

    def plan(
        self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike = np.float32
    ) -> Sequential:
        """Allocate everything for inputs ``(*input_shape, microbatch_size)``.

        ``ValueError`` names the layer that does not fit.
        """
        self.input_shape, self.microbatch_size, self.dtype = (
            tuple(input_shape),
            microbatch_size,
            np.dtype(dtype),
        )
        self.layer_names = _numbered(self.layers)
        self.parameters: dict[str, Parameter] = {}
        shape = self.input_shape
        align(self.layers)
        for index, (name, layer) in enumerate(zip(self.layer_names, self.layers, strict=True)):
            layer.owns_input = index > 0 and not self.layers[index - 1].needs_output
            layer.owns_grad_output = (
                index + 1 < len(self.layers) and self.layers[index + 1].gives_away_gradient
            )
            try:
                shape = layer.plan(shape, microbatch_size, dtype)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            self.parameters |= {
                f"{name}.{parameter.name}": parameter for parameter in layer.parameters()
            }
        self.output_shape = shape
        with_parameters = [index for index, layer in enumerate(self.layers) if layer.parameters()]
        self._first_with_parameters = with_parameters[0] if with_parameters else len(self.layers)
        self._allocate()
        self._fused = fuse(self.layers)
        self._running = self._fused
        return self

    def _allocate(self) -> None:
        ends = np.cumsum(
            [math.prod(parameter.shape) for parameter in self.parameters.values()], dtype=np.int64
        ).tolist()
        starts = [0, *ends][:-1]
        self.slices = {
            name: slice(*span) for name, *span in zip(self.parameters, starts, ends, strict=True)
        }
        size = ends[-1] if ends else 0
        counts = [
            sum(math.prod(parameter.shape) for parameter in layer.parameters())
            for layer in self.layers
        ]
        self.layer_starts: list[int] = np.cumsum([0, *counts], dtype=np.int64).tolist()[:-1]
        self._bind(buffer((size,), self.dtype), buffer((size,), self.dtype))

    def share(self, other: Sequential) -> Sequential:
        """Take the flat vectors of ``other``, a network of the same layers: one network then, with
        two sets of buffers.

        So one microbatch can go forward while the backward of another is not finished.
        ``ValueError`` when the parameters differ.
        """
        if self.slices != other.slices or self.dtype != other.dtype:
            raise ValueError(
                f"networks of the parameters {list(self.slices)} and {list(other.slices)} cannot"
                " share them: make both alike"
            )
        self._bind(other.values, other.grads)
        return self

    def write_gradients_to(self, grads: Array) -> None:
        """From now on ``grads``, of the same shape and dtype, takes the gradients."""
        if (grads.shape, grads.dtype) != (self.grads.shape, self.grads.dtype):
            raise ValueError(
                f"gradients of shape {self.grads.shape} ({self.dtype}) cannot be written to"
                f" {grads.shape} ({grads.dtype})"
            )
        self._bind(self.values, grads)

    def _bind(self, flat_values: Array, flat_grads: Array) -> None:
        self.values, self.grads = flat_values, flat_grads
        values, grads = self.named_values(), self.named_grads()
        for name, layer in zip(self.layer_names, self.layers, strict=True):
            own = [parameter.name for parameter in layer.parameters()]
            layer.bind(
                {key: values[f"{name}.{key}"] for key in own},
                {key: grads[f"{name}.{key}"] for key in own},
            )

    def initialise(self, rng: np.random.Generator) -> Sequential:
        """Draw every parameter's first value, in order, from ``rng``.

        ``ArgumentError`` when an initialiser gives another shape.
        """
        for name, values in self.named_values().items():
            parameter = self.parameters[name]
            drawn = parameter.initialiser(rng, parameter.shape, parameter.fan_in, parameter.fan_out)
            if np.shape(drawn) not in (
                parameter.shape,
                (),
            ):  # broadcasting would repeat values that should differ
                raise ArgumentError(
                    f"the initialiser of {name} returned an array of shape {np.shape(drawn)}, not"
                    f" {parameter.shape}"
                )
            values[...] = drawn
        return self

    def forward(self, x: Array) -> Array:
        """Outputs ``(*output_shape, N)``; the array is the last layer's buffer and holds until the
        next call.
        """
        if x.shape != (*self.input_shape, self.microbatch_size):
            raise ValueError(
                f"the input has shape {x.shape}, but the network was planned for"
                f" {(*self.input_shape, self.microbatch_size)}: plan it for the shape it gets (the"
                " batch is the last axis)"
            )
        if self.observe is not None:
            self.observe("input", x)
        self._running = self._fused if self.observe is None else list(enumerate(self.layers))
        for index, stage in self._running:
            x = stage.forward(x)
            if self.observe is not None:
                self.observe(f"output of {self.layer_names[index]}", x)
        return x

    def backward(self, grad_output: Array, input_gradient: bool = False) -> Array | None:
        """Overwrite ``grads``. Returns the input's gradient when it is asked for, else None."""
        grad: Array | None = grad_output
        for grad, _ in self.backward_by_layer(grad_output, input_gradient):  # noqa: B007
            pass
        return grad

    def backward_by_layer(
        self, grad_output: Array, input_gradient: bool = False
    ) -> Iterator[tuple[Array | None, int]]:
        """``backward`` in pieces: after each stage, from the last, the gradient of its input, and
        from which element on ``grads`` is done.

        Between two pieces, networks that ``share`` its ``grads`` may write theirs: what is done
        must be used before.
        """
        grad: Array | None = grad_output
        # Nothing before the first layer with parameters is worth a gradient, unless the input's is
        # wanted.
        first = 0 if input_gradient else self._first_with_parameters
        for index, stage in reversed([each for each in self._running if each[0] >= first]):
            assert (
                grad is not None
            )  # only the last layer of this loop leaves its input's gradient out
            grad = stage.backward(grad, input_gradient or index > first)
            if self.observe is not None and grad is not None:
                self.observe(f"input gradient of {self.layer_names[index]}", grad)
            yield grad, self.layer_starts[index]

    def named_values(self) -> dict[str, Array]:
        """Each parameter's values, a view in PyTorch's shape."""
        return self.named(self.values)

    def named_grads(self) -> dict[str, Array]:
        """Each parameter's gradient, a view in PyTorch's shape."""
        return self.named(self.grads)

    def named(self, flat: Array) -> dict[str, Array]:
        """Each parameter's part of ``flat``, a vector of the shape of ``values``."""
        return {
            name: flat[span].reshape(self.parameters[name].shape)
            for name, span in self.slices.items()
        }

    def parameter_at(self, index: int) -> str:
        """The name of the parameter that holds element ``index`` of the flat vectors."""
        for name, span in self.slices.items():
            if span.start <= index < span.stop:
                return name
        raise IndexError(
            f"index (={index}) must be 0 to {self.values.size - 1}: the network has"
            f" {self.values.size} parameters"
        )


def _numbered(layers: Sequence[Layer]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for layer in layers:
        seen[layer.kind] += 1
        names.append(f"{layer.kind}{seen[layer.kind]}")
    return names
