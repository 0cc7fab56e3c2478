"""Cache blocking for convolution: the pieces in which it goes through its images, each small enough
for the nearest caches.

A **part** is a strip of the width, of some images of the microbatch; parts come one after another,
those of the same images from left to right. Within a part, **blocks** of rows come from top to
bottom. A **piece** is one block of one part. ``cut`` decides all sizes, from shapes alone, so the
same on all ranks; ``pieces_of`` then makes the pieces of a part, once its rows have a buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from numpy.lib.stride_tricks import as_strided

from distcnn.nn.geometry import Geometry
from distcnn.nn.layer import Array

FEWEST_TOGETHER = 32
"""Images that are not cut into groups: runs of fewer numbers are slow to copy."""
FEWEST_COLUMNS = 96
"""Of the matrices of a strip: products with fewer are slow."""


class Part(NamedTuple):
    """Some columns of some images."""

    columns: slice
    images: slice


@dataclass(frozen=True)
class Block:
    """Rows that go through together.

    Attributes:
        outputs: rows of the output.
        fresh: the rows of the input that these are the first to need.
        complete: the rows of the input that no later block needs.
    """

    outputs: slice
    fresh: slice
    complete: slice


@dataclass(frozen=True, eq=False)
class Piece:
    """One block of one part, with its part of V (``distcnn.nn.kernels.algorithms``).

    Attributes:
        input: columns and images of the (padded) input.
        output: columns and images of the output.
        block: which rows of both.
        rows: V of the block's ``fresh`` rows, (P, rows, D, T*N).
        windows: V of all rows that each of its outputs needs, (P, rows, kh*D, T*N), a view.
    """

    input: Part
    output: Part
    block: Block
    rows: Array
    windows: Array


def plan_together(tiles: int, count: int, block_bytes: int, most_bytes: int) -> tuple[int, int]:
    """How many of ``tiles`` of how many of ``count`` images make a part.

    The smallest possible block of them all takes ``block_bytes``; it is cut until it takes at most
    ``most_bytes``, or nearly. Strips come before groups of images, because they leave the long runs
    of numbers, one for each image, whole.
    """
    strips = [
        number
        for number in range(1, tiles + 1)
        if tiles % number == 0 and (number == 1 or tiles // number * count >= FEWEST_COLUMNS)
    ]
    few = next((number for number in strips if block_bytes <= most_bytes * number), strips[-1])
    tiles, block_bytes = tiles // few, block_bytes // few
    while block_bytes > most_bytes and count % 2 == 0 and count > FEWEST_TOGETHER:
        count, block_bytes = count // 2, block_bytes // 2
    return tiles, count


def plan_parts(
    geometry: Geometry, width: int, columns: int, images: int
) -> Iterator[tuple[Part, Part]]:
    """Parts of the input, ``width`` columns with its padding, and of the output: strips of
    ``columns`` of the output, of some ``images`` at a time.
    """
    output_width, stride = geometry.size[1], geometry.stride[1]
    shared = max(geometry.kernel[1] - stride, 0)  # by neighbouring strips
    for first_image in range(0, geometry.count, images):
        some = slice(first_image, first_image + images)
        for first in range(0, output_width, columns):
            end = min(first + columns, output_width)
            stop = width if end == output_width else end * stride + shared
            yield Part(slice(first * stride, stop), some), Part(slice(first, end), some)


def plan_blocks(geometry: Geometry, row_bytes: int, multiple: int, most_bytes: int) -> list[Block]:
    """Blocks of about ``most_bytes``, of a ``multiple`` of rows of the output, each of which takes
    ``row_bytes`` with the input that it is made of.
    """
    (kernel_height, _), (stride, _), (oh, _) = geometry.kernel, geometry.stride, geometry.size
    rows = -(-oh // max(1, -(-oh * row_bytes // most_bytes)))
    rows = -(-rows // multiple) * multiple
    blocks = []
    needed = complete = 0
    for start in range(0, oh, rows):
        stop = min(start + rows, oh)
        fresh = slice(needed, (stop - 1) * stride + kernel_height)
        done = slice(complete, geometry.height if stop == oh else stop * stride)
        blocks.append(Block(slice(start, stop), fresh, done))
        needed, complete = fresh.stop, stop * stride
    return blocks


def pieces_of(
    of_input: Part, of_output: Part, blocks: list[Block], rows: Array, geometry: Geometry
) -> Iterator[Piece]:
    """The pieces of a part; ``rows`` (P, H, D, T*N) is the buffer for its V.

    The rows of a window stand one below the other in it, so ``windows`` is no copy.
    """
    points, _, depth, columns = rows.shape
    of_point, of_row, of_depth, of_column = rows.strides
    shape = points, geometry.size[0], geometry.kernel[0] * depth, columns
    strides = of_point, geometry.stride[0] * of_row, of_depth, of_column
    windows = as_strided(rows, shape, strides)
    for block in blocks:
        yield Piece(of_input, of_output, block, rows[:, block.fresh], windows[:, block.outputs])


@dataclass(frozen=True)
class Gather:
    """Which outputs meet input row ``row``, and with which of the kernel rows ``stack, stack +
    stride, ...``, counted from the last.
    """

    row: int
    stack: int
    kernel_rows: slice
    outputs: slice


def plan_gathers(geometry: Geometry) -> Iterator[Gather]:
    """One for each row of the input."""
    (kernel_height, _), (stride, _), (oh, _) = geometry.kernel, geometry.stride, geometry.size
    for row in range(geometry.height):
        stack = row % stride
        in_stack = len(range(stack, kernel_height, stride))
        first = row // stride - in_stack + 1  # the output that the stack's last row meets here
        start = max(first, 0)
        stop = max(min(row // stride + 1, oh), start)
        yield Gather(row, stack, slice(start - first, stop - first), slice(start, stop))
