"""PyTorch's state dicts, written by PyTorch itself, and networks as PyTorch modules."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from distcnn.interop.foreign import missing_package
from distcnn.nn import AvgPool2d, Conv2d, Dense, Layer, MaxPool2d, Sequential
from distcnn.nn.layer import Shape, shown


def encode_state_dict(weights: Mapping[str, Any]) -> bytes:
    """A state dict as ``torch.save`` writes it."""
    try:
        import torch
    except ImportError as error:
        instead = ", or use .safetensors, which PyTorch programs read too"
        raise missing_package("writing a .pt file", "torch", instead) from error
    memory = io.BytesIO()
    torch.save({name: torch.tensor(values) for name, values in weights.items()}, memory)
    return memory.getvalue()


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
