"""Which algorithm a convolution uses along the width.

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

Shapes, all with P points, J shifts (columns of the kernel within a product; 1 for Winograd), T
tiles of m outputs: rows V (P, H, C*J, T*N), weights U (P, O, kh, C, J), products M (P, oh, O, T*N).

A tiled piece of the output (or of its gradient) is ``[k, o, r, t, n]``: output k of tile t, which
is column t*m + k of the image. A pooling of width m (or a divisor of it) then compares whole
arrays, long runs of numbers. So if a max pooling follows, im2col uses tiles as wide as its window,
with one point per output; otherwise its tiles are single outputs, with one point.

``steps.py`` lists the steps that all algorithms have.
"""

from dataclasses import dataclass

from distcnn.nn.layer import Pair

MOST_POINTS = 8
"""More points multiply less, but their matrices hold larger numbers, which round worse."""
FEWEST_TERMS = 24
"""With fewer terms in a sum (channels times kernel rows), or fewer filters than the next constant,
the matrix product of a point is too thin for Winograd to gain anything."""
FEWEST_FILTERS = 16


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution."""

    channels: int
    padded_height: int  # of the input
    filters: int
    kernel: Pair
    stride: Pair
    output_size: Pair
    count: int  # examples


@dataclass(frozen=True)
class Tiling:
    """An algorithm's sizes along the width."""

    is_winograd: bool
    tile_width: int  # m
    points: int  # P
    shifts: int  # J
    tiles: int  # T, which cover the output
    input_width: int  # columns of the input that they read


def choose_tiling(geometry: Geometry, window_width: int = 1) -> Tiling:
    """The tiling with the fewest multiplications that is worth its transforms. ``window_width`` is
    that of the pooling that follows; it divides the output's width.
    """
    (kernel_height, kernel_width), stride = geometry.kernel, geometry.stride[1]
    output_width = geometry.output_size[1]
    costs = {1: output_width * kernel_width}
    thick = geometry.channels * kernel_height >= FEWEST_TERMS and geometry.filters >= FEWEST_FILTERS
    if thick and stride == 1 and kernel_width > 1:
        costs |= {
            m: (m + kernel_width - 1) * -(-output_width // m)
            for m in range(2, MOST_POINTS - kernel_width + 2)
        }
    width = min(costs, key=lambda m: (costs[m], m))
    is_winograd = width > 1
    if is_winograd:
        points, shifts = width + kernel_width - 1, 1
    else:
        width = points = window_width
        shifts = kernel_width
    tiles = -(-output_width // width)
    input_width = (tiles * width - 1) * stride + kernel_width
    return Tiling(is_winograd, width, points, shifts, tiles, input_width)
