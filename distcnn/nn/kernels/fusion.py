"""A convolution and the max pooling after it, with the ReLU after that if there is one, block of
rows by block of rows.

What lies between the two is the largest array of most networks. Pooled while a block of it is in
the caches, it is never written to memory, nor is its gradient. The bits are those of one layer
after the other: the same products, sums and comparisons, of the same numbers. ReLU is one more
comparison of the pooling's, with 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

from distcnn.nn.activations import ReLU
from distcnn.nn.convolution import Conv2d, RowLayer
from distcnn.nn.dense import Flatten
from distcnn.nn.layer import Array, Layer
from distcnn.nn.pooling import MaxPool2d

Stage = tuple[int, "Layer | Fused"]


class Fused:
    """Takes the place of ``conv`` and what follows it in forward and backward, with the layers' own
    buffers.
    """

    def __init__(self, conv: Conv2d, following: RowLayer, output: Array) -> None:
        self._conv, self._following, self._output = conv, following, output

    def forward(self, x: Array) -> Array:
        """As the layers' own."""
        self._conv.forward_blocks(x, self._following)
        return self._output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        """As the layers' own."""
        return self._conv.backward(grad_output, input_gradient, self._following)


def align(layers: Sequence[Layer]) -> None:
    """Before they are planned: a convolution's blocks hold whole windows of the max pooling after
    it, whose output lies as a Flatten after that wants it."""
    for layer, following in pairwise([*layers, None]):
        if type(layer) is Conv2d:
            layer.pooled = following.kernel_size if _side_by_side(following) else (1, 1)
    for index, layer in enumerate(layers):
        if type(layer) is MaxPool2d:
            rest = layers[index + 1 :]
            layer.flattened = any(
                type(each) is Flatten
                for each in rest[1 if rest and type(rest[0]) is ReLU else 0 :][:1]
            )


def fuse(layers: Sequence[Layer]) -> list[Stage]:
    """The planned ``layers``, fused where that can be, each with the index of the (first) layer.

    A user's own class may do anything, so it is left alone.
    """
    stages: list[Stage] = []
    index = 0
    while index < len(layers):
        layer, second, third = layers[index], *[*layers[index + 1 : index + 3], None, None][:2]
        if (
            type(layer) is Conv2d
            and _side_by_side(second)
            and layer.holds_windows(second.kernel_size)
        ):
            rectify = type(third) is ReLU
            second.plan_rows(layer.blocks, rectify)
            stages.append((index, Fused(layer, second, second.output)))
            index += 3 if rectify else 2
        else:
            stages.append((index, layer))
            index += 1
    return stages


def _side_by_side(layer: Layer | None) -> TypeGuard[MaxPool2d]:
    """Whether it is a max pooling whose windows neither overlap nor leave gaps."""
    return type(layer) is MaxPool2d and layer.kernel_size == layer.stride
