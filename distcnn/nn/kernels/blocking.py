"""In which pieces a convolution goes through its rows and images, so that each piece stays in the
nearest caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from numpy.lib.stride_tricks import as_strided

from distcnn.nn.layer import Array

FEWEST_TOGETHER = 32
"""Images that are not cut into groups: runs of fewer numbers are slow to copy."""
FEWEST_COLUMNS = 96
"""Of the matrices of a strip: products with fewer are slow."""


class StripSizes(NamedTuple):
    """Widths of the (padded) images and of the output; how many columns the kernel moves on, and
    how many neighbouring strips share.
    """

    width: int
    output_width: int
    stride: int
    overlap: int


class RowSizes(NamedTuple):
    """Of the (padded) images, of the output, of the kernel; how many rows the kernel moves on."""

    height: int
    output_height: int
    kernel_height: int
    stride: int


class Part(NamedTuple):
    """Some images of a microbatch, and a strip of them: so many ``columns``."""

    columns: slice
    images: slice


@dataclass(frozen=True)
class Group:
    """What goes through together, one group after another: a part of the (padded) ``input`` and of
    the ``output``.

    V of it, ``rows``, and its ``windows`` (P, oh, kh*D, T*N).
    """

    input: Part
    output: Part
    rows: Array
    windows: Array


@dataclass(frozen=True)
class Block:
    """Rows that go through together: ``outputs``, the rows of the input that those need first, and
    those that nothing needs after them.
    """

    outputs: slice
    fresh: slice
    complete: slice


def plan_together(tiles: int, count: int, block_bytes: int, most_bytes: int) -> tuple[int, int]:
    """How many ``tiles`` of how many of ``count`` images go through together.

    The least block of them all takes ``block_bytes``; so many are taken that it takes at most
    ``most_bytes``, or nearly. Strips come before groups of images: they leave the long runs of
    numbers, one for each image, whole.
    """
    strips = [
        each
        for each in range(1, tiles + 1)
        if tiles % each == 0 and (each == 1 or tiles // each * count >= FEWEST_COLUMNS)
    ]
    few = next((each for each in strips if block_bytes <= most_bytes * each), strips[-1])
    tiles, block_bytes = tiles // few, block_bytes // few
    while block_bytes > most_bytes and count % 2 == 0 and count > FEWEST_TOGETHER:
        count, block_bytes = count // 2, block_bytes // 2
    return tiles, count


def plan_parts(
    sizes: StripSizes, columns: int, count: int, images: int
) -> Iterator[tuple[Part, Part]]:
    """Of the input and of the output: strips of ``columns`` of the output, and ``images`` of
    ``count``; strips from left to right.
    """
    for first_image in range(0, count, images):
        for first in range(0, sizes.output_width, columns):
            last = first + columns >= sizes.output_width
            stop = sizes.width if last else (first + columns) * sizes.stride + sizes.overlap
            part = slice(first_image, first_image + images)
            yield (
                Part(slice(first * sizes.stride, stop), part),
                Part(slice(first, min(first + columns, sizes.output_width)), part),
            )


def plan_blocks(sizes: RowSizes, row_bytes: int, multiple: int, most_bytes: int) -> Iterator[Block]:
    """Blocks of a ``multiple`` of rows of outputs, ``row_bytes`` each with what they are made of:
    of about ``most_bytes``.
    """
    height, output_height, kernel_height, stride = sizes
    rows = -(-output_height // max(1, -(-output_height * row_bytes // most_bytes)))
    rows = -(-rows // multiple) * multiple
    needed = complete = 0
    for start in range(0, output_height, rows):
        stop = min(start + rows, output_height)
        fresh, needed = (
            slice(needed, (stop - 1) * stride + kernel_height),
            (stop - 1) * stride + kernel_height,
        )
        done, complete = (
            slice(complete, height if stop == output_height else stop * stride),
            stop * stride,
        )
        yield Block(slice(start, stop), fresh, done)


@dataclass(frozen=True)
class Gather:
    """Which outputs meet input row ``row``, and with which of the kernel rows ``stack, stack +
    stride, ...``, counted from the last.
    """

    row: int
    stack: int
    kernel_rows: slice
    outputs: slice


def plan_gathers(sizes: RowSizes) -> Iterator[Gather]:
    """One for each row of the input."""
    height, output_height, kernel_height, stride = sizes
    for row in range(height):
        stack = row % stride
        in_stack = len(range(stack, kernel_height, stride))
        first = (
            row // stride - in_stack + 1
        )  # the output that the last kernel row of the stack meets here
        outputs = range(max(first, 0), max(min(row // stride + 1, output_height), max(first, 0)))
        yield Gather(
            row,
            stack,
            slice(outputs.start - first, outputs.stop - first),
            slice(outputs.start, outputs.stop),
        )


def windows_of_rows(rows: Array, sizes: RowSizes) -> Array:
    """(P, oh, kh*D, columns) for ``rows`` (P, H, D, columns), without a copy: the rows of a window
    lie one below the other.
    """
    points, _, depth, columns = rows.shape
    of_point, of_row, of_depth, of_column = rows.strides
    shape = points, sizes.output_height, sizes.kernel_height * depth, columns
    return as_strided(rows, shape, (of_point, sizes.stride * of_row, of_depth, of_column))
