"""Finding the strokes in a picture of a character, and preparing them as MNIST's were.

The digits of MNIST were fitted into a box of 20x20 pixels, keeping their proportions, and placed in
28x28 pixels with their centre of mass in the middle (LeCun et al. 1998). A network trained on them
misreads a digit of another size, place or thickness. In a photograph, light and shadow change the
brightness of the paper from place to place; so it is estimated and divided out. What remains are
strokes, of which specks and what reaches in from the edge (a table, a line) are removed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.hdf5 import Images
from distcnn.datasets.pictures import resized
from distcnn.errors import InputError

Floats = NDArray[np.float32]

BOX = 20 / 28
"""The part of an image that the longer side of a character takes."""
LONGEST_SIDE = 480
"""Pixels of a picture that is examined: larger ones are reduced first."""
GRID = 60
"""Cells along the longer side, in which the paper is estimated and strokes are connected."""
WIDEST_STROKE = 19
"""Cells: dark areas that are wider belong to the paper (shadows) or to what lies beside it."""
NEIGHBOURHOODS = 1 / 4, 1 / 8
"""Parts of the longer side, in which strokes are compared with what is around them."""
DARKEST_PAPER = 24.0
FAINTEST = 0.12
"""The contrast that strokes must have at least: a part of the paper's brightness."""
SMALL = 1 / 8
"""Strokes in a smaller part of a reduced picture are cut out of the picture itself."""
FEWEST = 40
"""Pixels of strokes in a large picture: fewer dark ones are specks."""
NO_INK, MUCH_LARGER = (0.3, 0.6), 1.2
"""Contrast that is not yet ink, as a part of the strokes'. If what has more of it than the first
number is so much larger than what has more than the second, it also has the lines of the paper.
"""
EDGE_WEIGHT, SMALLEST_PART = 0.01, 0.08
"""Dark parts at the picture's edge weigh less. Of those elsewhere, one that weighs less than this
part of the heaviest is a speck.
"""
THINNEST = 2.2 / 28
"""Strokes are thickened to this part of the image: a pen's would be too faint."""


def has_dark_strokes(gray: Images) -> bool:
    """Whether a picture (H, W) is of dark strokes on light paper, rather than light ones on dark.

    Strokes are a minority in their neighbourhood and far from its mean, so the third moment about
    that mean has their sign; that of a shadow's edge is zero. A wide neighbourhood is right for
    thick strokes, a small one beside a table's edge, so both count.
    """
    values, moment = gray.astype(np.float64), 0.0
    for part in NEIGHBOURHOODS:
        mean = ndimage().uniform_filter(values, round(max(gray.shape) * part) | 1, mode="nearest")
        moment += float(((values - mean) ** 3).sum())
    return moment <= 0


def centred_strokes(
    gray: Images, height: int, width: int, dark: bool | None = None
) -> tuple[Images, bool] | None:
    """The strokes in a picture as light on black, centred; None where there are none.

    Args:
        gray: (H, W) uint8, of any size.
        height, width: of the result.
        dark: whether the strokes are darker than the paper; None to find that out.

    Returns:
        (height, width) uint8, and whether the strokes are dark.
    """
    whole, ratio = gray, LONGEST_SIDE / max(gray.shape)
    if ratio < 1:
        gray = resized(gray, *(max(1, round(size * ratio)) for size in gray.shape))
    cell = -(-max(gray.shape) // GRID)
    if dark is None:
        dark = has_dark_strokes(gray)
    contrast = _contrast(gray if dark else 255 - gray, cell)
    if contrast is None:
        return None
    inks = [_without_specks(((contrast - least) / 0.4).clip(0, 1), cell) for least in NO_INK]
    boxes = [ndimage().find_objects((ink > 0.5).astype(int))[0] for ink in inks]
    sides = [max(part.stop - part.start for part in box) for box in boxes]
    chosen = 1 if sides[0] > MUCH_LARGER * sides[1] else 0
    ink, box, side = inks[chosen][boxes[chosen]], boxes[chosen], sides[chosen]
    if ratio < 1 and side < SMALL * LONGEST_SIDE:
        around = [
            slice(max(0, int((part.start - side) / ratio)), int((part.stop + side) / ratio) + 1)
            for part in box
        ]
        if closer := centred_strokes(whole[tuple(around)], height, width, dark):
            return closer
    thin = THINNEST * max(ink.shape) / BOX - _stroke_width(ink)
    if thin > 1:
        reach = round(thin / 2)
        ink = ndimage().maximum_filter(np.pad(ink, reach), 2 * reach + 1)
    return _placed(ink, height, width), dark


def ndimage() -> Any:
    """SciPy's image filters, imported here, only when they are needed."""
    try:
        from scipy import ndimage
    except ImportError as error:
        raise InputError(
            "cutting strokes out of a picture needs SciPy: pip install scipy, or give --fit whole"
        ) from error
    return ndimage


def _contrast(gray: Images, cell: int) -> Floats | None:
    """How dark each pixel is on the paper, the strokes being 1; None if that is too little."""
    height, width = gray.shape
    coarse = resized(gray, -(-height // cell), -(-width // cell))
    # Closing fills the dark valleys that are narrower than the window; ramps remain.
    paper = ndimage().grey_closing(coarse, (WIDEST_STROKE, WIDEST_STROKE), mode="nearest")
    paper = np.maximum(resized(paper, height, width), DARKEST_PAPER)
    contrast = np.clip(1 - np.maximum(gray, DARKEST_PAPER) / paper, 0, 1).astype(np.float32)
    most = float(np.percentile(contrast, max(99.9, 100 - 100 * FEWEST / contrast.size)))
    return contrast / most if most >= FAINTEST else None


def _without_specks(ink: Floats, cell: int) -> Floats:
    """``ink`` without small parts, and without what is connected to the picture's edge.

    Strokes belong to one part if less than two cells are between them.
    """
    near = ndimage().maximum_filter(ink > 0.5, 2 * cell + 1)
    parts, count = ndimage().label(near, np.ones((3, 3)))
    masses = ndimage().sum_labels(ink, parts, np.arange(count + 1))
    borders = (parts[0], parts[-1], parts[:, 0], parts[:, -1])
    at_edge = np.isin(np.arange(count + 1), np.concatenate(borders))
    masses[0] = 0
    weights = np.where(at_edge, EDGE_WEIGHT * masses, masses)
    kept = ~at_edge & (weights >= SMALLEST_PART * weights.max())
    kept[weights.argmax()] = True
    return np.where(kept[parts], ink, 0)


def _stroke_width(ink: Floats) -> float:
    """The mean width of the strokes, in pixels: of a long line, twice its area by its outline."""
    mask = ink > 0.5
    area = int(mask.sum())
    return 2 * area / max(1, area - int(ndimage().binary_erosion(mask).sum()))


def _placed(ink: Floats, height: int, width: int) -> Images:
    """``ink`` fitted into the box, with its centre of mass in the middle, which in MNIST is that of
    the pixel (14, 14).
    """
    scale = BOX * min(height, width) / max(ink.shape)
    rows, columns = (max(1, round(size * scale)) for size in ink.shape)
    fitted = resized((ink * 255).astype(np.uint8), rows, columns).astype(np.float32)
    fitted *= 255 / fitted.max()
    top, left = (
        min(max(0, round(size / 2 - centre)), size - length)
        for size, length, centre in zip(
            (height, width), (rows, columns), ndimage().center_of_mass(fitted), strict=True
        )
    )
    image = np.zeros((height, width), np.uint8)
    image[top : top + rows, left : left + columns] = fitted.round()
    return image
