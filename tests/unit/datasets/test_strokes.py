"""Finding the strokes in pictures of characters."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn.datasets.strokes import centred_strokes, has_dark_strokes
from tests.support.photographs import STROKES, drawing, photograph


def cut_out(gray: np.ndarray, size: int = 28) -> np.ndarray:
    found = centred_strokes(gray, size, size)
    assert found is not None
    return found[0]


def extent(image: np.ndarray) -> tuple[int, int]:
    """Rows and columns from the first to the last with ink."""
    rows, columns = (np.flatnonzero((image > 60).any(axis=axis)) for axis in (1, 0))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_a_bar_becomes_a_bar_of_twenty_pixels_in_the_middle() -> None:
    gray = np.full((280, 280), 220, np.uint8)
    gray[30:130, 200:220] = 40  # 100 x 20: scaled by 20/100 to 20 x 4, centred at (14, 14)
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 12:16] = 255
    assert np.abs(cut_out(gray).astype(int) - expected).max() <= 40
    assert np.abs(cut_out(255 - gray).astype(int) - expected).max() <= 40


def test_the_centre_of_mass_is_in_the_middle() -> None:
    gray = np.full((300, 300), 230, np.uint8)
    gray[50:250, 50:90] = gray[210:250, 50:200] = 30  # an L, whose box has its middle elsewhere
    image = cut_out(gray).astype(float)
    centre = [float((image.sum(axis=axis) * np.arange(28)).sum() / image.sum()) for axis in (1, 0)]
    assert centre == pytest.approx([14, 14], abs=0.6)
    assert extent(image) == (20, 15)


def test_a_thin_line_is_thickened() -> None:
    gray = np.full((400, 400), 230, np.uint8)
    gray[50:350, 200:203] = 30
    assert extent(cut_out(gray))[1] >= 2


def test_the_result_has_the_size_that_is_asked_for() -> None:
    assert extent(cut_out(photograph(drawing(8)), 56))[0] == pytest.approx(40, abs=1)


@pytest.mark.parametrize("digit", STROKES)
def test_a_table_specks_and_shadow_change_little(digit: int) -> None:
    ink = drawing(digit)
    plain, hard = photograph(ink), photograph(ink, table=60, specks=12, shadow=0.4)
    assert has_dark_strokes(hard)
    assert not has_dark_strokes(255 - plain)
    one, other = cut_out(plain).astype(float), cut_out(hard)
    shifted = [np.roll(other, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    assert min(np.abs(one - image).mean() for image in shifted) < 6


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (500, 400)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_there_are_none_in_an_empty_picture(shape: tuple[int, int], value: int) -> None:
    assert centred_strokes(np.full(shape, value, np.uint8), 28, 28) is None


def test_what_is_told_about_light_and_dark_counts() -> None:
    gray = photograph(drawing(3))
    found, forced = centred_strokes(gray, 28, 28), centred_strokes(gray, 28, 28, dark=False)
    assert found is not None
    assert forced is not None
    assert (found[1], forced[1]) == (True, False)
    assert np.abs(found[0].astype(float) - forced[0]).mean() > 20


def test_the_lines_of_squared_paper_are_left_out() -> None:
    gray = np.full((300, 400), 220, np.uint8)
    gray[10::25] = gray[:, 10::25] = 110
    gray[100:200, 190:210] = 20
    assert extent(cut_out(gray)) == (20, 4)


def test_a_small_character_in_a_large_picture_keeps_its_detail() -> None:
    gray = np.full((1500, 2000), 220, np.uint8)
    gray[700:780, 900:940] = 30
    gray[710:770, 910:930] = 220  # 80 x 40 with a hole: 20 x 10, the hole 15 x 5
    image = cut_out(gray)
    assert extent(image) == (20, 10)
    assert image[8:20, 14].max() < 60
