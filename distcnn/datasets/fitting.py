"""Making any picture an image as a network was trained on: size, channels, light and dark.

Letters: H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from distcnn.datasets import pictures
from distcnn.datasets.hdf5 import Images, by
from distcnn.datasets.importers.pixels import Form
from distcnn.datasets.pictures import COLOR, GRAY, in_channels, resized
from distcnn.datasets.strokes import centred_strokes
from distcnn.errors import InputError
from distcnn.system.wording import counted

Fit = Literal["auto", "strokes", "whole"]
Invert = Literal["auto", "yes", "no"]
FITS, INVERSIONS = get_args(Fit), get_args(Invert)
MNIST_MEAN, MNIST_STD, NEARLY = 0.1307, 0.3081, 0.01
"""Of MNIST's training pixels, and how far those of a part of it may differ."""
DARK, LIGHT = 0.4, 0.6
"""Gray images of a lower mean are light on dark, of a higher mean dark on light."""
MOSTLY, NOT_DARK = 0.9, 100
"""Of the border of a picture that is dark on light, this part is not darker than that; in one that
is light on dark, it is not lighter than the reverse.
"""
REMARKS = {
    **pictures.REMARKS,
    "resized": "resized to {size}",
    "strokes": "of another size: the strokes were cut out, centred and scaled as MNIST's were"
    " (--fit whole turns that off)",
    "faint": "without clear strokes, so the whole picture was resized",
    "inverted": "inverted, light for dark (--invert no turns that off)",
}
"""What may be done to a picture."""


@dataclass(frozen=True)
class Fitting:
    """How pictures become images of a network.

    Attributes:
        image_shape: (C, H, W) of the network's images.
        mean: of its training pixels, 0 to 1; for gray images it tells light on dark from dark on
            light.
        is_mnist: whether it was trained on digits prepared as MNIST's were.
        fit: "whole" resizes pictures, "strokes" cuts out what is drawn. "auto" does that for
            pictures of another size, if ``is_mnist``.
        invert: whether pictures are inverted; "auto" finds out, for gray images.
    """

    image_shape: tuple[int, int, int]
    mean: float
    is_mnist: bool
    fit: Fit = "auto"
    invert: Invert = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--fit", self.fit, FITS),
            ("--invert", self.invert, INVERSIONS),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}: it must be one of {', '.join(known)}")
        if self.fit == "strokes" and self.image_shape[0] != 1:
            raise InputError(
                "--fit strokes is for gray images, but the network takes"
                f" {counted(self.image_shape[0], 'channel')}: leave it out"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)"""
        channels, height, width = self.image_shape
        return height, width, channels

    @property
    def mode(self) -> str:
        """Pillow's mode of the images. ``InputError`` if image files have none of that kind."""
        channels = self.image_shape[0]
        if channels not in (1, 3):
            raise InputError(
                f"the network takes images of {counted(channels, 'channel')}, which image files do"
                " not have: give arrays, in HDF5 or .npz files"
            )
        return GRAY if channels == 1 else COLOR

    def require_channels(self, name: object, form: Form) -> None:
        """``InputError`` unless arrays in this form can become images of the network."""
        count = 1
        if len(form.shape) == 3:
            count = form.shape[0 if form.channels_first else 2]
        if count != self.image_shape[0] and {count, self.image_shape[0]} - {1, 3}:
            raise InputError(
                f"{name} has images of {counted(count, 'channel')}, but the network takes"
                f" {self.image_shape[0]}: give others"
            )

    def fit_picture(self, pixels: Images, name: str = "picture") -> tuple[Images, list[str]]:
        """An image (H, W, C) of the network, and the keys of ``REMARKS`` that apply.

        ``pixels`` (h, w) or (h, w, c) of any size. ``InputError`` with the picture's ``name`` if
        strokes are asked for, and there are none.
        """
        height, width, channels = self.shape
        pixels, remarks = in_channels(pixels, channels)
        is_own = pixels.shape[:2] == (height, width)
        if self.fit == "strokes" or (self.fit == "auto" and self.is_mnist and not is_own):
            dark = None if self.invert == "auto" else self.invert == "yes"
            if found := centred_strokes(pixels, height, width, dark):
                is_light = self.mean > LIGHT
                image = 255 - found[0] if is_light else found[0]
                inverted = ["inverted"] if found[1] != is_light else []
                return image[..., np.newaxis], [*remarks, "strokes", *inverted]
            if self.fit == "strokes":
                raise InputError(f"{name} has no clear strokes: give --fit whole to use all of it")
            remarks = [*remarks, "faint"]
        elif not is_own:
            remarks = [*remarks, "resized"]
        if not is_own:
            pixels = resized(pixels, height, width)
        if self.invert == "yes" or (self.invert == "auto" and self._is_negative(pixels)):
            pixels, remarks = 255 - pixels, [*remarks, "inverted"]
        return pixels.reshape(self.shape), remarks

    def _is_negative(self, pixels: Images) -> bool:
        """Whether light and dark are swapped, seen by the border, where the background is."""
        if pixels.ndim == 3 or not (0 < self.mean < DARK or self.mean > LIGHT):
            return False
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        if self.mean > LIGHT:
            border = 255 - border
        return float((border >= NOT_DARK).mean()) > MOSTLY

    def sentences(self, remarks: Mapping[str, int]) -> list[str]:
        """What was done, to how many pictures."""
        size = by(self.shape[:2])
        return [
            f"{counted(remarks[key], 'picture')} {text.format(size=size)}"
            for key, text in REMARKS.items()
            if remarks.get(key)
        ]


def are_like_mnist(
    image_shape: Sequence[int], mean: Sequence[float], std: Sequence[float], names: Sequence[str]
) -> bool:
    """Whether a network was trained on MNIST or a part of it: digits, with its mean and std."""
    return (
        image_shape[0] == 1
        and abs(mean[0] - MNIST_MEAN) < NEARLY
        and abs(std[0] - MNIST_STD) < NEARLY
        and all(len(name) == 1 and name in "0123456789" for name in names)
    )
