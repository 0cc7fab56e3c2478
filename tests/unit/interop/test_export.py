"""Exported networks compute in other programs what they compute here."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.numpy
from onnx.reference import ReferenceEvaluator

import distcnn as dc
from distcnn import nn
from distcnn.export import main
from distcnn.interop import export, read_foreign
from distcnn.interop.onnx_writing import encode_onnx
from distcnn.interop.pytorch import encode_state_dict, module_lines
from distcnn.models import MODELS
from tests.support.interop_fixtures import MNIST, network_of, some_images, values_for

FACTS = {
    "class_names": [f"class {index}" for index in range(10)],
    "image_shape": MNIST,
    "mean": [0.13],
    "std": [0.31],
    "distcnn": "0",
}
# Together they have every layer, activation, and kind of window.
EVERY_LAYER = {
    **{name: make(MNIST, 10) for name, make in MODELS.items()},
    "windows": nn.Sequential(
        [
            *(nn.Conv2d(4, (5, 3), stride=(2, 1), padding=(1, 2)), nn.Sigmoid()),
            *(nn.MaxPool2d(3, 2), nn.Tanh(), nn.AvgPool2d((2, 3), (1, 2)), nn.Identity()),
            *(nn.Flatten(), nn.Dense(10), nn.Identity()),
        ]
    ),
    "dense": nn.Sequential([nn.Flatten(), nn.Flatten(), nn.Dense(10)]),
}
every_layer = pytest.mark.parametrize("name", EVERY_LAYER)


class Own(nn.ReLU):
    """A user's own layer."""


def run_onnx(content: bytes, pixels: Any) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(content)
    probabilities, logits = session.run(["probabilities", "logits"], {"pixels": pixels})
    return probabilities, logits


@pytest.mark.parametrize("pixel_type", ["uint8", "float32"])
@every_layer
def test_onnxruntime_computes_the_same(name: str, pixel_type: str) -> None:
    model, images = EVERY_LAYER[name], some_images()
    weights = values_for(model)
    content = encode_onnx(model, weights, FACTS, pixel_type)
    network = network_of(model, weights, 0.13, 0.31)
    probabilities, logits = run_onnx(content, images[:, np.newaxis].astype(pixel_type))
    np.testing.assert_allclose(logits, network.logits(images), atol=1e-4)
    np.testing.assert_allclose(probabilities, network.predict(images), atol=1e-5)
    assert run_onnx(content, images[:1, np.newaxis].astype(pixel_type))[0].shape == (1, 10)


@every_layer
def test_onnxs_reference_computes_the_same(name: str) -> None:
    model, images = EVERY_LAYER[name], some_images(2)
    weights = values_for(model)
    evaluator = ReferenceEvaluator(encode_onnx(model, weights, FACTS, "uint8"))
    _, logits = evaluator.run(None, {"pixels": images[:, np.newaxis]})
    expected = network_of(model, weights, 0.13, 0.31).logits(images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_colours_are_normalised_by_channel() -> None:
    model = nn.Sequential([nn.Conv2d(4, 3), nn.Flatten(), nn.Dense(10)])
    shape, mean, std = (3, 8, 9), [0.5, 0.4, 0.3], [0.2, 0.1, 1.0]
    weights, images = values_for(model, shape), some_images(3, (8, 9, 3))
    facts = {**FACTS, "image_shape": shape, "mean": mean, "std": std}
    network = dc.Network(
        model, weights, image_shape=shape, mean=mean, std=std, class_names=FACTS["class_names"]
    )
    content = encode_onnx(model, weights, facts, "uint8")
    _, logits = run_onnx(content, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, network.logits(images), atol=1e-4)


@every_layer
def test_the_printed_module_computes_the_same_in_pytorch(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model, images = EVERY_LAYER[name], some_images()
    weights, file = values_for(model), tmp_path / "weights.pt"
    file.write_bytes(encode_state_dict(weights))
    scope: dict[str, Any] = {}
    exec("\n".join(["import collections, torch", *module_lines(model, MNIST)]), scope)
    module = scope["model"]
    module.load_state_dict(torch.load(file, weights_only=True))
    x = (images.astype(np.float32)[:, np.newaxis] / 255 - np.float32(0.13)) / np.float32(0.31)
    with torch.no_grad():
        logits = module(torch.from_numpy(x)).numpy()
    expected = network_of(model, weights, 0.13, 0.31).logits(images)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".npz", ".pt"])
def test_what_is_written_is_read_again(suffix: str, short_run: Path, tmp_path: Path) -> None:
    if suffix == ".pt":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / f"weights{suffix}"
    exported = export(short_run, path, weights="best")
    assert exported.size_bytes == path.stat().st_size
    source = read_foreign(path).weights
    assert source.arrays.keys() == exported.weights.keys()
    for name, values in exported.weights.items():
        assert source.arrays[name].tobytes() == values.tobytes()
    if suffix != ".pt":  # which holds nothing but tensors
        network = dc.load(short_run)
        assert source.class_names == network.class_names
        assert source.normalisation is not None
        assert source.normalisation.mean == network.mean


def test_class_names_and_facts_are_metadata(short_run: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "a.safetensors", "a.npz"):
        export(short_run, tmp_path / name)
    sha256 = json.loads((short_run / "result.json").read_text())["params_sha256"]
    of_onnx = {each.key: each.value for each in onnx.load(tmp_path / "a.onnx").metadata_props}
    with safetensors.safe_open(tmp_path / "a.safetensors", "np") as file:
        of_safetensors = file.metadata()
    assert of_safetensors == {"format": "pt", **of_onnx}
    assert json.loads(of_onnx["class_names"]) == list(dc.load(short_run).class_names)
    with np.load(tmp_path / "a.npz") as archive:
        assert str(archive["params_sha256"]) == sha256 == of_onnx["params_sha256"]
        assert archive["class_names"].tolist() == json.loads(of_onnx["class_names"])


def test_a_layer_of_ones_own_is_refused_by_onnx_alone() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Dense(10), Own()])
    with pytest.raises(dc.InputError, match=r"own1 .*Own.*safetensors"):
        encode_onnx(model, values_for(model), FACTS, "uint8")


def test_the_command_says_what_it_wrote(
    short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    assert main([str(short_run), str(path), "--pixel-type", "float32"]) == 0
    text = capsys.readouterr().out
    for words in (str(path), "13,610 parameters", "float32 (N, 1, 28, 28)", "(N, 10)", "classes"):
        assert words in text, text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}", "{tmp}/model.tflite"], ["model.tflite", ".onnx", ".safetensors"]),
        (["{tmp}/none", "{tmp}/a.onnx"], ["{tmp}/none"]),
        (["{run}/result.json", "{tmp}/a.onnx"], ["result.json"]),
        (["{run}", "{tmp}/no/folder/a.onnx"], ["no/folder/a.onnx", "cannot be written"]),
        (["{run}", "{tmp}/a.onnx", "--weights", "first"], ["first", "best"]),
        (["{run}", "{tmp}/a.onnx", "--format", "onnx"], ["--format"]),
        (["{run}"], ["FILE"]),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: list[str],
    short_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"run": short_run, "tmp": tmp_path}
    assert main([argument.format(**places) for argument in arguments]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert len(streams.err.splitlines()) == 1
    for word in words:
        assert word.format(**places) in streams.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("test_accuracy", "x"), ("test_accuracy", [1, 2]), ("mean", [np.nan])]
)
def test_a_damaged_fact_is_one_line_and_nothing_is_written(
    name: str, value: object, short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.h5"
    shutil.copy(short_run / "weights.h5", path)
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
    assert main([str(path), str(tmp_path / "a.onnx")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert str(path) in told
    assert name in told
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_export_leaves_the_file_as_it_was(
    short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"before")
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(dc.InputError, match="cannot be written"):
        export(short_run, path)
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("package", "name"),
    [("onnx", "a.onnx"), ("safetensors.numpy", "a.safetensors"), ("torch", "a.pt")],
)
def test_a_missing_package_is_named(
    package: str, name: str, short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(dc.InputError, match=f"pip install {package.partition('.')[0]}"):
        export(short_run, tmp_path / name)


def test_what_export_returns_is_shown_without_the_weights(short_run: Path, tmp_path: Path) -> None:
    shown = repr(export(short_run, tmp_path / "x.npz"))
    assert "x.npz" in shown
    assert "array" not in shown
    assert "\n" not in shown
