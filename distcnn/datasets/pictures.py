"""Reading image files with Pillow: upright, without transparency, in gray or in color.

Pillow chooses a decoder by a file's content, not by its name, and some of its decoders start other
programs (Ghostscript for EPS). So only the formats named here are ever opened.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.datasets.hdf5 import Images, by
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.system.wording import counted, first_few

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
NAMES = "PNG, JPEG, BMP, GIF, TIFF or WebP"
SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
BACKGROUNDS = ("white", "black")
"""On which transparent pixels are shown."""
MAX_IMAGE_BYTES = 2**24
"""Of one image in a set: a step has hundreds of them in memory, as float32."""
GRAY, COLOR = "L", "RGB"
ORIENTATION = 0x0112
"""EXIF's tag."""
MOST_16_BITS = 2**16 - 1
REMARKS = {
    "frames": "with several frames, of which the first is used",
    "depth": "reduced from 16 to 8 bits",
    "white": "with transparent pixels, which became white",
    "black": "with transparent pixels, which became black",
    "color": "converted to gray",
    "gray": "converted from gray to color",
}
"""What may be done to a single picture."""

# What Pillow logs about damaged files is also in its exceptions.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class PictureForm:
    """The common form of all images: ``size`` is (height, width), ``mode`` GRAY or COLOR."""

    size: tuple[int, int]
    mode: str
    resize: bool
    background: str

    @property
    def image_bytes(self) -> int:
        return self.size[0] * self.size[1] * len(self.mode)


@dataclass(frozen=True)
class Encoded:
    """An image file in memory; ``name`` is for messages."""

    name: str
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name


Picture = Path | Encoded


class BrokenImageError(InputError):
    """An image file that cannot be read."""


def common_form(
    paths: Sequence[Picture],
    size: tuple[int, int] | None,
    grayscale: bool,
    background: str,
    warn: Callable[[str], None],
) -> PictureForm:
    """The one form for all images: gray if requested, or if all of them are gray.

    An image is gray if it is stored as gray, or if all its pixels are gray and its format does
    not say (palettes, alpha, WebP). ``size`` (height, width) is by default that of the images.
    ``warn`` is called about several frames, and about gray pixels stored as color. ``InputError``
    when images differ in size, are too large or cannot be read.
    """
    first, all_gray, stored_gray, animated = size, not grayscale, True, 0
    broken: dict[Picture, BrokenImageError] = {}
    for path in paths:
        with _noting(broken, path), _opened(path) as image:
            has_frames = image.format in ("PNG", "GIF", "TIFF", "WEBP")
            animated += has_frames and getattr(image, "is_animated", False)
            if size is None:
                found = _upright(image).size[::-1]
                first = first or found
                if found != first:
                    raise InputError(
                        f"{path} is {by(found)} (height x width), {paths[0]} {by(first)}: "
                        "images must have the same size, or give --size HxW to resize them"
                    )
            if all_gray:
                pixels = np.asarray(_on_background(image, background)[0])
                all_gray = pixels.ndim == 2 or bool((pixels == pixels[..., :1]).all())
                stored_gray &= image.mode not in ("RGB", "CMYK", "YCbCr") or image.format == "WEBP"
    if broken:
        (_, error), *others = broken.items()
        more = f", and {counted(len(others), 'other broken file')}:" if others else ""
        raise InputError(f"{error}{more} {first_few(path for path, _ in others)}".rstrip())
    assert first is not None  # there are paths
    if animated:
        images = counted(animated, "image")
        warn(f"{images} with several frames or pages: only the first one is used")
    if all_gray and not stored_gray:
        warn(
            "all images are gray but stored in color, so they get three equal channels: add"
            " --grayscale for a single channel"
        )
    mode = GRAY if grayscale or (all_gray and stored_gray) else COLOR
    form = PictureForm(first, mode, size is not None, background)
    if form.image_bytes > MAX_IMAGE_BYTES:
        raise InputError(
            f"images of {by(form.size)} pixels are too large to train on: give a smaller --size"
            " HxW, such as --size 224x224"
        )
    return form


def read_picture(path: Picture, form: PictureForm, transparent: list[Picture]) -> Images:
    """The pixels of an image in ``form``: (height, width), or (height, width, 3) in color.

    The path of a transparent image is added to ``transparent``.
    """
    with _opened(path) as image:
        flat, is_transparent = _on_background(_upright(image), form.background)
        if is_transparent:
            transparent.append(path)
        converted = flat.convert(form.mode)
        if form.resize:
            converted = converted.resize(form.size[::-1])
        return np.asarray(converted, np.uint8)


def read_pixels(path: Path, mode: str) -> tuple[Images, list[str]]:
    """A single picture of any size and depth, and the keys of ``REMARKS`` that apply to it.

    Transparent pixels become white; in gray, black if what is drawn is light. ``InputError`` if it
    cannot be read as an image.

    Returns:
        (height, width) in gray or (height, width, 3) in color, uint8, upright.
    """
    with _opened(path, deep=True) as image:
        remarks = ["frames"] if getattr(image, "is_animated", False) else []
        upright = _upright(image)
        if upright.mode.startswith("I"):
            upright, remarks = _in_8_bits(upright, path), [*remarks, "depth"]
        background = "black" if mode == GRAY and _is_light(upright) else "white"
        flat, is_transparent = _on_background(upright, background)
        if is_transparent:
            remarks.append(background)
        return np.asarray(flat.convert(GRAY if flat.mode == "1" else flat.mode)), remarks


def in_channels(pixels: Images, channels: int) -> tuple[Images, list[str]]:
    """``pixels`` (H, W) or (H, W, C) with 1 or 3 channels instead of 3 or 1, and the ``REMARKS``.

    Gray ones are returned as (H, W).
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 2 and channels > 1:
        return np.stack([pixels] * channels, axis=-1), ["gray"]
    if pixels.ndim == 3 and channels == 1:
        from PIL import Image

        is_color = bool((pixels != pixels[..., :1]).any())
        return np.asarray(Image.fromarray(pixels).convert(GRAY)), ["color"] * is_color
    return pixels, []


def resized(pixels: Images, height: int, width: int) -> Images:
    """``pixels`` (H, W) or (H, W, C) in another size, as the images of a folder are resized."""
    from PIL import Image

    channels = [pixels] if pixels.ndim == 2 else list(np.moveaxis(pixels, -1, 0))
    done = [np.asarray(Image.fromarray(each).resize((width, height))) for each in channels]
    return done[0] if pixels.ndim == 2 else np.stack(done, axis=-1)


def _upright(image: Any) -> Any:
    """The image turned as its EXIF orientation says, unless its EXIF data are damaged."""
    from PIL import ImageOps

    image.load()  # PNG may hold its EXIF data at the end; Pillow turns TIFF by itself
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # whatever a damaged block makes Pillow raise
        orientation = None
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _in_8_bits(image: Any, path: Path) -> Any:
    """A gray image of 16 bits as one of 8; one that uses only 8 of them as it is."""
    from PIL import Image

    values = np.asarray(image)
    if values.min() < 0 or values.max() > MOST_16_BITS:
        raise InputError(
            f"{path} has pixels from {values.min()} to {values.max()}: convert it to 8 bits"
        )
    if values.max() > 255:
        values = (values.astype(np.uint32) + 128) // 257
    return Image.fromarray(values.astype(np.uint8))


def _is_light(image: Any) -> bool:
    """Whether what is drawn on a transparent background is light; False without transparency."""
    if not image.has_transparency_data:
        return False
    small = image.convert("RGBA")
    small.thumbnail((256, 256))
    gray, alpha = np.asarray(small.convert(GRAY)), np.asarray(small)[..., 3]
    return bool(np.vdot(gray.astype(float) - 127.5, alpha.astype(float)) > 0)


def _on_background(image: Any, background: str) -> tuple[Any, bool]:
    """The image without transparency, and whether it had any."""
    from PIL import Image

    if image.mode in ("1", "L") and not image.has_transparency_data:
        return image, False
    transparent = image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255
    if transparent:
        below = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return image.convert(COLOR), transparent


@contextmanager
def _noting(broken: dict[Picture, BrokenImageError], path: Picture) -> Iterator[None]:
    """Go on after an image that cannot be read, so that all can be named."""
    try:
        yield
    except BrokenImageError as error:
        broken[path] = error


@contextmanager
def _opened(path: Picture, deep: bool = False) -> Iterator[Any]:
    """Open an image file as one of ``FORMATS``; Pillow's exceptions become ``InputError``.

    Gray images of 16 bits are refused unless ``deep``.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise InputError("reading images needs Pillow: pip install pillow") from error
    stream = io.BytesIO(path.content) if isinstance(path, Encoded) else open_named(path)
    with stream as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged EXIF data and the like
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.mode.startswith("F" if deep else ("I", "F")):
                    raise InputError(
                        f"{path} has more than 8 bits a pixel (mode {image.mode}): convert it to 8"
                        " bits"
                    )
                yield image
        except InputError:
            raise
        except Exception as error:  # decoders raise nearly everything of damaged or hostile files
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                reason = f"it is not {NAMES}, or damaged"
            raise BrokenImageError(
                f"{path} cannot be read as an image ({reason}): replace or remove it"
            ) from error
