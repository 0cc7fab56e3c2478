"""Max pooling and average pooling as they are computed."""

from collections.abc import Sequence

import numpy as np

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Array, Call, Shape
from distcnn.nn.pooling import MaxPool2d, Pool2d


class PoolKernel:
    """What both poolings share: the output's buffer, and windows as views."""

    def __init__(self, pool: Pool2d, shape: Shape, buffers: Buffers) -> None:
        channels, oh, ow = pool.output_shape(shape[:3])
        rows, columns = (
            [slice(i, i + stride * (count - 1) + 1, stride) for i in range(size)]
            for size, stride, count in zip(pool.kernel_size, pool.stride, (oh, ow), strict=True)
        )
        self._offsets = [(slice(None), i, j) for i in rows for j in columns]
        self._overlapping = any(s < k for s, k in zip(pool.stride, pool.kernel_size, strict=True))
        self._output = buffers.images((channels, oh, ow, shape[3]))
        self._grad_input = buffers.images(shape)

    def _pixels(self, x: Array) -> list[Array]:
        """The pixels of all windows at each offset inside, as views (C, oh, ow, N)."""
        return [x[offset] for offset in self._offsets]


class MaxPoolKernel(PoolKernel):
    """The largest of each window."""

    def __init__(self, pool: MaxPool2d, shape: Shape, buffers: Buffers) -> None:
        super().__init__(pool, shape, buffers)
        self._max = WindowMax(self._output, len(self._offsets), buffers)

    def forward(self, x: Array, call: Call) -> Array:
        self._max.find_largest(self._pixels(x))
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array:
        if self._overlapping:
            self._grad_input.fill(0)
        pixels = self._pixels(self._grad_input)
        self._max.give_to_winners(grad_output, pixels, self._overlapping)
        return self._grad_input


class AvgPoolKernel(PoolKernel):
    """The mean of each window."""

    def forward(self, x: Array, call: Call) -> Array:
        first, *others = self._pixels(x)
        np.copyto(self._output, first)
        for values in others:
            self._output += values
        self._output *= 1.0 / len(self._offsets)
        return self._output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array:
        # The output is not needed any more: its buffer takes each window's share.
        share = np.multiply(grad_output, 1.0 / len(self._offsets), out=self._output)
        if self._overlapping:
            self._grad_input.fill(0)
        for grads in self._pixels(self._grad_input):
            if self._overlapping:
                grads += share
            else:
                np.copyto(grads, share)
        return self._grad_input


class WindowMax:
    """The largest pixel of each window and which one it is, for as many windows as ``largest`` has
    elements, of ``count`` pixels each. ``find_largest``, then ``give_to_winners``.

    Pixels come as arrays of the shape of ``largest``, one for each offset inside the window, in
    row-major order. With ``rectify`` a 0 comes before them all: where no pixel is larger, it is the
    largest, and no pixel takes the gradient. That is a ReLU after the pooling (``fusion.py``).
    """

    def __init__(self, largest: Array, count: int, buffers: Buffers, rectify: bool = False) -> None:
        self.largest, self._rectify, self._buffers = largest, rectify, buffers
        comparisons = count if rectify else count - 1
        self._is_larger = [buffers.like(largest, np.bool_) for _ in range(comparisons)]
        self._remaining = buffers.scratch("remaining", largest)
        self._zeros = buffers.scratch("zeros", largest)

    def find_largest(self, pixels: Sequence[Array]) -> None:
        """Write ``largest``; note which pixel was larger than all before it."""
        first, *others = [self._zeros, *pixels] if self._rectify else pixels
        largest = first
        for values, is_larger in zip(others, self._is_larger, strict=True):
            np.greater(values, largest, out=is_larger)
            largest = np.maximum(values, largest, out=self.largest)
        if largest is first:
            np.copyto(self.largest, first)

    def give_to_winners(self, remaining: Array, pixels: Sequence[Array], add: bool = False) -> None:
        """Write to (or ``add`` to) each of ``pixels`` its share of the gradient ``remaining``.

        The winner is the last pixel that was larger than all before it. Going from the last to the
        first, it takes the whole gradient, which is then subtracted from what remains.
        """
        first, *others = pixels
        for grads, is_larger in zip(reversed(others), reversed(self._is_larger), strict=False):
            out = self._buffers.scratch("share", grads) if add else grads
            share = np.multiply(remaining, is_larger, out=out)
            remaining = np.subtract(remaining, share, out=self._remaining)
            if add:
                grads += share
        if self._rectify:
            np.multiply(remaining, self._is_larger[0], out=first)
        elif add:
            first += remaining
        else:
            np.copyto(first, remaining)
