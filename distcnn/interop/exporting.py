"""A run's network as a file for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distcnn.checkpoints.weights import read_weights
from distcnn.errors import InputError
from distcnn.interop.facts import facts_of
from distcnn.interop.npz import encode_npz
from distcnn.interop.onnx_writing import encode_onnx
from distcnn.interop.pytorch import encode_state_dict
from distcnn.interop.safetensors_files import encode_safetensors
from distcnn.loading import load, weights_file
from distcnn.nn import Sequential
from distcnn.system.files import explaining, write_atomically

FORMATS = {
    ".onnx": "ONNX model",
    ".safetensors": "safetensors file",
    ".npz": "NumPy archive",
    ".pt": "PyTorch state dict",
}
"""By suffix."""
PIXEL_TYPES = ("uint8", "float32")


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: the file.
        format: one of the values of ``FORMATS``.
        size_bytes: of the file.
        model: the network.
        weights: float32, by the names of the file, which are those of the run.
        facts: class names, image shape, mean and std, and where the weights come from.
    """

    path: Path
    format: str
    size_bytes: int
    model: Sequential = field(repr=False)
    weights: dict[str, Any] = field(repr=False)
    facts: dict[str, Any] = field(repr=False)

    @property
    def parameters(self) -> int:
        """How many numbers the network has learned."""
        return sum(values.size for values in self.weights.values())


def export(
    run: str | Path,
    path: str | Path,
    *,
    weights: Literal["last", "best"] = "last",
    trust_model: bool = False,
    pixel_type: Literal["uint8", "float32"] = "uint8",
) -> Exported:
    """Write the network of a finished run to ``path``, in the format of its suffix.

    ``.onnx`` holds the whole computation, from raw pixels to probabilities. The others hold the
    weights by name in PyTorch's shapes, and (but for ``.pt``) class names, mean and std.

    Args:
        run: the run directory, or a file of weights in one.
        path: the file to write; one that exists is replaced.
        weights: of the last step, or of the best evaluation.
        trust_model: whether to import the module of the user's that the run names.
        pixel_type: of the input of an ONNX model, 0 to 255 in either.

    Raises:
        InputError: there is no such run, the suffix is unknown, a package is missing, a layer of
            the user's own goes to ONNX, or the file cannot be written.

    Example:
        >>> export("runs/first", "model.onnx").size_bytes
        1727011
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in FORMATS.items())
        raise InputError(f"{path} does not end in the suffix of a format: {known}")
    if pixel_type not in PIXEL_TYPES:
        raise InputError(
            f"pixel_type is {pixel_type!r}: it must be one of {', '.join(PIXEL_TYPES)}"
        )
    network = load(run, weights=weights, trust_model=trust_model)
    file = weights_file(run, weights)
    arrays, about = read_weights(file)
    accuracy = about.get("test_accuracy", 0.0)
    if not isinstance(accuracy, int | float):
        raise InputError(
            f"{file} is damaged (its test_accuracy is {accuracy!r}, not a number): restore it"
        )
    values = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    facts = facts_of(about)
    encoders: dict[str, Callable[[], bytes]] = {
        ".onnx": lambda: encode_onnx(network.model, values, facts, pixel_type),
        ".safetensors": lambda: encode_safetensors(values, facts),
        ".npz": lambda: encode_npz(values, facts),
        ".pt": lambda: encode_state_dict(values),
    }
    content = encoders[suffix]()
    with explaining(
        f"{path} cannot be written", "choose a folder you may write to, with space left"
    ):
        write_atomically(target, content)
    return Exported(target, FORMATS[suffix], len(content), network.model, values, facts)
