"""Layers: descriptions that can be printed and compared, and hold no parameter values.

Letters in all of ``distcnn.nn``: N examples of a microbatch, C channels, H and W height and width,
O filters (output channels), ``kh, kw`` height and width of the kernel or window, ``oh, ow`` those
of the output. Arrays hold the batch innermost, ``(C, H, W, N)`` or ``(features, N)``, so that
copies and maxima of windows work on runs of at least N numbers.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import ArgumentError, explained

Array = NDArray[np.floating]
Shape = tuple[int, ...]
Pair = tuple[int, int]
Initialiser = Callable[[np.random.Generator, Shape, int, int], Array]
"""``(rng, shape, fan_in, fan_out) -> array of that shape``."""
RandomSource = Callable[[str], np.random.Generator]
"""Maps a layer's name, such as ``dropout1``, to its random generator for one pass."""


@dataclass(frozen=True)
class Parameter:
    """The description of an array that a layer learns; ``Parameters`` holds the values.

    Attributes:
        name: its name within the layer, such as ``weight``.
        shape: as in PyTorch, for example (out_channels, in_channels, kh, kw).
        initialiser: draws the first values; it is given ``fan_in`` and ``fan_out``.
        fan_in: inputs that one output sums.
        fan_out: outputs that one input contributes to.
    """

    name: str
    shape: Shape
    initialiser: Initialiser
    fan_in: int
    fan_out: int


@dataclass
class Call:
    """The context of one layer for one pass, forward and backward, of one microbatch.

    Attributes:
        layer_name: such as ``dropout1``.
        values: its parameters by name; read them.
        grads: their gradients by name; ``backward`` writes every element.
        training: False in evaluation and prediction.
        random_source: makes ``random``.
        version: changes whenever the values of parameters have changed.
        saved: whatever ``forward`` keeps for ``backward``.
    """

    layer_name: str
    values: Mapping[str, Array]
    grads: Mapping[str, Array] = field(default_factory=dict)
    training: bool = False
    random_source: RandomSource | None = None
    version: int = 0
    saved: Any = None

    @cached_property
    def random(self) -> np.random.Generator:
        """A generator for this layer and this pass alone; ``ArgumentError`` if the pass was not
        given a ``random_source``.
        """
        if self.random_source is None:
            raise ArgumentError(
                f"{self.layer_name} draws random numbers, but this pass has no source of them: pass"
                " random_source=..., a function from the layer's name to a NumPy Generator"
            )
        return self.random_source(self.layer_name)


class Layer:
    """One differentiable function: the base class of all layers.

    One of your own defines ``output_shape``, ``forward`` and ``backward``, and ``parameters`` if it
    learns any (docs/own_code.md). Only activations have these to inherit: Conv2d, Dense, Flatten
    and the poolings run only in a plan, whose kernels compute them. Attributes are set once, in
    ``__init__``; what forward keeps for backward belongs in ``call.saved``. So one layer serves any
    number of plans and threads. Layers of the same class with equal attributes are equal.
    """

    @explained("it takes no arguments")
    def __init__(self) -> None:
        """Layers that have hyper-parameters define their own ``__init__``."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the output, without the batch, for inputs of ``input_shape``.

        Raises:
            ValueError: the layer cannot take such inputs.
        """
        raise self._undefined("output_shape(input_shape)")

    def parameters(self, input_shape: Shape) -> tuple[Parameter, ...]:
        """Describe what the layer learns for inputs of ``input_shape``; by default nothing. The
        values of these parameters are in ``call.values``.
        """
        return ()

    def forward(self, x: Array, call: Call) -> Array:
        """The output ``(*output_shape, N)`` for the input ``x`` ``(*input_shape, N)``, which must
        not be changed.
        """
        raise self._undefined("forward(x, call)")

    def backward(self, grad_output: Array, call: Call) -> Array:
        """Write the parameters' gradients into ``call.grads``; return the input's gradient
        ``(*input_shape, N)``. ``grad_output`` must not be changed.
        """
        raise self._undefined("backward(grad_output, call)")

    def _undefined(self, method: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} must define all of {method}: there is none to inherit"
            " (built-in layers have none, as only a plan runs them: model.plan)"
        )

    def __setattr__(self, name: str, value: object) -> None:
        if name in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__}.{name} is set already: a layer is a description that does"
                " not change; make another one, or keep what a pass needs in call.saved"
            )
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        mine, others = vars(self), vars(other)
        return mine.keys() == others.keys() and all(same(mine[key], others[key]) for key in mine)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self)))

    def __repr__(self) -> str:
        """The constructor call; arguments equal to their default are left out."""
        written = []
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name not in vars(self):  # self, or what the class keeps under another name
                continue
            value, default = getattr(self, name), parameter.default
            if same(value, default) or shown(value) == shown(default):
                continue
            by_name = parameter.kind is parameter.KEYWORD_ONLY or default is not parameter.empty
            written.append(f"{name}={shown(value)}" if by_name else shown(value))
        return f"{type(self).__name__}({', '.join(written)})"


def same(value: object, other: object) -> bool:
    """Whether two hyper-parameters are equal; arrays are if all their elements are."""
    if isinstance(value, np.ndarray) or isinstance(other, np.ndarray):
        return type(value) is type(other) and np.array_equal(value, other)  # type: ignore[arg-type]
    return bool(value == other)


def shown(value: object) -> str:
    """A hyper-parameter as text: a pair of equal numbers as a single number."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        return repr(value[0])
    name = getattr(value, "__name__", None)
    return name if name is not None and callable(value) else repr(value)


def image_shape(layer: Layer, input_shape: Shape) -> tuple[int, int, int]:
    """``input_shape`` as (C, H, W); ``ValueError`` if it is not that of images."""
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(
            f"{type(layer).__name__} takes images (channels, height, width), but its input has"
            f" shape {input_shape}: put it before Flatten"
        )
    channels, height, width = input_shape
    return channels, height, width


def _is_count(value: object, minimum: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum


def as_count(name: str, value: int) -> int:
    """``value`` as a Python integer, at least 1."""
    if not _is_count(value, 1):
        raise ValueError(f"{name} (={value!r}) must be an integer of at least 1")
    return int(value)


def as_pair(name: str, value: int | Pair, minimum: int) -> Pair:
    """``value`` as a pair (vertical, horizontal); an integer means both."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(_is_count(part, minimum) for part in pair):
        raise ValueError(
            f"{name} (={value!r}) must be an integer of at least {minimum}, or a pair of them"
            " (height, width)"
        )
    return int(pair[0]), int(pair[1])


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Pair:
    """(oh, ow): how many windows fit, ``floor((size + 2*padding - kernel) / stride) + 1`` each way.

    Rows and columns left over at the lower and right edge are not covered, as in PyTorch.
    """
    padded = (size[0] + 2 * padding[0], size[1] + 2 * padding[1])
    if kernel[0] > padded[0] or kernel[1] > padded[1]:
        raise ValueError(
            f"a window of kernel_size {kernel[0]}x{kernel[1]} is larger than its padded input of"
            f" {padded[0]}x{padded[1]} (input {size[0]}x{size[1]}, padding"
            f" {padding[0]}x{padding[1]}): use a smaller kernel_size or larger images"
        )
    return (padded[0] - kernel[0]) // stride[0] + 1, (padded[1] - kernel[1]) // stride[1] + 1
