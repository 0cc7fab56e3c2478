"""Max pooling and average pooling over windows of any size and stride, overlapping or with gaps.

Derivation of the gradients. Let window q hold the inputs x[p], p in q, and let G = dL/dy.

* Average: ``y[q] = (1/n) * sum of x[p]`` with n = kh*kw, so dy[q]/dx[p] = 1/n inside the window and 0 outside, and
  ``dL/dx[p] = sum over the windows q that cover p of G[q] / n``.
* Maximum: ``y[q] = max of x[p]``. Near a point where one input p* is the largest, y[q] = x[p*] exactly, so dy[q]/dx[p*] = 1 and
  all others are 0: ``dL/dx[p] = sum over the windows q that p wins of G[q]``.

Ties. Where several inputs of a window are equal and largest, the maximum has no derivative; any one of them may be chosen (a
subgradient). **The first in row-major order wins**, as in PyTorch. Giving the gradient to all of them instead multiplies it: on MNIST,
whose constant background convolves to equal values, that cost 20 points of accuracy in the first epoch.
(Scherer, Mueller and Behnke, "Evaluation of pooling operations in convolutional architectures", 2010.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from distcnn.nn.layer import Array, Layer, Shape, image_buffer, image_shape
from distcnn.nn.windows import Pair, as_pair, output_size, window_offsets

WHOLE = slice(0, None)


class Pool2d(Layer):
    """What both poolings share. ``stride`` is the window's size unless given; rows and columns that fill no window are left out."""

    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else as_pair("stride", stride, 1)

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        channels, height, width = image_shape(self, input_shape)
        self.size = output_size((height, width), self.kernel_size, self.stride)
        self.overlapping = self.stride[0] < self.kernel_size[0] or self.stride[1] < self.kernel_size[1]
        self.output = image_buffer((channels, *self.size, microbatch_size), dtype)
        self._grad_input = image_buffer((channels, height, width, microbatch_size), dtype)
        return channels, *self.size

    def _give(self, grads: Array, share: Array) -> None:
        """Hand ``share`` to the inputs ``grads``, which other windows may have given to where windows overlap."""
        if self.overlapping:
            grads += share
        else:
            np.copyto(grads, share)

    def _offsets(self, x: Array) -> list[Array]:
        return list(window_offsets(x, self.kernel_size, self.stride, self.size))


@dataclass(frozen=True)
class Rows:
    """Some rows of a max pooling: inputs by their offset in the window, outputs, and for each offset but the first who was larger."""

    pixels: list[Array]
    output: Array
    is_larger: list[Array]


class MaxPool2d(Pool2d):
    """The largest value of each window: (C, H, W, N) to (C, oh, ow, N). Ties: the first in row-major order takes the gradient."""

    kind, needs_output = "maxpool", False

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        output_shape = super().plan(input_shape, microbatch_size, dtype)
        cover = tuple(size * stride for size, stride in zip(self.size, self.stride, strict=True))
        self.fills = self.kernel_size == self.stride and cover == tuple(input_shape[1:])
        # Backward asks which pixel was larger, not the pixels: where the windows cover all of the input, its buffer takes its gradient.
        self._overwrites = self.owns_input and self.fills
        self._share, self._remaining = image_buffer(self.output.shape, dtype), image_buffer(self.output.shape, dtype)
        others = self.kernel_size[0] * self.kernel_size[1] - 1
        self._is_larger = [image_buffer(self.output.shape, np.bool_) for _ in range(others)]
        return output_shape

    def forward(self, x: Array) -> Array:
        if self._overwrites:
            self._grad_input = x
        self._find_largest(self._rows(x, WHOLE))
        return self.output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        if not input_gradient:
            return None
        if self.overlapping:
            self._grad_input.fill(0)
        self._give_to_winners(self._rows(self._grad_input, WHOLE), grad_output)
        return self._grad_input

    def plan_rows(self, blocks: Sequence[tuple[Array, slice]]) -> None:
        """Make ready for ``forward_rows`` and ``backward_rows``, for a pooling that ``fills``.

        For each block of the input, where it lies whenever it is pooled (C, rows, W, N), and the rows of the output that it gives.
        """
        self._blocks = [(rows, self._rows(x, rows)) for x, rows in blocks]

    def forward_rows(self, block: int) -> None:
        """Pool the block of that number: the input is where it was planned to be."""
        self._find_largest(self._blocks[block][1])

    def backward_rows(self, block: int, grad_output: Array) -> None:
        """Write the gradient of the block of that number in the place of its input, for ``grad_output``, that of the whole output."""
        rows, views = self._blocks[block]
        self._give_to_winners(views, grad_output[:, rows])

    def _rows(self, x: Array, rows: slice) -> Rows:
        """The rows ``rows`` of the output, for ``x``, the part of the input that they come from."""
        output = self.output[:, rows]
        pixels = list(window_offsets(x, self.kernel_size, self.stride, output.shape[1:3]))
        return Rows(pixels, output, [each[:, rows] for each in self._is_larger])

    def _find_largest(self, rows: Rows) -> None:
        first, *others = rows.pixels
        largest = first
        for values, is_larger in zip(others, rows.is_larger, strict=True):
            np.greater(values, largest, out=is_larger)
            largest = np.maximum(values, largest, out=rows.output)
        if largest is first:
            np.copyto(rows.output, first)

    def _give_to_winners(self, rows: Rows, grad_output: Array) -> None:
        """The winner is the last one that was larger than all before it.

        From the last on, the first that was takes all there is, and what has been given out is subtracted from what is left to give.
        """
        height = grad_output.shape[1]
        share, left, remaining = self._share[:, :height], self._remaining[:, :height], grad_output
        first, *others = rows.pixels
        for grads, is_larger in zip(reversed(others), reversed(rows.is_larger), strict=True):
            np.multiply(remaining, is_larger, out=share)
            remaining = np.subtract(remaining, share, out=left)
            self._give(grads, share)
        self._give(first, remaining)


class AvgPool2d(Pool2d):
    """The mean of each window: (C, H, W, N) to (C, oh, ow, N)."""

    kind = "avgpool"

    def forward(self, x: Array) -> Array:
        first, *others = self._offsets(x)
        np.copyto(self.output, first)
        for values in others:
            self.output += values
        self.output *= self._fraction
        return self.output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        if not input_gradient:
            return None
        # The output has served: its buffer takes each window's share.
        share = np.multiply(grad_output, self._fraction, out=self.output)
        if self.overlapping:
            self._grad_input.fill(0)
        for grads in self._offsets(self._grad_input):
            self._give(grads, share)
        return self._grad_input

    @property
    def _fraction(self) -> float:
        return 1.0 / (self.kernel_size[0] * self.kernel_size[1])
