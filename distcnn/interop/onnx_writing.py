"""Networks as ONNX models: raw pixels in, probabilities and logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distcnn.errors import InputError
from distcnn.interop.facts import as_texts
from distcnn.interop.foreign import missing_package
from distcnn.nn import (
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    Identity,
    Layer,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
)

OPSET, IR_VERSION = 17, 8
"""Of 2022: old enough for most runtimes, new enough for all of these layers."""
PIXELS, PROBABILITIES, LOGITS = "pixels", "probabilities", "logits"
FUNCTIONS = {ReLU: "Relu", Sigmoid: "Sigmoid", Tanh: "Tanh", Identity: "Identity"}


def encode_onnx(
    model: Sequential, weights: Mapping[str, Any], facts: Mapping[str, Any], pixel_type: str
) -> bytes:
    """A checked model. Its input ``pixels`` (N, C, H, W) is 0 to 255, of ``pixel_type`` (uint8 or
    float32); its outputs are ``probabilities`` and ``logits`` (N, classes). The facts are metadata.

    Raises:
        InputError: for a layer of the user's own, or without the package onnx.
    """
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise missing_package("writing an ONNX model", "onnx") from error
    graph = _Graph(helper, numpy_helper)
    x = graph.normalise(facts["mean"], facts["std"])
    for name, layer in zip(model.names, model.layers, strict=True):
        x = graph.add(name, layer, x, weights)
    graph.node("Identity", [x], LOGITS)
    graph.node("Softmax", [LOGITS], PROBABILITIES, axis=1)
    kinds = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}
    classes = len(facts["class_names"])
    value = helper.make_tensor_value_info
    outputs = [value(n, kinds["float32"], ["N", classes]) for n in (PROBABILITIES, LOGITS)]
    inputs = [value(PIXELS, kinds[pixel_type], ["N", *facts["image_shape"]])]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "distcnn", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="distcnn",
        producer_version=facts["distcnn"],
    )
    helper.set_model_props(made, as_texts(facts))
    onnx.checker.check_model(made, full_check=True)
    encoded: bytes = made.SerializeToString()
    return encoded


class _Graph:
    """Nodes and constants, added one after the other."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self._helper, self._numpy_helper = helper, numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, **given: Any) -> str:
        self.nodes.append(self._helper.make_node(kind, inputs, [output], name=output, **given))
        return output

    def constant(self, name: str, values: Any) -> str:
        array = np.ascontiguousarray(values, np.float32)
        self.constants.append(self._numpy_helper.from_array(array, name))
        return name

    def normalise(self, mean: Any, std: Any) -> str:
        """(pixel / 255 - mean) / std, as training does it: one product and one difference."""
        means, stds = (np.array(values, np.float64).reshape(1, -1, 1, 1) for values in (mean, std))
        divisor = np.where(stds > 0, stds, 1.0)
        scale = self.constant("normalisation.scale", 1 / (255 * divisor))
        shift = self.constant("normalisation.shift", means / divisor)
        floats = self.node("Cast", [PIXELS], "float_pixels", to=1)
        scaled = self.node("Mul", [floats, scale], "scaled_pixels")
        return self.node("Sub", [scaled, shift], "normalised_pixels")

    def add(self, name: str, layer: Layer, x: str, weights: Mapping[str, Any]) -> str:
        """A layer, whose output is called like it."""
        kind = type(layer)  # a subclass may compute anything
        if kind in (Conv2d, Dense):
            names = [f"{name}.weight", f"{name}.bias"]
            inputs = [x, *(self.constant(each, weights[each]) for each in names)]
            if isinstance(layer, Dense):
                return self.node("Gemm", inputs, name, transB=1)
            return self.node("Conv", inputs, name, **_windows(layer))
        if kind in (MaxPool2d, AvgPool2d):
            pool = "MaxPool" if kind is MaxPool2d else "AveragePool"
            return self.node(pool, [x], name, **_windows(layer))
        if kind is Flatten:
            return self.node("Flatten", [x], name, axis=1)
        if kind in FUNCTIONS:
            return self.node(FUNCTIONS[kind], [x], name)
        raise InputError(
            f"the layer {name} ({kind.__module__}.{kind.__qualname__}) is your own, which ONNX"
            " cannot express: export the weights alone, to .safetensors, .npz or .pt"
        )


def _windows(layer: Any) -> dict[str, list[int]]:
    """ONNX's attributes of a convolution or pooling."""
    given = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride)}
    padding = list(getattr(layer, "padding", (0, 0)))
    return {**given, "pads": [*padding, *padding]}
