"""Cache blocking for convolution: it goes through its images in pieces that stay in the caches.

A **strip** is some columns of some images of the microbatch; strips come one after another, those
of the same images from left to right. Within a strip, **blocks** of rows come from top to bottom. A
**piece** is one block of one strip. All sizes follow from shapes alone, so they are the same on all
ranks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from numpy.lib.stride_tricks import as_strided

from distcnn.nn.kernels.algorithms import Geometry, Tiling
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Array

BLOCK_BYTES = 768 * 1024
"""A block of rows takes about this, in and out: less than a core's own cache, often 1 MiB."""
FEWEST_IMAGES = 32
"""The fewest numbers in a run of a strip: shorter runs are slow to copy."""
FEWEST_COLUMNS = 96
"""The fewest columns (tiles times images) of a strip: narrower products are slow."""


@dataclass(frozen=True, eq=False)
class Piece:
    """One block of one strip, with what it takes of V (``distcnn.nn.kernels.algorithms``)."""

    input_columns: slice  # of the padded input
    output_columns: slice
    images: slice
    output_rows: slice
    fresh: slice  # rows of the input that no earlier block needs
    complete: slice  # rows of the input that no later block needs
    fresh_rows: Array  # V of the fresh rows, (P, rows, C*J, T*N)
    windows: Array  # V of all rows that its outputs need, (P, rows, kh*C*J, T*N), a view

    @property
    def height(self) -> int:
        return _length(self.output_rows)

    @property
    def output_index(self) -> tuple[slice, slice, slice, slice]:
        """Where the piece is in the output (O, oh, ow, N)."""
        return slice(None), self.output_rows, self.output_columns, self.images


class Blocking:
    """How a convolution is cut: into strips of ``tiles`` tiles of ``images`` images, and those into
    ``blocks`` of about ``BLOCK_BYTES``, which hold whole windows of the pooling that follows.
    """

    def __init__(
        self, geometry: Geometry, tiling: Tiling, window_height: int, itemsize: int
    ) -> None:
        self.geometry, self.tiling = geometry, tiling
        self.tiles, self.images = tiling.tiles, geometry.count
        # A column of one row of the output, and of the rows of the input that are new for it.
        input_numbers = geometry.stride[0] * geometry.channels * tiling.shifts
        column_bytes = tiling.points * (input_numbers + geometry.filters) * itemsize
        if tiling.tile_width > 1:  # else products are images already, and not cut into strips
            smallest = window_height * column_bytes * self.tiles * self.images
            self.tiles, self.images = strip_size(self.tiles, self.images, smallest, BLOCK_BYTES)
        self.columns = self.tiles * self.images  # T*N, of the matrices of a strip
        self.blocks = list(plan_blocks(geometry, column_bytes * self.columns, window_height))
        # Rows of the output, and of the input, in the largest block.
        self.most_outputs = max(_length(rows) for rows, *_ in self.blocks)
        self.most_inputs = max(_length(rows) for _, *inputs in self.blocks for rows in inputs)

    def pieces(self, width: int, buffers: Buffers) -> Iterator[Piece]:
        """All pieces in order, for inputs of ``width`` columns with their padding."""
        geometry, row_terms = self.geometry, self.geometry.channels * self.tiling.shifts  # C*J
        points, window_terms = self.tiling.points, geometry.kernel[0] * row_terms
        shape = points, geometry.padded_height, row_terms, self.columns
        windows_shape = points, geometry.output_size[0], window_terms, self.columns
        for strip in self._strips(width):
            rows = buffers.zeros(shape)
            # The rows of a window are contiguous, so all windows are a view.
            point_stride, row_stride, *others = rows.strides
            strides = point_stride, geometry.stride[0] * row_stride, *others
            windows = as_strided(rows, windows_shape, strides)
            for block in self.blocks:
                output_rows, fresh, _ = block
                yield Piece(*strip, *block, rows[:, fresh], windows[:, output_rows])

    def _strips(self, width: int) -> Iterator[tuple[slice, slice, slice]]:
        """Columns of the input, those of the output, and images."""
        geometry, columns = self.geometry, self.tiles * self.tiling.tile_width
        output_width, stride = geometry.output_size[1], geometry.stride[1]
        shared = max(geometry.kernel[1] - stride, 0)  # by neighbouring strips
        for first_image in range(0, geometry.count, self.images):
            images = slice(first_image, first_image + self.images)
            for first in range(0, output_width, columns):
                end = min(first + columns, output_width)
                stop = width if end == output_width else end * stride + shared
                yield slice(first * stride, stop), slice(first, end), images


def _length(rows: slice) -> int:
    return int(rows.stop - rows.start)


def strip_size(tiles: int, count: int, block_bytes: int, most_bytes: int) -> tuple[int, int]:
    """How many of ``tiles`` of how many of ``count`` images make a strip: the smallest possible
    block of them all takes ``block_bytes``, and is cut until it takes about ``most_bytes``. The
    width is cut first, because that leaves the long runs of numbers, one for each image, whole.
    """
    divisors = [
        number
        for number in range(1, tiles + 1)
        if tiles % number == 0 and (number == 1 or tiles // number * count >= FEWEST_COLUMNS)
    ]
    enough = (number for number in divisors if block_bytes <= most_bytes * number)
    strips = next(enough, divisors[-1])
    tiles, block_bytes = tiles // strips, block_bytes // strips
    while block_bytes > most_bytes and count % 2 == 0 and count > FEWEST_IMAGES:
        count, block_bytes = count // 2, block_bytes // 2
    return tiles, count


def plan_blocks(
    geometry: Geometry, row_bytes: int, multiple: int
) -> Iterator[tuple[slice, slice, slice]]:
    """Blocks of a ``multiple`` of rows of the output, each of which takes ``row_bytes`` with the
    input that it is made of: these rows, and those of the input that are fresh and complete.
    """
    kernel_height, stride, oh = geometry.kernel[0], geometry.stride[0], geometry.output_size[0]
    rows = -(-oh // max(1, -(-oh * row_bytes // BLOCK_BYTES)))
    rows = -(-rows // multiple) * multiple
    needed = complete = 0
    for start in range(0, oh, rows):
        stop = min(start + rows, oh)
        fresh = slice(needed, (stop - 1) * stride + kernel_height)
        done = slice(complete, geometry.padded_height if stop == oh else stop * stride)
        yield slice(start, stop), fresh, done
        needed, complete = fresh.stop, stop * stride
