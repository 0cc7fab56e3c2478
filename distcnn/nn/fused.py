"""A convolution and the max pooling after it, block of rows by block of rows.

What lies between the two is the largest array of most networks. Pooled while a block of it is in the caches, it is never written to
memory, nor is its gradient. The bits are those of one layer after the other: the same products, sums and comparisons, of the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeGuard

from distcnn.nn.convolution import Conv2d
from distcnn.nn.layer import Array, Layer
from distcnn.nn.pooling import MaxPool2d


class ConvPool:
    """Takes the place of both in forward and backward, with the layers' own buffers."""

    def __init__(self, conv: Conv2d, pool: MaxPool2d) -> None:
        self._conv, self._pool = conv, pool
        conv.plan_rows_of(pool)

    def forward(self, x: Array) -> Array:
        """As the layers' own."""
        return self._conv.forward(x, self._pool)

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        """As the layers' own."""
        return self._conv.backward(grad_output, input_gradient, self._pool)


def align_blocks(layers: Sequence[Layer]) -> None:
    """Before they are planned: a convolution's blocks hold whole windows of the max pooling after it."""
    for layer, following in pairwise([*layers, None]):
        if type(layer) is Conv2d:
            layer.pooled = following.kernel_size if _side_by_side(following) else (1, 1)


def fuse(layers: Sequence[Layer]) -> list[tuple[int, Layer | ConvPool]]:
    """The planned ``layers``, fused where that can be, each with the index of the (first) layer."""
    stages: list[tuple[int, Layer | ConvPool]] = []
    for index, layer in enumerate(layers):
        _, before = stages[-1] if stages else (0, None)
        if type(before) is Conv2d and _side_by_side(layer) and before.can_hand_rows_to(layer.kernel_size):
            stages[-1] = index - 1, ConvPool(before, layer)
        else:
            stages.append((index, layer))
    return stages


def _side_by_side(layer: Layer | None) -> TypeGuard[MaxPool2d]:
    """Whether it is a max pooling whose windows neither overlap nor leave gaps; a user's own class may do anything, so it is none."""
    return type(layer) is MaxPool2d and layer.kernel_size == layer.stride
