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

import numpy as np
from numpy.typing import DTypeLike

from distcnn.nn.layer import Array, Layer, Shape, image_buffer, image_shape
from distcnn.nn.windows import Pair, as_pair, output_size, window_offsets


class Pool2d(Layer):
    """What both poolings share. ``stride`` is the window's size unless given; rows and columns that fill no window are left out."""

    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else as_pair("stride", stride, 1)

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        channels, height, width = image_shape(self, input_shape)
        self.size = output_size((height, width), self.kernel_size, self.stride)
        self.overlapping = self.stride[0] < self.kernel_size[0] or self.stride[1] < self.kernel_size[1]
        self._output = image_buffer((channels, *self.size, microbatch_size), dtype)
        self._grad_input = image_buffer((channels, height, width, microbatch_size), dtype)
        return channels, *self.size

    def _offsets(self, x: Array) -> list[Array]:
        return list(window_offsets(x, self.kernel_size, self.stride, self.size))


class MaxPool2d(Pool2d):
    """The largest value of each window: (C, H, W, N) to (C, oh, ow, N). Ties: the first in row-major order takes the gradient.

    First along the width: the largest of each row of a window, (C, H, ow, N); then along the height. Backward the other way: the first row
    that holds the maximum is chosen, and in it the first of the equal pixels.
    """

    kind = "maxpool"

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        channels, oh, ow = super().plan(input_shape, microbatch_size, dtype)
        self._rows = image_buffer((channels, input_shape[1], ow, microbatch_size), dtype)
        self._grad_rows = image_buffer(self._rows.shape, dtype)
        self._along_width = Maximum(self._rows.shape, self.stride[1] < self.kernel_size[1], dtype)
        self._along_height = Maximum(self._output.shape, self.stride[0] < self.kernel_size[0], dtype)
        return channels, oh, ow

    def forward(self, x: Array) -> Array:
        self._input = x
        self._along_width.forward(self._pixels_of_rows(x), self._rows)
        self._along_height.forward(self._rows_of_windows(self._rows), self._output)
        return self._output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        if not input_gradient:
            return None
        if self.overlapping:
            self._grad_rows.fill(0)
            self._grad_input.fill(0)
        self._along_height.backward(self._rows_of_windows(self._rows), self._output, grad_output, self._rows_of_windows(self._grad_rows))
        pixels, grads = self._pixels_of_rows(self._input), self._pixels_of_rows(self._grad_input)
        self._along_width.backward(pixels, self._rows, self._grad_rows, grads)
        return self._grad_input

    def _pixels_of_rows(self, x: Array) -> list[Array]:
        return list(window_offsets(x, (1, self.kernel_size[1]), (1, self.stride[1]), (x.shape[1], self.size[1])))

    def _rows_of_windows(self, rows: Array) -> list[Array]:
        return list(window_offsets(rows, (self.kernel_size[0], 1), (self.stride[0], 1), self.size))


class Maximum:
    """The largest of several arrays of ``shape``, elementwise; its gradient goes to the first of those that are equal and largest."""

    def __init__(self, shape: Shape, overlapping: bool, dtype: DTypeLike) -> None:
        self._overlapping = overlapping
        self._is_largest = image_buffer(shape, np.bool_)
        self._remaining, self._share = image_buffer(shape, dtype), image_buffer(shape, dtype)

    def forward(self, values: list[Array], out: Array) -> None:
        """Write the largest of ``values`` to ``out``."""
        np.copyto(out, values[0]) if len(values) == 1 else np.maximum(values[0], values[1], out=out)
        for each in values[2:]:
            np.maximum(out, each, out=out)

    def backward(self, values: list[Array], largest: Array, grad_output: Array, grads: list[Array]) -> None:
        """Write each value's gradient to ``grads``; add it where they overlap.

        What was given out is subtracted from what is left to give: so the first of several equals takes it all, and what is left for the
        last value is its own.
        """
        remaining = grad_output
        for each, grad in zip(values[:-1], grads, strict=False):
            np.equal(each, largest, out=self._is_largest)
            np.multiply(remaining, self._is_largest, out=self._share)
            remaining = np.subtract(remaining, self._share, out=self._remaining)
            self._give(self._share, grad)
        self._give(remaining, grads[-1])

    def _give(self, share: Array, grad: Array) -> None:
        if self._overlapping:
            grad += share
        else:
            np.copyto(grad, share)


class AvgPool2d(Pool2d):
    """The mean of each window: (C, H, W, N) to (C, oh, ow, N)."""

    kind = "avgpool"

    def forward(self, x: Array) -> Array:
        first, *others = self._offsets(x)
        np.copyto(self._output, first)
        for values in others:
            self._output += values
        self._output *= self._fraction
        return self._output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        if not input_gradient:
            return None
        # The output has served: its buffer takes each window's share.
        share = np.multiply(grad_output, self._fraction, out=self._output)
        if self.overlapping:
            self._grad_input.fill(0)
        for grads in self._offsets(self._grad_input):
            if self.overlapping:
                grads += share
            else:
                np.copyto(grads, share)
        return self._grad_input

    @property
    def _fraction(self) -> float:
        return 1.0 / (self.kernel_size[0] * self.kernel_size[1])
