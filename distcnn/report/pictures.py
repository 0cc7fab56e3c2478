"""Small images as PNG inside the page (``data:`` addresses)."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError

Pixels = NDArray[np.uint8]
LONGEST_SIDE = 80
"""Of an image; larger ones are made smaller."""
NEGATIVE, ZERO, POSITIVE = (194, 90, 17), (247, 247, 247), (31, 95, 168)
"""Colours of signed numbers."""
MOST_TILES, COLUMNS = 32, 8
"""Tiles of a sheet, and how many are side by side."""


@dataclass(frozen=True)
class Picture:
    """An image of the page; ``alt`` describes it."""

    source: str
    alt: str
    width: int
    height: int


def picture(image: Pixels, alt: str) -> Picture:
    """An image (H, W, C) of 3 channels in colour, of others its first channel in gray."""
    return _encoded(image if image.shape[2] == 3 else image[..., 0], alt, LONGEST_SIDE)


def sheet(tiles: NDArray[np.floating], alt: str, signed: bool = False) -> Picture:
    """The first ``MOST_TILES`` of the tiles (n, H, W), or (n, H, W, 3), all on one scale.

    With 3 channels zero is gray. Else ``signed`` is blue above zero and orange below, and otherwise
    zero is black and the largest white.
    """
    shown = np.nan_to_num(tiles[:MOST_TILES].astype(np.float64), posinf=0, neginf=0)
    scaled = shown / max(float(np.abs(shown).max(initial=0)), 1e-30)
    if tiles.ndim == 4:
        colours = 127.5 * (1 + scaled)
    elif signed:
        colours = np.where(scaled[..., np.newaxis] < 0, NEGATIVE, POSITIVE) - np.array(ZERO, float)
        colours = ZERO + np.abs(scaled)[..., np.newaxis] * colours
    else:
        colours = 255 * scaled[..., np.newaxis]
    tiled = _tiled(colours.round().clip(0, 255).astype(np.uint8))
    return _encoded(tiled, alt, max(tiled.shape))


def _tiled(tiles: Pixels) -> Pixels:
    """Tiles (n, H, W, C) in rows of ``COLUMNS``, with alpha: the pixel between them is clear."""
    count, height, width, channels = tiles.shape
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    whole = np.zeros((rows, height + 1, columns, width + 1, channels + 1), np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        whole[row, :-1, column, :-1, :-1] = tile
        whole[row, :-1, column, :-1, -1] = 255
    flat = whole.reshape(rows * (height + 1), columns * (width + 1), channels + 1)
    return flat[:-1, :-1]


def _encoded(pixels: Pixels, alt: str, longest: int) -> Picture:
    """Pixels (H, W) or (H, W, C) with C = 2 (gray, alpha), 3 or 4 as a picture."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("the report needs Pillow: pip install pillow") from error
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((longest, longest))
    memory = io.BytesIO()
    image.save(memory, "PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(memory.getvalue()).decode()}"
    return Picture(source, alt, *image.size)
