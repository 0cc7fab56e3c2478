"""Max pooling and average pooling over windows of any size and stride, overlapping or with gaps.

``distcnn.nn.reference`` has formulas and gradients (Scherer, Mueller and Behnke, "Evaluation of
pooling operations in convolutional architectures", 2010).
"""

from distcnn.errors import explained
from distcnn.nn.layer import Layer, Pair, Shape, as_pair, image_shape, output_size, shown


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
    """The largest value of each window.

    Ties: the first in row-major order takes the gradient, as in PyTorch. Giving it to all of them
    would multiply it: on MNIST, whose constant background convolves to equal values, that cost 20
    points of accuracy in the first epoch. (Winograd convolutions give equal values other last bits,
    so it may be another one there, the same on any number of ranks.)
    """


class AvgPool2d(Pool2d):
    """The mean of each window."""
