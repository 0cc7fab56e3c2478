"""Images of any type and layout as uint8 (N, H, W) or (N, H, W, C): what to convert is guessed from
shapes and values, or asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distcnn.datasets.hdf5 import MOST_CHANNELS_FIRST, Images, by
from distcnn.datasets.importers.source import Array, Notify, Options, Stack
from distcnn.datasets.pictures import MAX_IMAGE_BYTES
from distcnn.errors import InputError
from distcnn.system.wording import counted

MOST_CHANNELS = MOST_CHANNELS_FIRST
PIECE_BYTES = 2**24
NEARLY = 1e-6
"""How far values may exceed their range, as by rounding."""
NEARLY_BLACK = 0.9
"""A set whose lowest value is closer to 0 than its negative does not go from -1 to 1."""
LEAST_WHITE = 64
"""A set whose largest value is lower may have another scale than 0 to 255."""
SCALE_HINT = "give the values of black and white with --scale LOW HIGH"


@dataclass(frozen=True)
class Form:
    """How images are stored, and so how to convert them.

    Attributes:
        shape: One image as stored, unpacked from a row of pixels: (H, W), (H, W, C) or (C, H, W).
        channels_first: Whether it is (C, H, W).
        transpose: Whether rows and columns are swapped.
        scale: The values that become 0 and 255.
    """

    shape: tuple[int, ...]
    channels_first: bool
    transpose: bool
    scale: tuple[float, float]

    def convert(self, images: Array) -> Images:
        """Images (n, ...) as uint8 (n, H, W) or, with several channels, (n, H, W, C)."""
        low, high = self.scale
        if images.dtype != np.uint8 or self.scale != (0, 255):
            levels = (images.astype(np.float64) - low) * (255 / (high - low))
            images = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
        images = images.reshape(-1, *self.shape)
        if self.channels_first:
            images = images.transpose(0, 2, 3, 1)
        if self.transpose:
            images = images.swapaxes(1, 2)
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        return np.ascontiguousarray(images)


def find_form(
    stacks: Sequence[Stack], options: Options, transposed: bool | None, notify: Notify
) -> Form:
    """How the images of all ``stacks`` are stored. ``InputError`` if that cannot be known.

    ``transposed`` is what the source's format says about rows and columns, None if they may be
    swapped or not; ``notify`` gets a line for each guess.
    """
    stored = stacks[0].shape[1:]
    for stack in stacks[1:]:
        if stack.shape[1:] != stored:
            raise InputError(
                f"images of {by(stored)} and {by(stack.shape[1:])}: all must have the same size"
            )
    if 0 in stored:
        raise InputError(f"images have shape {stored}, so they have no pixels: give others")
    shape, channels_first = _layout(stored, options, notify)
    if math.prod(shape) > MAX_IMAGE_BYTES:
        raise InputError(
            f"images of {by(shape)} are too large: an image may have at most"
            f" {MAX_IMAGE_BYTES:,} values"
        )
    if options.transpose is not None:
        transposed = options.transpose
    if transposed is None and len(stored) == 1:
        raise InputError(
            f"the images are rows of {stored[0]:,} pixels, which MATLAB stores column by column and"
            " other programs row by row: give --transpose or --no-transpose (look at the result"
            " with --preview FILE.png)"
        )
    if transposed:
        notify("rows and columns are swapped in the source: images are turned upright")
    return Form(shape, channels_first, bool(transposed), _scale(stacks, options, notify))


def _layout(
    stored: tuple[int, ...], options: Options, notify: Notify
) -> tuple[tuple[int, ...], bool]:
    """The shape of a stored image, and whether channels come first."""
    shape = stored
    if options.image_size and len(shape) > 1:
        raise InputError(f"--image-size is given, but images have shape {shape}: leave it out")
    if len(shape) == 1:
        shape = options.image_size or _square(shape[0])
        if math.prod(shape) != stored[0]:
            raise InputError(
                f"--image-size is {by(shape)}, {math.prod(shape):,} values, but an image has"
                f" {stored[0]:,}"
            )
        first = len(shape) == 3 and options.layout == "NCHW"
        notify(f"each row of {stored[0]:,} pixels is an image of {by(shape)}")
        return (shape[2], *shape[:2]) if first else shape, first
    if len(shape) == 2:
        return shape, False
    if len(shape) != 3:
        raise InputError(
            f"images have shape {stored}: it must be (height, width), with channels first or last,"
            " or one row of pixels"
        )
    is_first, is_last = (shape[axis] <= MOST_CHANNELS for axis in (0, 2))
    if options.layout is None and is_first == is_last:
        raise InputError(
            f"images have shape {stored}: give --layout NHWC if channels come last, --layout NCHW"
            " if they come first"
        )
    first = options.layout == "NCHW" if options.layout else is_first
    if first:
        notify(f"images are {by(shape)} with channels first (NCHW): channels are moved last")
    return shape, first


def _square(pixels: int) -> tuple[int, ...]:
    side = math.isqrt(pixels)
    if side * side == pixels:
        return side, side
    side = math.isqrt(pixels // 3)
    example = f"{side}x{side}x3" if 3 * side * side == pixels else "28x20"
    raise InputError(
        f"an image is a row of {pixels:,} values, which is not a square: give its height, width"
        f" and channels, such as --image-size {example} (and --layout NCHW if the channels follow"
        " each other)"
    )


def _scale(stacks: Sequence[Stack], options: Options, notify: Notify) -> tuple[float, float]:
    """The values of black and white."""
    low, high, is_whole = _range(stacks)
    text = f"pixels are {stacks[0].dtype}, {low:g} to {high:g}"
    if options.scale:
        below, above = options.scale
        if not -math.inf < below < above < math.inf:
            raise InputError(f"--scale is {below:g} {above:g}: give two numbers, the lower first")
        slack = NEARLY * (above - below)
        if low < below - slack or high > above + slack:
            raise InputError(f"{text}, outside --scale {below:g} {above:g}")
        notify(f"{text}: {below:g} becomes 0, {above:g} becomes 255")
        return below, above
    if low == high:
        raise InputError(f"{text}: all pixels have the same value, so there is nothing to learn")
    if low >= -NEARLY and high <= 1 + NEARLY:
        scale = (0.0, 1.0)
    elif -1 - NEARLY <= low <= -NEARLY_BLACK and high <= 1 + NEARLY:
        scale = (-1.0, 1.0)
    elif low >= 0 and high <= 255 and (high >= LEAST_WHITE or stacks[0].dtype == np.uint8):
        if high < LEAST_WHITE:
            notify(f"{text}: kept; if {high:g} is white, {SCALE_HINT}")
        elif not is_whole or stacks[0].dtype != np.uint8:
            notify(f"{text}: {'' if is_whole else 'rounded and '}stored as uint8")
        return 0.0, 255.0
    else:
        hint = ", perhaps standardised" if low < 0 else ""
        raise InputError(f"{text}{hint}: {SCALE_HINT}")
    notify(f"{text}: {scale[0]:g} becomes 0, 1 becomes 255")
    return scale


def _range(stacks: Sequence[Stack]) -> tuple[float, float, bool]:
    """The smallest and largest value, and whether all are whole. ``InputError`` for NaN."""
    low, high, is_whole, start = math.inf, -math.inf, True, 0
    for stack in stacks:
        if stack.dtype.kind not in "biuf":
            raise InputError(f"the images are {stack.dtype}: they must be numbers")
        size = max(1, PIECE_BYTES // max(1, math.prod(stack.shape[1:]) * stack.dtype.itemsize))
        for piece in stack.pieces(size):
            if stack.dtype.kind == "f":
                if wrong := piece.size - int(np.count_nonzero(np.isfinite(piece))):
                    raise InputError(
                        f"images {start} to {start + len(piece) - 1} hold"
                        f" {counted(wrong, 'value')} that are not finite: the source is damaged"
                    )
                is_whole = is_whole and bool((piece == np.rint(piece)).all())
            if piece.size:
                low, high = min(low, float(piece.min())), max(high, float(piece.max()))
            start += len(piece)
    return low, high, is_whole
