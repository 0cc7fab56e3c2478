"""Max pooling and average pooling over windows of any size and stride, overlapping or with gaps.

Derivation of the gradients. Let window q hold the inputs x[p], p in q, and let G = dL/dy.

* Average: ``y[q] = (1/n) * sum of x[p]`` with n = kh*kw, so dy[q]/dx[p] = 1/n inside the window and
  0 outside, and ``dL/dx[p] = sum over the windows q that cover p of G[q] / n``.
* Maximum: ``y[q] = max of x[p]``. Near a point where one input p* is the largest, y[q] = x[p*]
  exactly, so dy[q]/dx[p*] = 1 and all others are 0: ``dL/dx[p] = sum over the windows q that p wins
  of G[q]``.

Ties. Where several inputs of a window are equal and largest, the maximum has no derivative; any one
of them may be chosen (a subgradient). **The first in row-major order wins**, as in PyTorch, of the
numbers that reach the pooling. Giving the gradient to all of them instead multiplies it: on MNIST,
whose constant background convolves to equal values, that cost 20 points of accuracy in the first
epoch.

Behind minimal filtering (``distcnn.nn.kernels.algorithms``) a constant image does not give equal
numbers: each output of a tile is another sum, with other last bits, and the largest may be any of
them. In ``wide`` on MNIST a third of all windows are constant, and in 30 to 42 % of those another
one than the first wins, the same one on any number of ranks. It does not matter: over four seeds
the test accuracy after one epoch was 0.9879, and 0.9877 with direct filtering, where the first
wins; the difference is 0.0001 with a standard error of 0.0003 (``python -m benchmarks.ties
data/mnist.h5 60000 4``). (Scherer, Mueller and Behnke, "Evaluation of pooling operations in
convolutional architectures", 2010.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from distcnn.errors import explained
from distcnn.nn.geometry import Pair, as_pair, output_size, window_offsets
from distcnn.nn.kernels.blocking import Part
from distcnn.nn.kernels.tiles import copy_tiles
from distcnn.nn.layer import Array, Layer, Shape, buffer, buffer_like, image_buffer, image_shape


class Pool2d(Layer):
    """What both poolings share. ``stride`` is the window's size unless given; rows and columns that
    fill no window are left out.

    ``kernel_size`` and ``stride`` are integers or pairs (vertical, horizontal), in PyTorch's order:
    ``MaxPool2d(3, 2)`` is a window of 3x3 that moves by 2.
    """

    gives_away_gradient = True

    flattened = False
    """Set by the network before ``plan``: a Flatten follows, so the output lies in memory in its
    order.
    """

    @explained(
        "write the window's size and, where it differs, the stride: MaxPool2d(3, 2), AvgPool2d(2);"
        " pooling has no padding"
    )
    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else as_pair("stride", stride, 1)

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        channels, height, width = image_shape(self, input_shape)
        self.size = output_size((height, width), self.kernel_size, self.stride)
        self.overlapping = (
            self.stride[0] < self.kernel_size[0] or self.stride[1] < self.kernel_size[1]
        )
        self.output = (buffer if self.flattened else image_buffer)(
            (channels, *self.size, microbatch_size), dtype
        )
        self._make_grads = partial(image_buffer, (channels, height, width, microbatch_size), dtype)
        self._grad_input: Array | None = None
        return channels, *self.size

    def _grads(self) -> Array:
        """The input gradient's buffer, made when it is first needed: fused with a convolution, it
        never is.
        """
        if self._grad_input is None:
            self._grad_input = self._make_grads()
        return self._grad_input

    def _offsets(self, x: Array) -> list[Array]:
        return list(window_offsets(x, self.kernel_size, self.stride, self.size))


class MaxPool2d(Pool2d):
    """The largest value of each window: (C, H, W, N) to (C, oh, ow, N).

    Ties: the first in row-major order wins (see above).
    """

    kind, needs_output = "maxpool", False

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        output_shape = super().plan(input_shape, microbatch_size, dtype)
        cover = tuple(size * stride for size, stride in zip(self.size, self.stride, strict=True))
        # Backward asks which pixel was larger, not the pixels: where the windows cover all of the
        # input, its buffer takes its gradient.
        self._overwrites = (
            self.owns_input and self.kernel_size == self.stride and cover == tuple(input_shape[1:])
        )
        self._whole: WindowMax | None = None
        return output_shape

    def forward(self, x: Array) -> Array:
        if self._overwrites:
            self._grad_input = x
        self._whole_max().find_largest(self._offsets(x))
        return self.output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        if not input_gradient:
            return None
        grads = self._grads()
        if self.overlapping:
            grads.fill(0)
        self._whole_max().give_to_winners(grad_output, self._offsets(grads), self.overlapping)
        return grads

    def _whole_max(self) -> WindowMax:
        """Over the whole output, made when it is first needed."""
        if self._whole is None:
            self._whole = WindowMax(
                self.output, self.kernel_size[0] * self.kernel_size[1], Scratch()
            )
        return self._whole

    def plan_rows(self, blocks: Sequence[tuple[Array, slice, Part]], rectify: bool = False) -> None:
        """Make ready for ``forward_rows`` and ``backward_rows``, for windows without gaps or
        overlaps.

        For each block of the input, where it lies whenever it is pooled, tiled (k, C, rows, T, N),
        the rows of the output it gives, and of which part of the images. With ``rectify`` the
        output is that of a ReLU after the pooling.
        """
        scratch = Scratch()
        self._blocks = [
            TiledRows(tiled, (rows, *part), self.kernel_size, self.output, scratch, rectify)
            for tiled, rows, part in blocks
        ]

    def forward_rows(self, block: int) -> None:
        """Pool the block of that number: the input is where it was planned to be."""
        self._blocks[block].forward()

    def backward_rows(self, block: int, grad_output: Array) -> None:
        """Write the gradient of the block of that number in the place of its input, for
        ``grad_output``, that of the whole output.
        """
        self._blocks[block].backward(grad_output)


class Scratch:
    """Arrays that hold nothing from one block to the next: all blocks have the same ones, so that
    they stay in the caches.
    """

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, Shape], Array] = {}

    def like(self, array: Array, purpose: str) -> Array:
        """The array for ``purpose`` of the shape of ``array``."""
        key = purpose, array.shape
        if key not in self._arrays:
            self._arrays[key] = buffer_like(array)
        return self._arrays[key]


class WindowMax:
    """The largest pixel of each window and which one it is, for as many windows as ``largest`` has
    elements, and of how many pixels each.

    Pixels come as arrays of the shape of ``largest``, one for each offset inside the window, in
    row-major order. With ``rectify`` a 0 comes before them all: where no pixel is larger, it is the
    largest, and no pixel takes the gradient. That is a ReLU after the pooling.
    """

    def __init__(self, largest: Array, count: int, scratch: Scratch, rectify: bool = False) -> None:
        self.largest, self._rectify = largest, rectify
        self._is_larger = [
            buffer_like(largest, np.bool_) for _ in range(count if rectify else count - 1)
        ]
        self._scratch, self._remaining, self._zeros = (
            scratch,
            scratch.like(largest, "remaining"),
            scratch.like(largest, "zeros"),
        )

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
        """Write for (or ``add`` to) each of ``pixels`` its share of the gradient ``remaining``.

        The winner is the last one that was larger than all before it. From the last on, the first
        that was takes all there is, and what has been given out is subtracted from what is left to
        give.
        """
        first, *others = pixels
        for grads, is_larger in zip(
            reversed(others),
            reversed(self._is_larger[-len(others) :] if others else []),
            strict=True,
        ):
            share = np.multiply(
                remaining, is_larger, out=self._scratch.like(grads, "share") if add else grads
            )
            remaining = np.subtract(remaining, share, out=self._remaining)
            if add:
                grads += share
        if self._rectify:
            np.multiply(remaining, self._is_larger[0], out=first)
        elif add:
            first += remaining
        else:
            np.copyto(first, remaining)


class TiledRows:
    """Some rows and columns of the output, of some images: ``block``. Their pixels lie ``tiled``
    (m, C, rows, T, N): those of one offset in the window side by side.

    Windows of width w stand m/w in a tile, so the output is tiled too, (m/w, C, rows of windows, T,
    N): that is, it is as it should be where a tile holds one window.
    """

    def __init__(
        self,
        tiled: Array,
        block: tuple[slice, slice, slice],
        window: Pair,
        output: Array,
        scratch: Scratch,
        rectify: bool,
    ) -> None:
        height, width = window
        self._block = slice(None), *block
        self._output = output[self._block]
        windows = tiled.reshape(-1, width, *tiled.shape[1:])
        self._pixels = [windows[:, j, :, i::height] for i in range(height) for j in range(width)]
        self._is_tiled = len(windows) > 1
        largest = (
            scratch.like(self._pixels[0], "largest") if self._is_tiled else self._output[np.newaxis]
        )
        self._max = WindowMax(largest, height * width, scratch, rectify)
        self._grads = scratch.like(self._pixels[0], "grads")

    def forward(self) -> None:
        """From pixels to the output."""
        self._max.find_largest(self._pixels)
        if self._is_tiled:
            copy_tiles(self._output, self._max.largest, to_images=True)

    def backward(self, grad_output: Array) -> None:
        """Overwrite the pixels with their gradients, for that of the whole output."""
        grads = grad_output[self._block]
        if self._is_tiled:
            copy_tiles(grads, self._grads, to_images=False)
            self._max.give_to_winners(self._grads, self._pixels)
        else:
            self._max.give_to_winners(grads[np.newaxis], self._pixels)


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
        whole = self._grads()
        if self.overlapping:
            whole.fill(0)
        for grads in self._offsets(whole):
            if self.overlapping:
                grads += share
            else:
                np.copyto(grads, share)
        return whole

    @property
    def _fraction(self) -> float:
        return 1.0 / (self.kernel_size[0] * self.kernel_size[1])
