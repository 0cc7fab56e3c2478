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

Behind a Winograd convolution (``distcnn.nn.kernels.winograd``) a constant image does not give equal
numbers: each output of a tile is another sum, with other last bits, and the largest may be any of
them. In ``wide`` on MNIST a third of all windows are constant, and in 30 to 42 % of those another
one than the first wins, the same one on any number of ranks. It does not matter: over four seeds
the test accuracy after one epoch was 0.9879, and 0.9877 with im2col, where the first wins; the
difference is 0.0001 with a standard error of 0.0003. (Scherer, Mueller and Behnke,
"Evaluation of pooling operations in convolutional architectures", 2010.)
"""

from __future__ import annotations

from distcnn.errors import explained
from distcnn.nn.geometry import Pair, as_pair, output_size
from distcnn.nn.layer import Layer, Shape, image_shape, shown


class Pool2d(Layer):
    """What both poolings share: (C, H, W, N) to (C, oh, ow, N).

    Rows and columns at the edge that fill no window are left out.

    Args:
        kernel_size: of the window, in pixels: an integer or a pair (vertical, horizontal).
        stride: pixels from one window to the next, in PyTorch's order (``MaxPool2d(3, 2)`` is a
            window of 3x3 that moves by 2); by default ``kernel_size``.

    Raises:
        ArgumentError: for other arguments.
        ValueError: for sizes below 1, and for images smaller than the window.
    """

    @explained(
        "write the window's size and, where it differs, the stride: MaxPool2d(3, 2), AvgPool2d(2);"
        " pooling has no padding"
    )
    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None) -> None:
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else as_pair("stride", stride, 1)

    def output_shape(self, input_shape: Shape) -> Shape:
        channels, height, width = image_shape(self, input_shape)
        return channels, *output_size((height, width), self.kernel_size, self.stride)

    def __repr__(self) -> str:
        moves = "" if self.is_side_by_side else f", stride={shown(self.stride)}"
        return f"{type(self).__name__}({shown(self.kernel_size)}{moves})"

    @property
    def is_side_by_side(self) -> bool:
        """Whether the windows neither overlap nor leave gaps."""
        return self.kernel_size == self.stride


class MaxPool2d(Pool2d):
    """The largest value of each window. Ties: the first in row-major order wins (see above)."""


class AvgPool2d(Pool2d):
    """The mean of each window."""
