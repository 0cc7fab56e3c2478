"""Which pictures are resized, inverted or have their strokes cut out, and what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn.datasets.fitting import Fitting, are_like_mnist
from distcnn.errors import InputError
from tests.support.photographs import drawing, photograph

DIGITS = tuple("0123456789")
MNIST = Fitting((1, 28, 28), 0.1307, is_mnist=True)
SHIRTS = Fitting((1, 28, 28), 0.286, is_mnist=False)
PAPER = Fitting((1, 28, 28), 0.9, is_mnist=False)
PHOTOS = Fitting((3, 32, 32), 0.47, is_mnist=False)
DARK_ON_LIGHT = photograph(drawing(7))


def test_only_digits_with_mnists_statistics_are_like_mnist() -> None:
    assert are_like_mnist((1, 28, 28), [0.1307], [0.3081], DIGITS)
    assert are_like_mnist((1, 28, 28), [0.132], [0.309], DIGITS[5:])
    for mean, std, names in (
        (0.2860, 0.3530, DIGITS),  # Fashion-MNIST
        (0.1307, 0.3081, ("circle", "square")),  # fine-tuned, with the first run's normalisation
        (0.0, 1.0, DIGITS),
    ):
        assert not are_like_mnist((1, 28, 28), [mean], [std], names)


@pytest.mark.parametrize(
    ("fitting", "pixels", "remarks"),
    [
        (MNIST, DARK_ON_LIGHT, ["strokes", "inverted"]),
        (MNIST, 255 - DARK_ON_LIGHT, ["strokes"]),
        (SHIRTS, DARK_ON_LIGHT, ["resized", "inverted"]),
        (PAPER, DARK_ON_LIGHT, ["resized"]),
        (PAPER, 255 - DARK_ON_LIGHT, ["resized", "inverted"]),
        (PHOTOS, DARK_ON_LIGHT, ["gray", "resized"]),
        (MNIST, np.full((50, 40), 255, np.uint8), ["faint", "inverted"]),
        (MNIST, np.zeros((28, 28), np.uint8), []),
        (MNIST, np.full((28, 28), 255, np.uint8), ["inverted"]),
        (MNIST, np.zeros((28, 28, 3), np.uint8), []),  # gray already
        (MNIST, np.zeros((28, 28, 3), np.uint8) + np.uint8([9, 0, 0]), ["color"]),
    ],
)
def test_what_is_done_by_itself(fitting: Fitting, pixels: np.ndarray, remarks: list[str]) -> None:
    image, done = fitting.fit_picture(pixels)
    assert (image.shape, image.dtype, done) == (fitting.shape, np.uint8, remarks)
    assert len(fitting.sentences(dict.fromkeys(done, 2))) == len(remarks)


def test_flags_decide() -> None:
    whole = Fitting((1, 28, 28), 0.1307, is_mnist=True, fit="whole", invert="no")
    image, done = whole.fit_picture(DARK_ON_LIGHT)
    assert done == ["resized"]
    assert image[0, 0, 0] > 180
    strokes = Fitting((1, 28, 28), 0.9, is_mnist=False, fit="strokes")
    image, done = strokes.fit_picture(DARK_ON_LIGHT)  # the network knows dark on light
    assert (done, image[0, 0, 0]) == (["strokes"], 255)
    turned = Fitting((1, 28, 28), 0.286, is_mnist=False, invert="yes")
    assert turned.fit_picture(np.full((28, 28), 9, np.uint8))[0].max() == 246


def test_mostly_light_borders_are_needed() -> None:
    bag = np.zeros((28, 28), np.uint8)
    bag[2:, 3:25] = 250  # fills most of the picture, and all of its lower edge
    assert SHIRTS.fit_picture(bag)[1] == []


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="--fit strokes is for gray"):
        Fitting((3, 32, 32), 0.5, is_mnist=False, fit="strokes")
    strokes = Fitting((1, 28, 28), 0.1307, is_mnist=True, fit="strokes")
    with pytest.raises(InputError, match=r"blank\.png has no clear strokes"):
        strokes.fit_picture(np.full((90, 90), 230, np.uint8), "blank.png")
    with pytest.raises(InputError, match="--invert is 'maybe'"):
        Fitting((1, 28, 28), 0.5, is_mnist=False, invert="maybe")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 channels"):
        _ = Fitting((2, 28, 28), 0.5, is_mnist=False).mode
