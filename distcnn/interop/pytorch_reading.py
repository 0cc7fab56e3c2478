"""PyTorch's state dicts, read without PyTorch: a zip archive of a pickle and of its numbers.

The pickle finds only the names of ``ALLOWED``, so no code of the file is run.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from distcnn.datasets.importers.pickled import NotPlainError, require_harmless
from distcnn.errors import InputError
from distcnn.interop.foreign import BFLOAT16, PYTORCH, ForeignWeights, as_float32, floats, unpacked
from distcnn.system.wording import printable

IN_CHECKPOINTS = ("state_dict", "model_state_dict", "model", "net")
"""Where checkpoints of training programs have the state dict."""
SAVE_IT = "save it in PyTorch with torch.save(model.state_dict(), FILE)"
MOST_TUPLES = 20_000
"""A tensor has four or five; more could be nested so deep that hashing them exhausts the stack."""
MOST_NAME = 80
STORAGES = {
    **{"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"},
    **{"BFloat16Storage": BFLOAT16, "LongStorage": "<i8", "IntStorage": "<i4"},
    **{"ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?"},
}


def read_pytorch(content: bytes) -> ForeignWeights:
    """The state dict in a file, also in a checkpoint that holds more."""
    if not content.startswith(b"PK"):
        raise InputError(f"it is not a file of PyTorch 1.6 or later: {SAVE_IT}")
    # All members are in one folder, which may have any name.
    members = {name.partition("/")[2]: raw for name, raw in unpacked(content).items()}
    if "constants.pkl" in members:
        raise InputError(f"it is a TorchScript program, not a state dict: {SAVE_IT}")
    if members.get("byteorder", b"little") != b"little":
        raise InputError(f"its numbers are big-endian: {SAVE_IT} on another machine")
    try:
        require_harmless(members["data.pkl"], ALLOWED, MOST_TUPLES)
        loaded = _Unpickler(members).load()
    except NotPlainError as error:
        name = printable(str(error))[:MOST_NAME]
        raise InputError(
            f"it holds more than tensors ({name}), and reading it could run code: {SAVE_IT}"
        ) from error
    return ForeignWeights("PyTorch state dict", as_float32(_tensors(loaded)), [PYTORCH])


def _tensors(loaded: Any) -> dict[str, Any]:
    for _ in range(2):
        if not isinstance(loaded, Mapping):
            break
        if found := {str(n): value for n, value in loaded.items() if isinstance(value, np.ndarray)}:
            return found
        loaded = next((loaded[name] for name in IN_CHECKPOINTS if name in loaded), None)
    raise InputError(f"it is not a state dict (names with tensors): {SAVE_IT}")


def _tensor(
    storage: Any, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> Any:
    """What PyTorch does with the same arguments; ``strides`` are in elements."""
    needed = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    within = offset >= 0 and offset + needed <= storage.size and math.prod(shape) <= storage.size
    if not within or min((*shape, *strides), default=1) < 1:
        # Also those without any element, which no layer has.
        raise ValueError(f"a tensor of {shape} numbers is not in its storage of {storage.size}")
    steps = tuple(stride * storage.itemsize for stride in strides)
    return as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


ALLOWED: dict[tuple[str, ...], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, members: Mapping[str, bytes]) -> None:
        super().__init__(io.BytesIO(members["data.pkl"]), encoding="utf-8")
        self._members = members

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise NotPlainError(f"{module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, about: Any) -> Any:
        _, dtype, key, *_ = about
        return floats(self._members[f"data/{key}"], dtype)
