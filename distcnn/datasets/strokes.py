"""Finding the strokes in a picture of a character, and preparing them as MNIST's were.

The digits of MNIST were fitted into a box of 20x20 pixels, keeping their proportions, and placed in
28x28 pixels with their centre of mass in the middle (LeCun et al. 1998). A network trained on them
misreads a digit of another size, place or thickness. In a photograph, light and shadow change the
brightness of the paper from place to place; so it is estimated and divided out. What remains are
strokes, of which specks and what reaches in from the edge (a table, a line) are removed.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import Images
from distcnn.datasets.pictures import resized

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

BOX = 20 / 28
"""The part of an image that the longer side of a character takes."""
LONGEST_SIDE = 480
"""Pixels of a picture that is examined: larger ones are reduced first."""
GRID = 60
"""Cells along the longer side, in which the paper is estimated and strokes are connected."""
WIDEST_STROKE = 19
"""Cells: dark areas that are wider belong to the paper (shadows) or to what lies beside it."""
DARKEST_PAPER = 24.0
FAINTEST = 0.12
"""The contrast that strokes must have at least: a part of the paper's brightness."""
EDGE_WEIGHT, SMALLEST_PART = 0.01, 0.08
"""Dark parts at the picture's edge weigh less. Of those elsewhere, one that weighs less than this
part of the heaviest is a speck.
"""
THINNEST = 2.2 / 28
"""Strokes are thickened to this part of the image: a pen's would be too faint."""


def has_dark_strokes(gray: Images) -> bool:
    """Whether a picture (H, W) is of dark strokes on light paper, rather than light ones on dark.

    Strokes are a minority in their neighbourhood and far from its mean, so the third moment about
    that mean has their sign; that of a shadow's edge is zero.
    """
    differences = gray - _local_mean(gray, max(gray.shape) // 5)
    return float((differences**3).sum()) <= 0


def centred_strokes(gray: Images, height: int, width: int, dark: bool) -> Images | None:
    """The strokes in a picture as light on black, centred; None where there are none.

    Args:
        gray: (H, W) uint8, of any size.
        height, width: of the result.
        dark: whether the strokes are darker than the paper.
    """
    ratio = LONGEST_SIDE / max(gray.shape)
    if ratio < 1:
        gray = resized(gray, *(max(1, round(size * ratio)) for size in gray.shape))
    cell = -(-max(gray.shape) // GRID)
    ink = _ink(gray if dark else 255 - gray, cell)
    if ink is None:
        return None
    ink = _cropped(_without_specks(ink, cell))
    thin = THINNEST * max(ink.shape) / BOX - _stroke_width(ink)
    if thin > 1:
        ink = _widest(np.pad(ink, round(thin / 2)), 2 * round(thin / 2) + 1)
    return _placed(ink, height, width)


def _ink(gray: Images, cell: int) -> Floats | None:
    """How much ink there is at each pixel, 0 to 1; None where there is too little contrast."""
    height, width = gray.shape
    coarse = resized(gray, -(-height // cell), -(-width // cell)).astype(np.float32)
    # Closing: the dark valleys that are narrower than the window are filled up, ramps remain.
    paper = -_widest(-_widest(coarse, WIDEST_STROKE), WIDEST_STROKE)
    paper = np.maximum(resized(paper.astype(np.uint8), height, width), DARKEST_PAPER)
    contrast = np.clip(1 - gray / paper, 0, 1).astype(np.float32)
    most = float(np.percentile(contrast, 99.9))
    return np.clip((contrast / most - 0.3) / 0.4, 0, 1) if most >= FAINTEST else None


def _without_specks(ink: Floats, cell: int) -> Floats:
    """``ink`` without small parts, and without what is connected to the picture's edge."""
    height, width = ink.shape
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.zeros((rows * cell, columns * cell), np.float32)
    padded[:height, :width] = ink
    cells = padded.reshape(rows, cell, columns, cell)
    masses, groups = cells.sum(axis=(1, 3)), _groups(cells.max(axis=(1, 3)) > 0.5)
    weighed = []
    for group in groups:
        mass = sum(float(masses[place]) for place in group)
        at_edge = any(row in (0, rows - 1) or column in (0, columns - 1) for row, column in group)
        weighed.append((mass * (EDGE_WEIGHT if at_edge else 1), at_edge, group))
    heaviest = max(weighed)
    kept = np.zeros((rows, columns), np.float32)
    for weight, at_edge, group in weighed:
        if group is heaviest[2] or (not at_edge and weight >= SMALLEST_PART * heaviest[0]):
            kept[tuple(np.transpose(group))] = 1
    return ink * np.kron(_widest(kept, 3), np.ones((cell, cell), np.float32))[:height, :width]


def _groups(mask: Mask) -> list[list[tuple[int, int]]]:
    """The places of ``mask`` that are connected, also at corners."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True))
    groups = []
    while left:
        group = [left.pop()]
        for row, column in group:  # which grows meanwhile
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            group += near
        groups.append(group)
    return groups


def _cropped(ink: Floats) -> Floats:
    """What is within the first and last row and column with strokes."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _stroke_width(ink: Floats) -> float:
    """The mean width of the strokes, in pixels: of a long line, twice its area by its outline."""
    mask = np.pad(ink > 0.5, 1)
    inner = mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    area = int(mask.sum())
    return 2 * area / max(1, area - int(inner.sum()))


def _placed(ink: Floats, height: int, width: int) -> Images:
    """``ink`` fitted into the box, with its centre of mass in the middle, which in MNIST is that of
    the pixel (14, 14).
    """
    scale = BOX * min(height, width) / max(ink.shape)
    rows, columns = (max(1, round(size * scale)) for size in ink.shape)
    fitted = resized((ink * 255).astype(np.uint8), rows, columns).astype(np.float32)
    fitted *= 255 / fitted.max()
    top, left = (
        min(max(0, round(size / 2 + 0.5 - _centre(fitted.sum(axis=axis)))), size - length)
        for size, length, axis in ((height, rows, 1), (width, columns, 0))
    )
    image = np.zeros((height, width), np.uint8)
    image[top : top + rows, left : left + columns] = fitted.round()
    return image


def _centre(masses: Floats) -> float:
    return float(np.dot(np.arange(len(masses)) + 0.5, masses) / masses.sum())


def _local_mean(values: Images, reach: int) -> NDArray[np.float64]:
    """The mean in a square around each place, ``reach`` to each side."""
    means = np.pad(values.astype(np.float64), reach, "edge")
    for axis in (0, 1):
        sums = np.insert(np.cumsum(means, axis=axis), 0, 0, axis=axis)
        length, window = sums.shape[axis], 2 * reach + 1
        ends, starts = np.arange(window, length), np.arange(length - window)
        means = (sums.take(ends, axis=axis) - sums.take(starts, axis=axis)) / window
    return means


def _widest(values: Floats, size: int) -> Floats:
    """The maximum in a square window of an odd ``size`` around each place."""
    for axis in (0, 1):
        pads = [(size // 2, size // 2) if each == axis else (0, 0) for each in (0, 1)]
        values = sliding_window_view(np.pad(values, pads, "edge"), size, axis=axis).max(axis=-1)
    return values
