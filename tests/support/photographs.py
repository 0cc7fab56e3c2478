"""Drawings of digits, and photographs of them: dark ink on paper that is lit from one side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Gray = NDArray[np.uint8]

STROKES = {
    0: ["50,5 20,25 15,60 35,95 65,95 85,60 80,25 50,5"],
    1: ["35,25 55,5 55,97"],
    2: ["20,25 35,6 65,6 80,25 70,50 20,95 85,93"],
    3: ["20,12 50,5 78,20 70,42 45,48 75,55 82,78 50,96 18,86"],
    4: ["60,5 15,62 90,62", "65,30 62,97"],
    5: ["80,6 30,6 25,45 55,40 82,58 75,88 45,97 18,86"],
    6: ["70,4 35,30 20,65 35,95 65,95 80,72 60,55 30,65"],
    7: ["15,8 85,8 45,97"],
    8: ["50,48 25,30 35,6 65,6 75,30 50,48 22,72 38,96 65,96 80,72 50,48"],
    9: ["75,30 50,50 25,35 35,8 65,6 77,30 70,97"],
}
"""Corners of each stroke, x,y in a box of 100x100."""


def drawing(
    digit: int, size: int = 200, width: int = 14, at: tuple[int, int] = (250, 120)
) -> NDArray[np.float64]:
    """Ink (480, 640), 0 to 1: a digit as high as ``size``, its upper left corner ``at`` (x, y)."""
    image = Image.new("L", (640, 480))
    pen = ImageDraw.Draw(image)
    for stroke in STROKES[digit]:
        corners = [tuple(map(int, corner.split(","))) for corner in stroke.split()]
        points = [(at[0] + 0.7 * size * x / 100, at[1] + size * y / 100) for x, y in corners]
        pen.line(points, fill=255, width=width, joint="curve")
    return np.asarray(image) / 255


def photograph(
    ink: NDArray[np.float64], seed: int = 0, table: int = 0, specks: int = 0, shadow: float = 0.0
) -> Gray:
    """Unevenly lit paper with noise, specks and a shadow; the ``table`` leftmost columns of pixels
    show the edge of a dark table.
    """
    rng = np.random.default_rng(seed)
    height, width = ink.shape
    light = np.linspace(215, 130, width) * np.linspace(1, 0.85, height)[:, np.newaxis]
    light *= 1 - shadow / (1 + np.exp((np.arange(width) - width * 0.8) / -20))
    gray = light * (1 - 0.75 * ink)
    gray[:, :table] = 45
    for _ in range(specks):
        row, column = rng.integers(0, height - 3), rng.integers(table, width - 3)
        gray[row : row + 3, column : column + 3] *= 0.5
    return (gray + rng.normal(0, 4, gray.shape)).clip(0, 255).astype(np.uint8)
