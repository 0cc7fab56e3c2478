"""Which algorithm a convolution uses along the width, and the steps that all of them have.

A convolution of kernel width r takes from each row d of an input ``y[s] = sum over j of w[j] *
d[s*stride + j]``. There are two ways:

* **im2col** (``im2col.py``): the row is unfolded into its r shifted copies, and the sum over j
  becomes part of the matrix product: r multiplications for each output.
* **Winograd** (``winograd.py``; stride 1; Winograd 1980; Lavin and Gray, "Fast algorithms for
  convolutional neural networks", 2016): the row is cut into overlapping tiles of P = m + r - 1
  pixels that give m outputs each, ``y = A^T ((G w) * (B^T d))``, elementwise in the brackets: P
  multiplications for m outputs instead of m*r, 8 instead of 20 for F(4, 5). Summed over channels
  and kernel rows, each of the P points is a matrix product of its own. A, B and G are small
  constant matrices, so each transform is linear and its gradient goes back through its transpose:
  ``dM = A dy``, ``dU = dM (B^T d)^T``, ``dw = G^T dU``, ``dd = B (U^T dM)``.

Shapes, all with P points, J columns of the kernel within a product (1 for Winograd), T tiles of m
outputs: rows V (P, H, C*J, T*N), weights U (P, O, kh, C, J), products M (P, oh, O, T*N).

A tiled piece of the output (or of its gradient) is ``[k, o, r, t, n]``: output k of tile t, which
is column t*m + k of the image. A pooling of width m (or a divisor of it) then compares whole
arrays, long runs of numbers. So where one follows, im2col has tiles too, of as many outputs as the
window is wide, which are its points; else its tiles are single outputs, and it has one point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from distcnn.nn.geometry import Geometry
from distcnn.nn.layer import Array

if TYPE_CHECKING:
    from distcnn.nn.kernels.blocking import Piece

MOST_POINTS = 8
"""More points multiply less, but their matrices hold larger numbers, which round worse."""
LEAST_DEPTH = 24
"""Channels times kernel rows below which a point's matrix product is too thin to gain anything."""
LEAST_FILTERS = 16


@dataclass(frozen=True)
class Tiling:
    """An algorithm's sizes along the width.

    ``tile_width`` is m, the outputs of a tile; ``stride`` the kernel's.
    """

    is_winograd: bool
    tile_width: int
    kernel_width: int
    stride: int

    @property
    def points(self) -> int:
        """P."""
        return self.tile_width + self.kernel_width - 1 if self.is_winograd else self.tile_width

    @property
    def depth(self) -> int:
        """J."""
        return 1 if self.is_winograd else self.kernel_width

    @property
    def is_untiled(self) -> bool:
        """Whether a tile is a single output, so that products are images already."""
        return not self.is_winograd and self.tile_width == 1

    def tiles(self, output_width: int) -> int:
        """T: how many cover ``output_width`` columns."""
        return -(-output_width // self.tile_width)

    def input_width(self, output_width: int) -> int:
        """How many columns of the input the tiles of ``output_width`` columns read."""
        last = self.tiles(output_width) * self.tile_width - 1
        return last * self.stride + self.kernel_width


class Algorithm(Protocol):
    """An algorithm with its buffers, for the pieces of one ``Blocking``. ``ConvKernel`` calls it.

    Forward: ``transform_weights``; then for each piece ``transform_input``, the convolution's
    matrix product into ``products``, and ``transform_products``, which leaves the output in
    ``tiled`` until the next piece. Backward, for each piece in the same order: the ``Epilogue``
    writes its gradient to ``tiled``; then ``transform_gradient``, the convolution's products of
    ``grad_products`` with weights and rows, and ``transform_input_gradient``; last
    ``transform_weight_gradient``.
    """

    def transform_weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        """Write U for ``weight`` (O, C, kh, kw), and keep ``bias`` (O, 1)."""

    def transform_input(self, x: Array, piece: Piece) -> None:
        """Write ``piece.fresh_rows``, of V, for the (padded) images ``x``."""

    def products(self, piece: Piece) -> Array:
        """Where the piece's product, rows of M, is to be written."""

    def transform_products(self, piece: Piece) -> None:
        """Write the output, ``tiled``, for the piece's product, and add the bias."""

    def tiled(self, piece: Piece) -> Array:
        """The piece's output, or its gradient, as [k, o, r, t, n]."""

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        """The piece's rows of dM for the gradient in ``tiled``; with ``keep`` in ``grad_products``
        too.

        And matrices (..., O, T*N) whose sum over all other axes is the bias's gradient.
        """

    @property
    def grad_products(self) -> Array:
        """dM (P, oh, O, T*N), as far as it has been kept."""

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, held: int) -> None:
        """Write rows of the input's gradient, ``grad_x`` (C, H, width, N), for those of dV; add to
        its first ``held`` columns.
        """

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        """Write ``grad_weight`` (O, C, kh, kw) for dU, here (P, kh, C, J, O)."""


def choose_tiling(geometry: Geometry, window_width: int = 1) -> Tiling:
    """The tiling of the algorithm with the fewest multiplications that is worth its transforms. A
    pure function of shapes, so the same on all ranks.

    ``window_width`` is that of the pooling that follows; it divides the output's width.
    """
    (kernel_height, kernel_width), stride = geometry.kernel, geometry.stride[1]
    output_width = geometry.output_size[1]
    costs = {1: output_width * kernel_width}
    thick = geometry.channels * kernel_height >= LEAST_DEPTH and geometry.filters >= LEAST_FILTERS
    if thick and stride == 1 and kernel_width > 1:
        costs |= {
            m: (m + kernel_width - 1) * -(-output_width // m)
            for m in range(2, MOST_POINTS - kernel_width + 2)
        }
    cheapest = min(costs, key=lambda m: (costs[m], m))
    is_winograd = cheapest > 1
    return Tiling(is_winograd, cheapest if is_winograd else window_width, kernel_width, stride)
