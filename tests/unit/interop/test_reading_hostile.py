"""Weights that are damaged or made to do harm: one line, and no code runs."""

from __future__ import annotations

import io
import random
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from distcnn import nn
from distcnn.checkpoints.weights import encode_weights
from distcnn.errors import InputError
from distcnn.interop import read_foreign
from distcnn.interop.npz import encode_npz
from distcnn.interop.pytorch import encode_state_dict
from distcnn.interop.safetensors_files import encode_safetensors
from tests.support.interop_fixtures import mnist_8, mnist_8_model, values_for
from tests.support.keras_files import keras_3, keras_zip, npz

torch_or_skip = lambda: pytest.importorskip("torch", reason="PyTorch is not installed")  # noqa: E731


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


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


def tiny_heaps(size: int) -> bytes:
    """Of HDF5, one after the other, each empty."""
    return (b"GCOL\x01\0\0\0" + (16).to_bytes(8, "little")) * (size // 16)


def nested_heaps(size: int) -> bytes:
    """Each is the only text of the one before, and all end at the file's end."""
    heaps = bytearray()
    while (rest := size - len(heaps)) >= 48:
        text = (1).to_bytes(8, "little") + (16).to_bytes(8, "little")
        heaps += b"GCOL\x01\0\0\0" + rest.to_bytes(8, "little") + text
    return bytes(heaps + bytes(rest))


@pytest.mark.parametrize("heaps", [tiny_heaps, nested_heaps])
def test_many_heaps_of_texts_take_no_time(heaps: Any, tmp_path: Path) -> None:
    content = h5_with(lambda file: file.create_dataset("w", data=np.ones((3, 3), np.float32)))
    path = written(tmp_path / "a.h5", content + heaps(2_000_000))
    start = time.process_time()
    with suppress(InputError):
        read_foreign(path)
    assert time.process_time() - start < 5


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
