"""Weights from ONNX models: those of Conv, Gemm and MatMul nodes, in the order of the graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError
from distcnn.interop.facts import described, from_texts
from distcnn.interop.foreign import CHANNELS_LAST, ForeignWeights, as_float32, missing_package

TO_CHANNELS_LAST = [0, 2, 3, 1]
"""The transposition before the dense layers of a network that came from TensorFlow."""


def read_onnx(content: bytes) -> ForeignWeights:
    """The weights in a model of one file."""
    onnx = _library()
    model = onnx.load_model_from_string(content)
    reader = _Reader(onnx, model.graph)
    for node in model.graph.node:
        reader.read(node)
    facts = from_texts({each.key: each.value for each in model.metadata_props})
    weights = described("ONNX model", as_float32(reader.weights), facts)
    return replace(weights, layouts=[CHANNELS_LAST]) if reader.channels_last else weights


class _Reader:
    """Goes through a graph's nodes, which are in order of computation, and collects ``weights``."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self._onnx = onnx
        self.weights: dict[str, NDArray[Any]] = {}
        """PyTorch's shapes, by the names in the graph."""
        self.channels_last = False
        """Whether images are flattened in the order (H, W, C)."""
        self._constants = {tensor.name: self._array(tensor) for tensor in graph.initializer}
        self._needs_bias: dict[str, str] = {}
        """Outputs of layers without a bias so far, and the names of their weights."""

    def read(self, node: Any) -> None:
        given = {each.name: self._onnx.helper.get_attribute_value(each) for each in node.attribute}
        constants = [self._constants.get(name) for name in node.input]
        weighty = any(v is not None and v.dtype.kind == "f" and v.size > 1 for v in constants)
        match node.op_type:
            case "Constant" if "value" in given:
                self._constants[node.output[0]] = self._array(given["value"])
            case "Identity" | "Reshape" | "Transpose" | "Cast" if constants[0] is not None:
                self._constants[node.output[0]] = self._moved(node.op_type, constants, given)
            case "Transpose":
                in_dense = any(values.ndim == 2 for values in self.weights.values())
                self.channels_last |= given.get("perm") == TO_CHANNELS_LAST and not in_dense
            case "Conv" if constants[1] is not None:
                self._add(node, constants[1])
            case "Gemm" if constants[1] is not None and not given.get("transA"):
                weight = constants[1] if given.get("transB") else constants[1].T
                self._add(node, weight * given.get("alpha", 1.0), given.get("beta", 1.0))
            case "MatMul" if constants[1] is not None and constants[1].ndim == 2:
                self._add(node, constants[1].T)
            case "Add" if weighty:
                self._add_bias(node, constants)
            case name if weighty and self.weights:
                raise InputError(
                    f"its layer {name} has parameters that distcnn's networks lack: export the"
                    " model without it (batch normalisation is folded into convolutions by"
                    " onnxsim)"
                )

    def _add(self, node: Any, weight: NDArray[Any], factor: float = 1.0) -> None:
        self.weights[node.input[1]] = weight
        if len(node.input) > 2 and node.input[2]:
            self.weights[node.input[2]] = self._constants[node.input[2]] * factor
        else:
            self._needs_bias[node.output[0]] = node.input[1]

    def _add_bias(self, node: Any, constants: list[NDArray[Any] | None]) -> None:
        """The bias of a layer that had none; other sums, as of normalised pixels, are skipped."""
        for before, name, values in zip(reversed(node.input), node.input, constants, strict=True):
            if values is not None and self._needs_bias.pop(before, ""):
                self.weights[name] = values

    def _moved(
        self, kind: str, constants: list[NDArray[Any] | None], given: dict[str, Any]
    ) -> NDArray[Any]:
        """What a node makes of a constant, as CNTK reshapes its weights in the graph."""
        values = constants[0]
        assert values is not None
        if kind == "Reshape" and len(constants) > 1 and constants[1] is not None:
            return values.reshape(constants[1].tolist())
        return values.transpose(given.get("perm")) if kind == "Transpose" else values

    def _array(self, tensor: Any) -> NDArray[Any]:
        if tensor.data_location == self._onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise InputError(
                f"it keeps {tensor.name} in another file: save the model as a single file"
            )
        values: NDArray[Any] = np.asarray(self._onnx.numpy_helper.to_array(tensor))
        return values


def _library() -> Any:
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise missing_package("reading an ONNX model", "onnx") from error
    return onnx
