"""Weights that other programs wrote, in their layouts, give their outputs here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
from onnx import helper

from distcnn import nn
from distcnn.checkpoints.weights import encode_weights
from distcnn.errors import InputError
from distcnn.interop import fit, read_foreign
from distcnn.models import MODELS
from tests.support.interop_fixtures import (
    MNIST,
    Array,
    mnist_8,
    mnist_8_model,
    network_of,
    onnx_model,
    some_images,
    values_for,
)
from tests.support.keras_files import (
    keras_1,
    keras_2,
    keras_3,
    keras_logits,
    keras_model,
    keras_values,
    keras_zip,
    npz,
    theano,
)

torch_or_skip = lambda: pytest.importorskip("torch", reason="PyTorch is not installed")  # noqa: E731
PLAIN = some_images()


def loaded(path: Path, model: nn.Sequential, mapping: str = "") -> dict[str, Array]:
    return fit(read_foreign(path).weights, model, MNIST, mapping, str(path)).arrays


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# -- the ONNX zoo's mnist-8


def test_the_zoos_mnist_8_computes_the_same(tmp_path: Path) -> None:
    model = mnist_8_model()
    content = mnist_8(list(values_for(model).values())).SerializeToString()
    path = written(tmp_path / "mnist-8.onnx", content)
    session = onnxruntime.InferenceSession(path)
    images = PLAIN[:, np.newaxis].astype(np.float32)  # pixels of 0 to 255
    expected = [session.run(None, {"Input3": images[n : n + 1]})[0][0] for n in range(len(images))]
    network = network_of(model, loaded(path, model), 0, 1 / 255)
    np.testing.assert_allclose(network.logits(PLAIN), expected, rtol=1e-4, atol=1e-2)


def test_a_network_from_tensorflow_flattens_channels_last(tmp_path: Path) -> None:
    model = nn.Sequential([nn.Conv2d(3, 5), nn.ReLU(), nn.Flatten(), nn.Dense(10)])
    w1, b1, w2, b2 = values_for(model).values()
    by_place = w2.reshape(10, 3, 24, 24).transpose(0, 2, 3, 1).reshape(10, -1).T
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "kernel", "bias"], ["a"], kernel_shape=[5, 5]),
        node("Relu", ["a"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        node("Flatten", ["c"], ["d"]),
        node("MatMul", ["d", "dense"], ["e"]),
        node("Add", ["e", "offset"], ["y"]),
    ]
    constants = {"kernel": w1, "bias": b1, "dense": by_place, "offset": b2}
    content = onnx_model(nodes, constants, ["N", *MNIST], "x", "y").SerializeToString()
    images = PLAIN[:, np.newaxis].astype(np.float32) / 255
    [expected] = onnxruntime.InferenceSession(content).run(None, {"x": images})
    arrays = loaded(written(tmp_path / "tf.onnx", content), model)
    np.testing.assert_allclose(network_of(model, arrays).logits(PLAIN), expected, atol=1e-4)


def test_parameters_of_other_onnx_layers_are_refused(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "kernel"], ["a"]),
        node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["y"]),
    ]
    constants = {name: np.ones(3, np.float32) for name in ("scale", "shift", "mean", "var")}
    constants["kernel"] = np.ones((3, 1, 5, 5), np.float32)
    content = onnx_model(nodes, constants, ["N", *MNIST], "x", "y").SerializeToString()
    with pytest.raises(InputError, match="BatchNormalization"):
        read_foreign(written(tmp_path / "bn.onnx", content))


# -- PyTorch


def pytorch_example() -> Any:
    """The network of PyTorch's MNIST example."""
    torch = torch_or_skip()

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(1, 32, 3, 1)
            self.conv2 = torch.nn.Conv2d(32, 64, 3, 1)
            self.fc1 = torch.nn.Linear(9216, 128)
            self.fc2 = torch.nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
            x = torch.flatten(torch.max_pool2d(x, 2), 1)
            return torch.log_softmax(self.fc2(torch.relu(self.fc1(x))), 1)

    return Net().eval()


@pytest.mark.parametrize("kind", ["pt", "pth", "checkpoint", "safetensors", "npz"])
def test_pytorchs_mnist_example_computes_the_same(kind: str, tmp_path: Path) -> None:
    torch = torch_or_skip()
    net, suffix = pytorch_example(), {"checkpoint": "pt"}.get(kind, kind)
    state, path = net.state_dict(), tmp_path / f"mnist_cnn.{suffix}"
    arrays = {name: values.numpy() for name, values in state.items()}
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "safetensors":
        safetensors.numpy.save_file(arrays, path)  # which sorts the names
    else:
        torch.save({"epoch": 3, "state_dict": state} if kind == "checkpoint" else state, path)
    model = MODELS["wide"](MNIST, 10)
    network = network_of(model, loaded(path, model), 0.1307, 0.3081)
    x = (PLAIN[:, np.newaxis].astype(np.float32) / 255 - 0.1307) / 0.3081
    with torch.no_grad():
        expected = net(torch.from_numpy(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(np.log(network.predict(PLAIN)), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats_become_float32(dtype: str, tmp_path: Path) -> None:
    torch = torch_or_skip()
    weight = torch.arange(7840.0).reshape(10, 784) / 8192
    state = {"0.weight": weight, "0.bias": torch.ones(10), "0.count": torch.tensor([3])}
    torch.save(
        {n: v.to(getattr(torch, dtype)) if v.ndim == 2 else v for n, v in state.items()},
        tmp_path / "a.pt",
    )
    model = nn.Sequential([nn.Flatten(), nn.Dense(10)])
    values = loaded(tmp_path / "a.pt", model)["dense1.weight"]
    np.testing.assert_allclose(values, weight.numpy(), rtol=1e-2)
    assert values.dtype == np.float32


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_safetensors_of_other_floats_become_float32(dtype: str, tmp_path: Path) -> None:
    values = np.array([[1.5, -0.25], [3.0, 2.0**-9]], np.float32)  # exact in all of them
    raw = {
        "F16": values.astype("<f2").tobytes(),
        "BF16": (values.view("<u4") >> 16).astype("<u2").tobytes(),
        "F64": values.astype("<f8").tobytes(),
    }[dtype]
    header = json.dumps({"w": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, len(raw)]}})
    content = len(header).to_bytes(8, "little") + header.encode() + raw
    arrays = read_foreign(written(tmp_path / "a.safetensors", content)).weights.arrays
    assert np.array_equal(arrays["w"], values)


# -- Keras


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (keras_1(keras_values()), ".h5"),
        (keras_1(theano(keras_values()), backend="theano"), ".h5"),
        (keras_2(keras_values()), ".hdf5"),
        (keras_2(keras_values(), whole=False), ".h5"),
        (keras_3(keras_values()), ".weights.h5"),
        (keras_zip(keras_3(keras_values())), ".keras"),
        (npz(keras_values()), ".npz"),
    ],
    ids=[
        *["Keras 1", "Keras 1, Theano", "Keras 2's model", "Keras 2"],
        *["Keras 3", "Keras 3's model", "get_weights"],
    ],
)
def test_kerass_mnist_example_computes_the_same(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    model = keras_model()
    arrays = loaded(written(tmp_path / f"mnist{suffix}", content), model)
    expected = keras_logits(PLAIN, keras_values())
    np.testing.assert_allclose(network_of(model, arrays).logits(PLAIN), expected, atol=1e-4)


def test_a_file_that_may_be_theanos_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", keras_1(keras_values()))
    assert any("Theano" in line for line in read_foreign(path).weights.remarks)


def test_a_run_is_read_from_its_directory(short_run: Path, tmp_path: Path) -> None:
    model = MODELS["tutorial"](MNIST, 10)
    of_directory = loaded(short_run, model)
    of_file = loaded(short_run / "weights.h5", model)
    assert of_directory.keys() == of_file.keys()
    source = read_foreign(short_run).weights
    again = written(tmp_path / "w.h5", encode_weights(of_file, {}))
    assert loaded(again, model)["conv1.weight"].tobytes() == source.arrays["conv1.weight"].tobytes()
