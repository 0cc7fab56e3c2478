"""2-D convolution: ``distcnn.nn.reference`` has its formula and gradients."""

from distcnn.errors import explained
from distcnn.nn.layer import (
    Initialiser,
    Layer,
    Pair,
    Parameter,
    Shape,
    as_count,
    as_pair,
    image_shape,
    output_size,
)
from distcnn.nn.parameters import as_initialiser, he_normal, zeros


class Conv2d(Layer):
    """``out_channels`` filters over images: (C, H, W, N) to (out_channels, oh, ow, N). Strictly a
    cross-correlation, as everywhere in deep learning.

    The number of input channels is the input's, so it is not given (PyTorch's ``Conv2d(1, 8, 3)``
    is ``Conv2d(8, 3)``). Parameters: ``weight`` (out_channels, C, kh, kw), ``bias``
    (out_channels,).

    Args:
        out_channels: number of filters.
        kernel_size: of the filters, in pixels: an integer or a pair (vertical, horizontal).
        stride: pixels from one window to the next: an integer or a pair.
        padding: rows and columns of zeros added on each side: an integer or a pair.
        weight_initialiser: draws the first weights.
        bias_initialiser: draws the first biases.

    Raises:
        ArgumentError: for other arguments.
        ValueError: for sizes below 1, and for images smaller than the kernel.
    """

    @explained(
        "write Conv2d(out_channels, kernel_size), and stride=..., padding=... by name: the number"
        " of input channels is the input's (PyTorch's Conv2d(1, 8, 3) is Conv2d(8, 3) here)"
    )
    def __init__(
        self,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        weight_initialiser: Initialiser = he_normal,
        bias_initialiser: Initialiser = zeros,
    ) -> None:
        self.out_channels = as_count("out_channels", out_channels)
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_pair("stride", stride, 1)
        self.padding = as_pair("padding", padding, 0)
        self.weight_initialiser = as_initialiser("weight_initialiser", weight_initialiser)
        self.bias_initialiser = as_initialiser("bias_initialiser", bias_initialiser)

    def output_shape(self, input_shape: Shape) -> Shape:
        _, height, width = image_shape(self, input_shape)
        size = output_size((height, width), self.kernel_size, self.stride, self.padding)
        return self.out_channels, *size

    def parameters(self, input_shape: Shape) -> tuple[Parameter, ...]:
        in_channels, (kh, kw) = input_shape[0], self.kernel_size
        fans = in_channels * kh * kw, self.out_channels * kh * kw
        shape = self.out_channels, in_channels, kh, kw
        return (
            Parameter("weight", shape, self.weight_initialiser, *fans),
            Parameter("bias", (self.out_channels,), self.bias_initialiser, *fans),
        )
