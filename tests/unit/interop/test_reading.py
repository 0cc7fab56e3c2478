"""Weights that other programs wrote, in their layouts, give their outputs here."""

from __future__ import annotations

import io
import json
import random
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
from numpy.lib.stride_tricks import sliding_window_view
from onnx import helper

from distcnn import nn
from distcnn.checkpoints.weights import encode_weights
from distcnn.errors import InputError
from distcnn.interop import fit, read_foreign
from distcnn.interop.npz import encode_npz
from distcnn.interop.pytorch import encode_state_dict
from distcnn.interop.safetensors_files import encode_safetensors
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


def keras_model() -> nn.Sequential:
    """Keras's MNIST example."""
    return nn.Sequential(
        [
            *(nn.Conv2d(32, 3), nn.ReLU(), nn.Conv2d(32, 3), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Dense(128), nn.ReLU(), nn.Dense(10)),
        ]
    )


def keras_values() -> list[Array]:
    """Weights in Keras's shapes."""
    rng = np.random.default_rng(8)
    shapes = [(3, 3, 1, 32), (3, 3, 32, 32), (4608, 128), (128, 10)]
    both = [(shape, shape[-1:]) for shape in shapes]
    return [(rng.standard_normal(s) / 20).astype(np.float32) for pair in both for s in pair]


def keras_logits(images: Array, values: list[Array]) -> Array:
    """What Keras computes, images (N, H, W), channels last."""
    w1, b1, w2, b2, w3, b3, w4, b4 = values

    def conv(x: Array, w: Array, b: Array) -> Array:
        patches = sliding_window_view(x, w.shape[:2], axis=(1, 2))
        return np.maximum(np.einsum("nhwcij,ijco->nhwo", patches, w, optimize=True) + b, 0)

    x = conv(conv(images[..., np.newaxis] / np.float32(255), w1, b1), w2, b2)
    x = x.reshape(-1, 12, 2, 12, 2, 32).max(axis=(2, 4)).reshape(len(images), -1)
    return np.maximum(x @ w3 + b3, 0) @ w4 + b4


LAYERS = ("convolution2d_1", "convolution2d_2", "dense_1", "dense_2")


def keras_1(values: list[Array], **attributes: str) -> bytes:
    """A file as Keras 1 writes it: a group for every layer, named there."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        names = [*LAYERS[:2], "maxpooling2d_1", "flatten_1", *LAYERS[2:]]
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs.update(attributes)
        for name in names:
            group = file.create_group(name)
            kinds = ("W", "b") if name in LAYERS else ()
            group.attrs["weight_names"] = [f"{name}_{kind}".encode() for kind in kinds]
            for kind, array in zip(
                kinds, values[2 * LAYERS.index(name) :] if kinds else (), strict=False
            ):
                group.create_dataset(f"{name}_{kind}", data=array)
    return memory.getvalue()


def keras_2(values: list[Array], whole: bool = True) -> bytes:
    """A whole model as Keras 2 writes it, with the optimizer's state, or its weights alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"  # on disk, HDF5 places texts elsewhere than in memory
        with h5py.File(path, "w") as file:
            model = file.create_group("model_weights") if whole else file
            model.attrs["layer_names"] = [b"conv2d_1", b"conv2d_10", b"dense_1", b"dense_2"]
            file.attrs.update({"backend": b"tensorflow", "keras_version": b"2.2.4"})
            for index, name in enumerate(("conv2d_1", "conv2d_10", "dense_1", "dense_2")):
                group = model.create_group(name)
                paths = [f"{name}/{kind}:0" for kind in ("kernel", "bias")]
                group.attrs["weight_names"] = [path.encode() for path in paths]
                for place, array in zip(paths, values[2 * index :], strict=False):
                    group.create_dataset(place, data=array)
            if whole:
                file.create_dataset("optimizer_weights/iterations", data=np.int64(3))
                file.create_dataset("optimizer_weights/m", data=values[0])
        return path.read_bytes()


def keras_3(values: list[Array]) -> bytes:
    """Weights as Keras 3 writes them: mine.weights.h5."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for index, name in enumerate(("conv2d", "conv2d_1", "dense", "dense_1")):
            for number, array in enumerate(values[2 * index : 2 * index + 2]):
                file.create_dataset(f"layers/{name}/vars/{number}", data=array)
        file.create_dataset("optimizer/vars/0", data=values[0])
    return memory.getvalue()


def keras_zip(weights: bytes) -> bytes:
    """A whole model as Keras 3 writes it: mine.keras."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, content in {"config.json": b"{}", "model.weights.h5": weights}.items():
            archive.writestr(name, content)
    return memory.getvalue()


def theano(values: list[Array]) -> list[Array]:
    """The same network in Theano's ordering: kernels (out, in, height, width), turned around;
    images flattened channels first.
    """
    w1, b1, w2, b2, w3, *others = values
    kernels = [w.transpose(3, 2, 0, 1)[:, :, ::-1, ::-1] for w in (w1, w2)]
    by_channel = w3.reshape(12, 12, 32, 128).transpose(2, 0, 1, 3).reshape(4608, 128)
    return [kernels[0], b1, kernels[1], b2, by_channel, *others]


def npz(values: list[Array]) -> bytes:
    """What ``np.savez(path, *model.get_weights())`` writes."""
    memory = io.BytesIO()
    np.savez(memory, *values)
    return memory.getvalue()


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


# -- what is wrong or hostile


def h5_with(make: Any) -> bytes:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        make(file)
    return memory.getvalue()


def bomb(name: str, size: int) -> bytes:
    memory = io.BytesIO()
    np.savez_compressed(memory, **{name: np.zeros(size, np.float32)})
    return memory.getvalue()


def claimed(shape: str) -> bytes:
    """An npz whose array claims another shape than its file has numbers."""
    array, memory = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros((10, 784), np.float32))
    content = array.getvalue().replace(b"(10, 784)", shape.encode().ljust(9))
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("a.npy", content)
    return memory.getvalue()


def safe(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(64)


TOO_BIG = b'{"a":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,64]}}'
OUTSIDE = b'{"a":{"dtype":"F32","shape":[64],"data_offsets":[0,256]}}'
HOSTILE: Mapping[str, tuple[str, bytes]] = {
    "text": ("a.h5", b"no weights here"),
    "text as npz": ("a.npz", b"no weights here"),
    "text as onnx": ("a.onnx", b"no weights here"),
    "text as safetensors": ("a.safetensors", b"no weights here"),
    "empty": ("a.safetensors", b""),
    "header beyond the file": ("a.safetensors", safe(OUTSIDE, 2**63)),
    "header of 1 GB": ("a.safetensors", safe(OUTSIDE, 10**9)),
    "array beyond the file": ("a.safetensors", safe(OUTSIDE)),
    "shape beyond the file": ("a.safetensors", safe(TOO_BIG)),
    "not JSON": ("a.safetensors", safe(b"{{{{")),
    "npz bomb": ("a.npz", bomb("a", 10**7)),
    "npz shape": ("a.npz", claimed("(9**9,9)")),
    "npz huge shape": ("a.npz", claimed("(10,9999)")),
    "pickled objects": ("a.npz", npz([np.array([{}, None], object)])),
    "numbers that are not finite": ("a.npz", npz([np.full((10, 784), np.nan, np.float32)])),
    "only integers": ("a.npz", npz([np.ones((10, 784), np.int64)])),
    "nothing": ("a.npz", npz([])),
    "external link": (
        "a.h5",
        h5_with(lambda file: file.__setitem__("w", h5py.ExternalLink("/etc/passwd", "x"))),
    ),
    "soft link": ("a.h5", h5_with(lambda file: file.__setitem__("w", h5py.SoftLink("/w")))),
    "compressed": (
        "a.h5",
        h5_with(lambda file: file.create_dataset("w", (10**6, 10), "f4", compression="gzip")),
    ),
    "linked layer": (
        "a.h5",
        h5_with(
            lambda file: (
                file.attrs.__setitem__("layer_names", [b"a"]),
                file.__setitem__("a", h5py.ExternalLink("/etc/passwd", "x")),
            )
        ),
    ),
    "missing layer": (
        "a.h5",
        h5_with(lambda file: file.attrs.__setitem__("layer_names", [b"../a"])),
    ),
    "unknown suffix": ("a.txt", b"no weights here"),
    "text as keras": ("a.keras", b"no weights here"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_read_is_one_line(case: str, tmp_path: Path) -> None:
    name, content = HOSTILE[case]
    path = written(tmp_path / name, content)
    with pytest.raises(InputError, match=name) as caught:
        read_foreign(path)
    assert len(str(caught.value).splitlines()) == 1


def damaged(content: bytes, rng: random.Random) -> bytes:
    """``content`` cut, with bits flipped, or with a huge number somewhere."""
    made, place = bytearray(content), rng.randrange(len(content))
    match rng.randrange(3):
        case 0:
            del made[place:]
        case 1:
            for _ in range(rng.randrange(1, 8)):
                made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
        case 2:
            made[place : place + 8] = rng.choice([2**60, 2**63, 2**32 - 1]).to_bytes(8, "little")
    return bytes(made)


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".npz", ".safetensors", ".onnx", ".pt"])
def test_damaged_files_are_read_or_one_line(suffix: str, tmp_path: Path) -> None:
    model = nn.Sequential([nn.Conv2d(2, 5), nn.Flatten(), nn.Dense(10)])
    values = {name: array[..., :4] for name, array in values_for(model).items()}
    facts = {"class_names": ["a", "b"], "mean": [0.1], "std": [0.3], "distcnn": "0"}
    if suffix == ".pt":
        torch_or_skip()
    content = {
        ".h5": lambda: encode_weights(values, {"class_names": ["a", "b"], "mean": [0.1]}),
        ".keras": lambda: keras_zip(keras_3(list(values.values()))),
        ".npz": lambda: encode_npz(values, facts),
        ".safetensors": lambda: encode_safetensors(values, facts),
        ".onnx": lambda: mnist_8(list(values_for(mnist_8_model()).values())).SerializeToString(),
        ".pt": lambda: encode_state_dict(values),
    }[suffix]()
    rng, refusals = random.Random(1), list[str]()
    for _ in range(200):
        path = written(tmp_path / f"a{suffix}", damaged(content, rng))
        try:
            weights = read_foreign(path).weights
        except InputError as error:
            refusals.append(str(error))
        else:
            assert all(np.isfinite(array).all() for array in weights.arrays.values())
    assert refusals
    assert all(len(text.splitlines()) == 1 for text in refusals)


def external_data() -> bytes:
    model = mnist_8(list(values_for(mnist_8_model()).values()))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return model.SerializeToString()


def test_data_outside_an_onnx_model_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Parameter5 in another file"):
        read_foreign(written(tmp_path / "a.onnx", external_data()))


class Harmful:
    """Would run when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_no_code_in_a_pytorch_file_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = torch_or_skip()
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    huge = torch.zeros(1).expand(10**12)
    cases = {
        "harmful": {"a": Harmful()},
        "module": net,
        "list": [torch.ones(2)],
        "huge": {"a": huge},
    }
    for name, item in cases.items():
        torch.save(item, tmp_path / f"{name}.pt")
        with pytest.raises(InputError, match=rf"{name}\.pt.*(state.dict|storage)"):
            read_foreign(tmp_path / f"{name}.pt")
    written(tmp_path / "text.pt", b"no weights here")
    with pytest.raises(InputError, match=r"text\.pt"):
        read_foreign(tmp_path / "text.pt")
    assert capsys.readouterr().out == ""


def test_a_torchscript_program_is_told_apart(tmp_path: Path) -> None:
    torch = torch_or_skip()
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"")
    assert torch
    with pytest.raises(InputError, match="TorchScript"):
        read_foreign(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["none.npz", "folder", "folder/none.onnx", "a" * 300 + ".npz"])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=name):
        read_foreign(tmp_path / name)


def test_a_run_is_read_from_its_directory(short_run: Path, tmp_path: Path) -> None:
    model = MODELS["tutorial"](MNIST, 10)
    of_directory = loaded(short_run, model)
    of_file = loaded(short_run / "weights.h5", model)
    assert of_directory.keys() == of_file.keys()
    source = read_foreign(short_run).weights
    again = written(tmp_path / "w.h5", encode_weights(of_file, {}))
    assert loaded(again, model)["conv1.weight"].tobytes() == source.arrays["conv1.weight"].tobytes()
