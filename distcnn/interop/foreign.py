"""Weights as a file has them: arrays in order, the layout they may be in, and what is known."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.datasets.normalisation import Normalisation
from distcnn.errors import InputError

Array = NDArray[np.float32]
Image = tuple[int, int, int]
"""(channels, height, width)."""

MOST_MEMBERS = 10_000
MOST_EXPANSION = 64
"""An archive that would unpack to more than this many times its size is refused; weights hardly
shrink at all, and a file that is mostly zeros is none of a trained network."""
SMALL_BYTES = 2**20
PLAIN_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
BFLOAT16 = "bfloat16"


@dataclass(frozen=True)
class Layout:
    """How a program arranges the numbers of a layer. ``convert`` makes it PyTorch's, and ours."""

    name: str = "PyTorch"
    kernels: tuple[int, int, int, int] = (0, 1, 2, 3)
    """Where the axes (out, in, height, width) of a convolution's weight are."""
    dense_in_first: bool = False
    """Whether a dense weight is (in, out)."""
    channels_last: bool = False
    """Whether images are flattened in the order (H, W, C)."""
    flipped: bool = False
    """Whether kernels are those of a true convolution, as Theano's are."""

    def convert(self, values: Array, ndim: int, image: Image | None) -> Array | None:
        """``values`` for a parameter of ``ndim`` axes, behind a Flatten of ``image`` if any."""
        if ndim == 1 and values.size == max(values.shape, default=0):
            return values.reshape(-1)  # also (C, 1, 1) and (1, C)
        if values.ndim != ndim:
            return None
        if ndim == 4:
            values = values.transpose(self.kernels)
            return values[:, :, ::-1, ::-1] if self.flipped else values
        if ndim == 2:
            values = values.T if self.dense_in_first else values
            if self.channels_last and image and values.shape[1] == np.prod(image):
                channels, height, width = image
                by_place = values.reshape(-1, height, width, channels)
                values = by_place.transpose(0, 3, 1, 2).reshape(values.shape)
        return values


PYTORCH = Layout()
KERAS = Layout("Keras", kernels=(3, 2, 0, 1), dense_in_first=True, channels_last=True)
KERAS_CHANNELS_FIRST = Layout("Keras, channels first", dense_in_first=True)
CHANNELS_LAST = Layout("channels last", channels_last=True)


@dataclass(frozen=True)
class ForeignWeights:
    """What a file of weights holds.

    Attributes:
        kind: the format, for messages.
        arrays: float32, by name, in the order of the layers, a layer's weight before its bias.
        layouts: that they may be in, the likeliest first.
        normalisation: of the inputs that they were trained with, where it is recorded.
        class_names: in the order of the outputs, where they are recorded.
        image_shape: of their images, as 1x28x28, where it is recorded.
        model, architecture: the network, as distcnn records it in its own files.
        remarks: what the user should know, one line each.
    """

    kind: str
    arrays: dict[str, Array]
    layouts: Sequence[Layout] = (PYTORCH, KERAS, KERAS_CHANNELS_FIRST)
    normalisation: Normalisation | None = None
    class_names: tuple[str, ...] = ()
    image_shape: str = ""
    model: str = ""
    architecture: str = ""
    remarks: tuple[str, ...] = ()


def as_float32(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Array]:
    """The arrays of floating-point numbers, weights before biases; ``ValueError`` for NaN."""
    with np.errstate(over="ignore"):
        kept = {
            name: values.astype(np.float32)
            for name, values in arrays.items()
            if values.dtype.kind == "f" and values.ndim and values.size
        }
    for name, values in kept.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} has numbers that are not finite, or too large for float32")
    return {name: kept[name] for name in _weights_first(kept)}


def _weights_first(arrays: Mapping[str, Array]) -> list[str]:
    """The names, with the weight before the bias in a layer of these two, such as a.bias, a.weight;
    arrays of a layer are together.
    """
    layers: dict[str, list[str]] = {}
    for name in arrays:
        layer, separator, _ = name.rpartition("." if "." in name else "/")
        layers.setdefault(layer if separator else name, []).append(name)
    for names in layers.values():
        if len(names) == 2 and arrays[names[0]].ndim == 1:
            names.reverse()
    return [name for names in layers.values() for name in names]


def floats(raw: bytes, dtype: str) -> NDArray[Any]:
    """The little-endian numbers in ``raw``, of a NumPy type or bfloat16."""
    if dtype == BFLOAT16:  # the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(raw, dtype)


def unpacked(content: bytes) -> dict[str, bytes]:
    """The members of a zip archive; ``ValueError`` for one that would unpack to far more."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if len(members) > MOST_MEMBERS or size > MOST_EXPANSION * len(content) + SMALL_BYTES:
            raise ValueError(
                f"its {len(content):,} bytes would unpack to {size:,} in {len(members):,} members"
            )
        if len(set(archive.namelist())) < len(members):
            raise ValueError("it has two members of the same name")
        if {member.compress_type for member in members} - PLAIN_COMPRESSIONS:
            raise ValueError("it is neither stored nor deflated")  # others unpack without limit
        return {member.filename: archive.read(member) for member in members}


def missing_package(what: str, package: str, instead: str = "") -> InputError:
    """The error where an optional package is not installed."""
    return InputError(f"{what} needs the package {package}: pip install {package}{instead}")
