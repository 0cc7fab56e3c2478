"""A network: a list of layers, one after another."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from distcnn.errors import ArgumentError, explained
from distcnn.nn.layer import Layer, Parameter, Shape
from distcnn.nn.parameters import Parameters
from distcnn.nn.plan import NATIVE, Plan

MNIST_SHAPE = (1, 28, 28)
AS_A_LIST = "write Sequential([first, second, ...]): the layers are one list"


class Sequential:
    """Layers in a row: a description, usable for any shape of images and microbatch.

    Layers are named by their class and their number among those of that class: ``conv1``,
    ``maxpool1``, ``conv2`` ...; parameters by their layer: ``conv1.weight``.

    Example:
        >>> model = Sequential([Flatten(), Dense(300), ReLU(), Dense(10)])
        >>> parameters = model.initialise((1, 28, 28), np.random.default_rng(0))
        >>> plan = model.plan((1, 28, 28), 32, parameters)
        >>> logits = plan.forward(np.zeros((1, 28, 28, 32), np.float32))

    Args:
        layers: at least one; an equal layer may appear twice, and has its own parameters each time.

    Raises:
        ArgumentError: the argument is not a list of layers.
        ValueError: the list is empty.
    """

    @explained(AS_A_LIST)
    def __init__(self, layers: Sequence[Layer]) -> None:
        if not isinstance(layers, Iterable):
            raise ArgumentError(f"Sequential({layers!r}): {AS_A_LIST}")
        self.layers = tuple(layers)
        if not self.layers:
            raise ValueError("Sequential needs at least one layer")
        for index, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                is_class = isinstance(layer, type)
                remedy = f"write {layer.__name__}()" if is_class else "make it a distcnn.nn.Layer"
                raise ArgumentError(
                    f"layers[{index}] of Sequential is {layer!r}, not a layer: {remedy}"
                )
        self.names = _numbered(self.layers)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.layers == self.layers

    def __hash__(self) -> int:
        return hash(self.layers)

    def __repr__(self) -> str:
        layers = "".join(f"    {layer!r},\n" for layer in self.layers)
        return f"Sequential([\n{layers}])"

    def __str__(self) -> str:
        """The ``summary`` for MNIST's images, if the layers fit them; else the layers."""
        try:
            summary = self.summary(MNIST_SHAPE, 16)
        except ValueError:
            return repr(self)
        others = "for others: summary(shape, microbatch_size)"
        return f"{summary}\n(images of {_shown(MNIST_SHAPE)}; {others})"

    def shapes(self, input_shape: Shape) -> list[Shape]:
        """Shape of each layer's input, in order, and of the last one's output; without the batch.

        Raises:
            ValueError: names the layer that does not fit.
        """
        shapes = [tuple(input_shape)]
        for name, layer in zip(self.names, self.layers, strict=True):
            try:
                shapes.append(layer.output_shape(shapes[-1]))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return shapes

    def parameters(self, input_shape: Shape) -> dict[str, Parameter]:
        """Describe the parameters for inputs of ``input_shape``, by full name, in order."""
        described: dict[str, Parameter] = {}
        layers = zip(self.names, self.layers, self.shapes(input_shape)[:-1], strict=True)
        for layer_name, layer, shape in layers:
            for parameter in layer.parameters(shape):
                name = f"{layer_name}.{parameter.name}"
                if name in described:
                    raise ValueError(f"{layer_name} has two parameters called {parameter.name!r}")
                described[name] = parameter
        return described

    def allocate(self, input_shape: Shape, dtype: DTypeLike = np.float32) -> Parameters:
        """Parameters for inputs of ``input_shape``, all zero."""
        return Parameters(self.names, self.parameters(input_shape), dtype)

    def initialise(
        self, input_shape: Shape, rng: np.random.Generator, dtype: DTypeLike = np.float32
    ) -> Parameters:
        """Parameters for inputs of ``input_shape``, drawn from ``rng`` in order."""
        return self.allocate(input_shape, dtype).draw(rng)

    def plan(
        self,
        input_shape: Shape,
        microbatch_size: int,
        parameters: Parameters,
        arithmetic: str = NATIVE,
    ) -> Plan:
        """A plan for inputs ``(*input_shape, microbatch_size)``: what runs the network.
        ``arithmetic`` "portable" gives the same bits on every machine, "native" is faster.
        """
        return Plan(self, tuple(input_shape), microbatch_size, parameters, arithmetic)

    def summary(self, input_shape: Shape, microbatch_size: int, arithmetic: str = NATIVE) -> str:
        """Each layer with its output's shape and parameters, and the memory of a plan, as text. The
        plan is made to be measured, and freed.
        """
        shapes, parameters = self.shapes(input_shape), self.allocate(input_shape)
        plan = self.plan(input_shape, microbatch_size, parameters, arithmetic)
        total = parameters.values.size
        sizes = [end - start for start, end in pairwise([*parameters.layer_starts, total])]
        rows = [("layer", "", "output", "parameters"), ("input", "", _shown(shapes[0]), "")]
        rows += [
            (name, repr(layer), _shown(shape), f"{size:,}" if size else "")
            for name, layer, shape, size in zip(
                self.names, self.layers, shapes[1:], sizes, strict=True
            )
        ]
        first, second, third, last = (max(map(len, cells)) for cells in zip(*rows, strict=True))
        lines = [
            f"{name:{first}}  {layer:{second}}  {shape:{third}}  {size:>{last}}".rstrip()
            for name, layer, shape, size in rows
        ]
        memory = f"{plan.nbytes / 1e6:.1f} MB of buffers for a microbatch of {microbatch_size}"
        return "\n".join([*lines, f"{total:,} parameters; {memory}"])


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _numbered(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Each layer's class in lower case without its dimensions, and a number: ``conv1``."""
    stems = [re.sub(r"\dd$", "", type(layer).__name__.lower()) for layer in layers]
    return tuple(f"{stem}{stems[: i + 1].count(stem)}" for i, stem in enumerate(stems))
