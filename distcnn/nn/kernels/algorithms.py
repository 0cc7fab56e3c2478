"""Filtering along the width: what a convolution does to the rows of its images before and after its
matrix products.

A convolution of kernel width r takes from each row d of an input ``y[s] = sum over j of w[j] *
d[s*stride + j]``. Two makes:

* **Direct**: the row is unfolded into its r shifted copies, and the sum over j becomes part of the
  matrix product: r multiplications for each output.
* **Minimal** (stride 1; Winograd 1980; Lavin and Gray, "Fast algorithms for convolutional neural
  networks", 2016): the row is cut into overlapping tiles of P = m + r - 1 pixels that give m
  outputs each, ``y = A^T ((G w) * (B^T d))``, elementwise in the brackets: P multiplications for m
  outputs instead of m*r, 8 instead of 20 for F(4, 5). Summed over channels and kernel rows, each of
  the P points is a matrix product of its own. A, B and G are small constant matrices, so each way
  is linear and its gradient goes back through their transposes: ``dM = A dy``, ``dU = dM (B^T
  d)^T``, ``dw = G^T dU``, ``dd = B (U^T dM)``.

Shapes, all with P points, J columns of the kernel within a product (1 if minimal), T tiles of m
outputs: rows V (P, H, C, J, T*N), weights U (P, O, kh, C, J), products M (P, oh, O, T*N). What goes
through is a block of rows at a time, so that it stays in the nearest caches.

**Tiled**, a block of the output (or of its gradient) is ``[k, o, r, t, n]``: output k of tile t,
which is column t*m + k of the image. A pooling of width m (or a divisor of it) compares whole
arrays of them, long runs of numbers; so where one follows, direct filtering has tiles too, of as
many outputs as the window is wide, which are its points; else its tiles are single outputs, and it
has one point.
"""

from __future__ import annotations

from typing import Protocol

from distcnn.nn.geometry import Geometry
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.blocking import Part
from distcnn.nn.kernels.im2col import DirectFiltering
from distcnn.nn.kernels.winograd import MinimalFiltering
from distcnn.nn.layer import Array

MOST_POINTS = 8
"""More points multiply less, but their matrices hold larger numbers, which round worse."""
LEAST_DEPTH = 24
"""Channels times kernel rows below which a point's matrix product is too thin to gain anything."""
LEAST_FILTERS = 16


class Filtering(Protocol):
    """One make, planned for one geometry.

    Blocks of rows are slices of the ``oh`` rows of the output, or of the H rows of the input.
    """

    points: int
    depth: int
    outputs: int
    """Of a tile: m."""
    tiles: int
    columns: int
    small_products: bool
    """Whether its matrix products are so small that BLAS spends much of its time on turning
    operands.
    """
    width: int
    """How wide the (padded) input must be: of one strip."""
    grad_products: Array
    """dM, whole, as far as ``product_gradient`` has kept it."""

    def strip(self, tiles: int, count: int) -> Filtering:
        """The same make for so many tiles of so many images."""

    @property
    def images(self) -> Array | None:
        """The output (O, oh, ow, N) where ``output`` writes it there, all of it; else None."""

    def plan_blocks(self, most_inputs: int, most_outputs: int) -> None:
        """Allocate for blocks of so many rows of the input and of the output."""

    def rows_of_input(self, x: Array, block: slice, part: Part, rows: Array) -> None:
        """Write a block of V, ``rows``, for that of a part of ``x`` (C, H, all, all)."""

    def input_gradient(self, rows: Array, grad_x: Array, held: int) -> None:
        """Write a block of ``grad_x`` (C, H, width or more, N) for that of dV; its first ``held``
        columns hold what must be added to.
        """

    def weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        """Write U for ``weight`` (O, C, kh, kw), and keep ``bias`` (O, 1) for ``output``."""

    def weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        """Write ``grad_weight`` (O, C, kh, kw) for dU, here (P, kh, C, J, O)."""

    def tiled(self, block: slice) -> Array:
        """Where a block of the output lies tiled, and of its gradient on the way back: until the
        next block, and there it may lie too.
        """

    def products(self, block: slice) -> Array:
        """Where to write the block of M that ``output`` takes."""

    def output(self, block: slice) -> None:
        """Write the block ``tiled`` for that of M, and the bias."""

    def to_images(self, block: slice, images: Array) -> None:
        """Write the block of the output, ``images``, for that ``tiled``."""

    def begin_backward(self, grad_output: Array | None) -> None:
        """``grad_output`` (O, oh, ow, all) is the gradient, for ``from_images``; None where others
        write it ``tiled``.
        """

    def from_images(self, block: slice, part: Part) -> None:
        """Write the block of the gradient ``tiled``, for a part of the images."""

    def product_gradient(self, block: slice, keep: bool) -> tuple[Array, Array]:
        """The block of dM for that of the gradient, ``tiled``; ``keep`` it in ``grad_products``.

        And matrices (..., O, T*N) whose sum over all other axes is the bias's gradient.
        """


def plan_filtering(geometry: Geometry, buffers: Buffers, pooled: int = 1) -> Filtering:
    """The make with the fewest multiplications, where that pays. A pure function of shapes, so the
    same on all ranks.

    ``pooled`` divides the output's width: how wide the windows of the pooling are that takes it.
    """
    kernel_height, kernel_width = geometry.kernel
    output_width = geometry.size[1]
    costs = {1: output_width * kernel_width}
    thick = geometry.channels * kernel_height >= LEAST_DEPTH and geometry.filters >= LEAST_FILTERS
    if thick and geometry.stride[1] == 1 and kernel_width > 1:
        costs |= {
            m: (m + kernel_width - 1) * -(-output_width // m)
            for m in range(2, MOST_POINTS - kernel_width + 2)
        }
    outputs = min(costs, key=lambda m: (costs[m], m))
    return (
        DirectFiltering(geometry, buffers, pooled)
        if outputs == 1
        else MinimalFiltering(outputs, geometry, buffers)
    )
