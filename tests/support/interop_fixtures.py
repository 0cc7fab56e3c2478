"""What tests of other programs' formats share: a short run, and networks in other layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

import distcnn as dc
from distcnn import nn
from tests.conftest import MakeImageSet

Array = NDArray[Any]
MNIST = (1, 28, 28)


@pytest.fixture(scope="session")
def short_run(image_set: MakeImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tutorial network on ten classes. Do not change it."""
    path = tmp_path_factory.mktemp("short") / "run"
    dc.Trainer("tutorial", num_shards=4, microbatch_size=8).fit(image_set(), epochs=1, output=path)
    return path


def values_for(model: nn.Sequential, shape: tuple[int, int, int] = MNIST) -> dict[str, Array]:
    """Random values for every parameter, biases too."""
    rng = np.random.default_rng(5)
    parameters = model.initialise(shape, rng).named()
    return {
        name: values if values.ndim > 1 else rng.standard_normal(values.shape).astype(np.float32)
        for name, values in parameters.items()
    }


def network_of(
    model: nn.Sequential, weights: dict[str, Array], mean: float = 0.0, std: float = 1.0
) -> dc.Network:
    """A network for MNIST's images."""
    names = tuple("0123456789")
    return dc.Network(model, weights, image_shape=MNIST, mean=[mean], std=[std], class_names=names)


def some_images(count: int = 5, shape: tuple[int, ...] = (28, 28)) -> NDArray[np.uint8]:
    return np.random.default_rng(6).integers(0, 256, (count, *shape), np.uint8)


def mnist_8_model() -> nn.Sequential:
    """The network of the ONNX model zoo's mnist-8, in distcnn."""
    return nn.Sequential(
        [
            *(nn.Conv2d(8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3)),
            *(nn.Flatten(), nn.Dense(10)),
        ]
    )


def mnist_8(values: Sequence[Array]) -> onnx.ModelProto:
    """A model as CNTK wrote the zoo's mnist-8: biases are added, the dense weight is reshaped."""
    w1, b1, w2, b2, w3, b3 = values
    constants = {
        "Parameter5": w1,
        "Parameter6": b1.reshape(8, 1, 1),
        "Parameter87": w2,
        "Parameter88": b2.reshape(16, 1, 1),
        "Parameter193": w3.T.reshape(16, 4, 4, 10),
        "Parameter193_reshape1_shape": np.array([256, 10]),
        "Pooling160_Output_0_reshape0_shape": np.array([1, 256]),
        "Parameter194": b3.reshape(1, 10),
    }
    node = helper.make_node
    same = {"auto_pad": "SAME_UPPER", "kernel_shape": [5, 5], "strides": [1, 1]}
    reshaped = "Parameter193_reshape1"
    nodes = [
        node("Reshape", ["Parameter193", f"{reshaped}_shape"], [reshaped]),
        node("Conv", ["Input3", "Parameter5"], ["Convolution28"], dilations=[1, 1], **same),
        node("Add", ["Convolution28", "Parameter6"], ["Plus30"]),
        node("Relu", ["Plus30"], ["ReLU32"]),
        node("MaxPool", ["ReLU32"], ["Pooling66"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["Pooling66", "Parameter87"], ["Convolution110"], **same),
        node("Add", ["Convolution110", "Parameter88"], ["Plus112"]),
        node("Relu", ["Plus112"], ["ReLU114"]),
        node("MaxPool", ["ReLU114"], ["Pooling160"], kernel_shape=[3, 3], strides=[3, 3]),
        node("Reshape", ["Pooling160", "Pooling160_Output_0_reshape0_shape"], ["flat"]),
        node("MatMul", ["flat", reshaped], ["Times212"]),
        node("Add", ["Times212", "Parameter194"], ["Plus214"]),
    ]
    return onnx_model(nodes, constants, [1, 1, 28, 28], "Input3", "Plus214")


def onnx_model(
    nodes: list[Any], constants: dict[str, Array], shape: list[Any], given: str, made: str
) -> onnx.ModelProto:
    """A model from float32 ``given`` of ``shape`` to ``made`` (N, 10)."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [value(given, onnx.TensorProto.FLOAT, shape)],
        [value(made, onnx.TensorProto.FLOAT, [shape[0], 10])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
