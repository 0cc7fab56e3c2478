"""Reading weights from a file of any known format. No code in a file is ever run."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distcnn.checkpoints.weights import WEIGHTS
from distcnn.errors import InputError
from distcnn.interop.foreign import ForeignWeights
from distcnn.interop.hdf5 import read_hdf5, read_keras
from distcnn.interop.npz import read_npz
from distcnn.interop.onnx_reading import read_onnx
from distcnn.interop.pytorch_reading import read_pytorch
from distcnn.interop.safetensors_files import read_safetensors
from distcnn.system.files import explaining, open_named
from distcnn.system.wording import printable

Reader = Callable[[bytes], ForeignWeights]
MOST_REASON = 200
READERS: dict[str, tuple[str, Reader]] = {
    ".h5": ("an HDF5 file of weights", read_hdf5),
    ".hdf5": ("an HDF5 file of weights", read_hdf5),
    ".keras": ("a Keras model", read_keras),
    ".safetensors": ("a safetensors file", read_safetensors),
    ".npz": ("a NumPy archive", read_npz),
    ".onnx": ("an ONNX model", read_onnx),
    ".pt": ("a PyTorch state dict", read_pytorch),
    ".pth": ("a PyTorch state dict", read_pytorch),
}
"""By suffix, the kind of file, and what reads its content, which may be hostile."""


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
    if os.path.isdir(file):  # noqa: PTH112  (Path's raises for a name that is too long)
        file /= WEIGHTS
        with explaining(f"{file} cannot be read", "check the path and its permissions"):
            is_there = file.exists()
        if not is_there:
            raise InputError(
                f"{path} is a folder without {WEIGHTS}: name the directory of a finished run, or a"
                " file of weights"
            )
    if file.suffix.lower() not in READERS:
        what = "is not a known file of weights" if os.path.lexists(file) else "does not exist"
        raise InputError(
            f"{path} {what}: name a run directory, or a file that ends in {', '.join(READERS)}"
        )
    kind, reader = READERS[file.suffix.lower()]
    with open_named(file) as opened:
        content = opened.read()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            weights = reader(content)
        if not weights.arrays:
            raise ValueError("it has no arrays of floating-point numbers")
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except Exception as error:  # libraries raise nearly everything for damaged files
        reason = printable(" ".join(str(error).split()))[:MOST_REASON] or type(error).__name__
        raise InputError(f"{file} cannot be used as {kind} ({reason}): check the file") from error
    return SourceFile(str(path), hashlib.sha256(content).hexdigest(), weights)
