"""2-D convolution (as everywhere in deep learning: a cross-correlation, the kernel is not turned).

Forward. With ``P`` the zero-padded input,

    y[o, r, s] = b[o] + sum over c, i, j of  w[o, c, i, j] * P[c, r*stride_h + i, s*stride_w + j]

so with the patches as the columns of a matrix X, of K = C*kh*kw rows and oh*ow*N columns, ``Y = W X + b`` (im2col; Chellapilla,
Puri and Simard, "High performance convolutional neural networks for document processing", 2006).

Backward. Let G = dL/dY. Each w[o, k] meets X[k, q] in exactly the outputs Y[o, q], and each X[k, q] meets all w[o, k], hence

    dL/dW = G X^T        dL/db[o] = sum over q of G[o, q]        dL/dX = W^T G

and since a pixel of P stands in X once for each window that covers it, its gradient is the sum of those entries (col2im):
``dP[c, r*stride_h + i, s*stride_w + j] += dX[(c, i, j), (r, s)]``. For stride 1 this sum is the "full" convolution of G with
the kernel turned by 180 degrees; for larger strides it is the same after spreading G out with zeros, which is never built here.
The gradient of the input is dP without its border. (LeCun et al. 1998; Dumoulin and Visin, "A guide to convolution arithmetic", 2016.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from distcnn.nn.initialisers import he_normal, zeros
from distcnn.nn.layer import Array, Initialiser, Layer, Parameter, Shape, buffer, image_shape
from distcnn.nn.windows import Pair, as_pair, is_count, output_size, window_offsets, windows_view


class Conv2d(Layer):
    """``out_channels`` filters over images (C, H, W, N), giving (out_channels, oh, ow, N).

    ``kernel_size``, ``stride`` and ``padding`` (zeros on each side) are integers or pairs (vertical, horizontal). The number of
    input channels is the input's. Parameters: ``weight`` (out_channels, C, kh, kw), ``bias`` (out_channels,).
    ``ValueError`` for sizes below 1, and when planned for an input smaller than the kernel.
    """

    kind = "conv"

    def __init__(
        self,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        weight_initialiser: Initialiser = he_normal,
        bias_initialiser: Initialiser = zeros,
    ) -> None:
        if not is_count(out_channels, 1):
            raise ValueError(f"out_channels (={out_channels!r}) must be an integer of at least 1")
        self.out_channels = out_channels
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_pair("stride", stride, 1)
        self.padding = as_pair("padding", padding, 0)
        self.weight_initialiser = weight_initialiser
        self.bias_initialiser = bias_initialiser

    def plan(self, input_shape: Shape, microbatch_size: int, dtype: DTypeLike) -> Shape:
        channels, height, width = image_shape(self, input_shape)
        self.in_channels = channels
        self.size = output_size((height, width), self.kernel_size, self.stride, self.padding)
        positions = self.size[0] * self.size[1] * microbatch_size
        (ph, pw), (kh, kw) = self.padding, self.kernel_size

        padded_shape = (channels, height + 2 * ph, width + 2 * pw, microbatch_size)
        self._interior = (slice(None), slice(ph, ph + height), slice(pw, pw + width))
        self._padded = buffer(padded_shape, dtype) if ph or pw else None
        self._grad_padded = buffer(padded_shape, dtype)
        self._patches = buffer((channels, kh, kw, *self.size, microbatch_size), dtype)
        self._columns = self._patches.reshape(channels * kh * kw, positions)
        self._output = buffer((self.out_channels, *self.size, microbatch_size), dtype)
        self._output_matrix = self._output.reshape(self.out_channels, positions)
        self._grad_weight_transposed = buffer((channels * kh * kw, self.out_channels), dtype)
        self._ones = buffer((positions,), dtype)
        self._ones.fill(1)
        return self.out_channels, *self.size

    def parameters(self) -> tuple[Parameter, ...]:
        kh, kw = self.kernel_size
        fan_in, fan_out = self.in_channels * kh * kw, self.out_channels * kh * kw
        shape = (self.out_channels, self.in_channels, kh, kw)
        return (
            Parameter("weight", shape, self.weight_initialiser, fan_in, fan_out),
            Parameter("bias", (self.out_channels,), self.bias_initialiser, fan_in, fan_out),
        )

    def bind(self, values: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        self._weight = values["weight"].reshape(self.out_channels, -1)
        self._bias = values["bias"][:, np.newaxis]
        self._grad_weight = grads["weight"].reshape(self.out_channels, -1)
        self._grad_bias = grads["bias"]

    def forward(self, x: Array) -> Array:
        if self._padded is not None:
            self._padded[self._interior] = x
            x = self._padded
        np.copyto(self._patches, windows_view(x, self.kernel_size, self.stride, self.size))
        np.matmul(self._weight, self._columns, out=self._output_matrix)
        self._output_matrix += self._bias
        return self._output

    def backward(self, grad_output: Array, input_gradient: bool = True) -> Array | None:
        grad_matrix = grad_output.reshape(self._output_matrix.shape)
        # G X^T as the transpose of X G^T: with the long side K as rows, BLAS takes about 0.7 of the time.
        np.matmul(self._columns, grad_matrix.T, out=self._grad_weight_transposed)
        np.copyto(self._grad_weight, self._grad_weight_transposed.T)
        np.matmul(grad_matrix, self._ones, out=self._grad_bias)
        if not input_gradient:
            return None
        # The patches have served: their buffer takes the patches' gradient.
        np.matmul(self._weight.T, grad_matrix, out=self._columns)
        return self._scatter_patches()[self._interior]

    def _scatter_patches(self) -> Array:
        """col2im: each pixel's gradient is the sum over the windows that cover it."""
        kernel_width = self.kernel_size[1]
        self._grad_padded.fill(0)
        offsets = window_offsets(self._grad_padded, self.kernel_size, self.stride, self.size)
        for index, covered in enumerate(offsets):
            covered += self._patches[:, index // kernel_width, index % kernel_width]
        return self._grad_padded
