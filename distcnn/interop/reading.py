"""Reading weights from a file of any known format. No code in a file is ever run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distcnn.checkpoints.weights import WEIGHTS
from distcnn.errors import InputError
from distcnn.interop.foreign import ForeignWeights
from distcnn.interop.hdf5 import read_hdf5
from distcnn.interop.npz import read_npz
from distcnn.interop.onnx_reading import read_onnx
from distcnn.interop.pytorch import read_pytorch
from distcnn.interop.safetensors_files import read_safetensors
from distcnn.system.files import open_named

READERS: dict[str, Callable[[bytes], ForeignWeights]] = {
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".safetensors": read_safetensors,
    ".npz": read_npz,
    ".onnx": read_onnx,
    ".pt": read_pytorch,
    ".pth": read_pytorch,
}
"""By suffix, a function of the content, which may be hostile; ``ValueError`` says what is wrong."""


@dataclass(frozen=True)
class SourceFile:
    """Weights and the file that they came from."""

    path: str
    sha256: str
    weights: ForeignWeights


def read_foreign(path: str | Path) -> SourceFile:
    """The weights in a file, or those of the last step of a run directory.

    Raises:
        InputError: it cannot be read, is damaged or has no weights, or a package is missing.
    """
    file = Path(path)
    if file.is_dir():
        file /= WEIGHTS
        if not file.exists():
            raise InputError(
                f"{path} is a folder without {WEIGHTS}: name the directory of a finished run, or a"
                " file of weights"
            )
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        also = ""
        if file.suffix == ".keras":
            also = "; from Keras: model.save_weights('mine.weights.h5')"
        raise InputError(
            f"{path} is not a known file of weights: name a run directory, or a file that ends in"
            f" {', '.join(READERS)}{also}"
        )
    with open_named(file) as opened:
        content = opened.read()
    try:
        weights = reader(content)
        if not weights.arrays:
            raise ValueError("it has no arrays of floating-point numbers")
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise InputError(
            f"{file} cannot be used as {_kind(file)} ({error or type(error).__name__}): check the"
            " file"
        ) from error
    return SourceFile(str(path), hashlib.sha256(content).hexdigest(), weights)


def _kind(file: Path) -> str:
    return {
        ".h5": "an HDF5 file of weights",
        ".hdf5": "an HDF5 file of weights",
        ".onnx": "an ONNX model",
        ".pt": "a PyTorch state dict",
        ".pth": "a PyTorch state dict",
    }.get(file.suffix.lower(), f"a {file.suffix} file of weights")
