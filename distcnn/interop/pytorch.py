"""PyTorch's state dicts, written and read by PyTorch itself, and networks as PyTorch modules."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from distcnn.errors import InputError
from distcnn.interop.foreign import (
    PYTORCH,
    ForeignWeights,
    as_float32,
    check_archive,
    missing_package,
)
from distcnn.nn import AvgPool2d, Conv2d, Dense, Layer, MaxPool2d, Sequential
from distcnn.nn.layer import Shape, shown

IN_CHECKPOINTS = ("state_dict", "model_state_dict", "model", "net")
"""Where checkpoints of training programs have the state dict."""
SAVE_IT = "save it with torch.save(model.state_dict(), FILE)"


def encode_state_dict(weights: Mapping[str, Any]) -> bytes:
    """A state dict as ``torch.save`` writes it."""
    torch = _torch("writing a .pt file")
    memory = io.BytesIO()
    torch.save({name: torch.tensor(values) for name, values in weights.items()}, memory)
    return memory.getvalue()


def read_pytorch(content: bytes) -> ForeignWeights:
    """The state dict in a file; ``ValueError`` where reading it would run code, or for damage."""
    torch = _torch("reading a .pt file")
    if content.startswith(b"PK"):
        try:
            names = check_archive(content)
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from error
        if any(name.endswith("/constants.pkl") for name in names):
            raise InputError(f"it is a TorchScript program, not a state dict: {SAVE_IT}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError) as error:
        what = re.split(r"\.\s", str(error))[0]
        if isinstance(error, pickle.UnpicklingError) and "weights" in what.lower():
            what = "it holds more than tensors, and reading it would run code"
        raise ValueError(f"{what}; {SAVE_IT}") from error
    tensors = _tensors(loaded, torch)
    for name, tensor in tensors.items():
        if tensor.numel() > len(content):
            raise ValueError(f"{name} claims {tensor.numel():,} numbers, more than the file has")
    arrays = {
        name: tensor.to(torch.float32).numpy() if tensor.is_floating_point() else np.zeros(0)
        for name, tensor in tensors.items()
    }
    return ForeignWeights("PyTorch state dict", as_float32(arrays), [PYTORCH])


def _tensors(loaded: Any, torch: Any) -> dict[str, Any]:
    """The plain tensors by name, also those of a checkpoint that holds more."""
    for _ in range(2):
        if not isinstance(loaded, Mapping):
            break
        found = {
            str(name): value.detach()
            for name, value in loaded.items()
            if isinstance(value, torch.Tensor) and value.layout == torch.strided
        }
        if found:
            return found
        loaded = next((loaded[name] for name in IN_CHECKPOINTS if name in loaded), None)
    raise ValueError(f"it is not a state dict (names with tensors): {SAVE_IT}")


def module_lines(model: Sequential, input_shape: Shape) -> list[str]:
    """Python that makes ``model`` in PyTorch, with our names of layers and parameters."""
    shapes = model.shapes(input_shape)
    layers = [
        f"    {name}={_module(layer, shape)},"
        for name, layer, shape in zip(model.names, model.layers, shapes[:-1], strict=True)
    ]
    return ["model = torch.nn.Sequential(collections.OrderedDict(", *layers, "))"]


def _module(layer: Layer, input_shape: Shape) -> str:
    match layer:
        case Conv2d():
            given = f"{input_shape[0]}, {layer.out_channels}, {shown(layer.kernel_size)}"
            stride = f", stride={shown(layer.stride)}" if layer.stride != (1, 1) else ""
            padding = f", padding={shown(layer.padding)}" if layer.padding != (0, 0) else ""
            return f"torch.nn.Conv2d({given}{stride}{padding})"
        case MaxPool2d() | AvgPool2d():
            given = f"{shown(layer.kernel_size)}, {shown(layer.stride)}"
            return f"torch.nn.{type(layer).__name__}({given})"
        case Dense():
            return f"torch.nn.Linear({input_shape[0]}, {layer.out_features})"
    return f"torch.nn.{type(layer).__name__}()"


def _torch(what: str) -> Any:
    try:
        import torch
    except ImportError as error:
        instead = ", or use .safetensors, which PyTorch programs read too"
        raise missing_package(what, "torch", instead) from error
    return torch
