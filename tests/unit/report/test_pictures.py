"""Pictures of the page, decoded again."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distcnn.report.pictures import NEGATIVE, POSITIVE, ZERO, Picture, picture, sheet


def pixels_of(drawn: Picture) -> NDArray[np.uint8]:
    """The pixels, from the address in the page."""
    kind, _, text = drawn.source.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_an_image_keeps_its_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(pixels_of(picture(images[0], "")), images[0])
    np.testing.assert_array_equal(pixels_of(picture(images[0][..., :1], "")), images[0][..., 0])
    np.testing.assert_array_equal(pixels_of(picture(images[0][..., :2], "")), images[0][..., 0])


def test_a_large_image_is_made_smaller() -> None:
    drawn = picture(np.zeros((1000, 500, 3), np.uint8), "")
    assert (drawn.width, drawn.height) == (40, 80)


def test_signed_numbers_are_blue_and_orange() -> None:
    found = pixels_of(sheet(np.array([[[-2.0, 0.0, 2.0]]]), "", signed=True))
    np.testing.assert_array_equal(found, [[(*NEGATIVE, 255), (*ZERO, 255), (*POSITIVE, 255)]])


def test_tiles_are_on_one_scale_with_a_clear_line_between() -> None:
    tiles = np.array([[[0.0, 1.0]], [[2.0, 4.0]]])
    expected = [[(0, 255), (64, 255), (0, 0), (128, 255), (255, 255)]]
    np.testing.assert_array_equal(pixels_of(sheet(tiles, "")), expected)


def test_colours_have_gray_for_zero() -> None:
    found = pixels_of(sheet(np.array([[[[0.0, 1.0, -1.0]]]]), ""))
    np.testing.assert_array_equal(found, [[(128, 255, 0, 255)]])


def test_numbers_that_are_not_finite_are_drawn_as_zero() -> None:
    found = pixels_of(sheet(np.array([[[np.nan, np.inf, 1.0]]]), ""))
    np.testing.assert_array_equal(found[..., 0], [[0, 0, 255]])
    assert pixels_of(sheet(np.zeros((3, 1, 1)), "")).shape == (1, 5, 2)
