"""Weights of Keras's MNIST example, in the files that Keras's versions write."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from distcnn import nn
from tests.support.interop_fixtures import Array


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
