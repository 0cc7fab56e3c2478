"""A portable run with every kind of part, and what evaluates it, under another BLAS kernel and
without NumPy's dispatched instructions.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, SERIAL, MakeImageSet, as_flags

OWN = """
import numpy as np
from distcnn import nn
from distcnn.nn import portable


class Softplus(nn.Activation):
    def function(self, x, out):
        portable.log1p(portable.exp(-np.abs(x)), out=out)
        out += np.maximum(x, 0)

    def derivative(self, x, y, out):
        portable.sigmoid(x, out=out)


class Mix(nn.Layer):
    def output_shape(self, input_shape):
        return input_shape

    def parameters(self, input_shape):
        (count,) = input_shape
        return (nn.Parameter("weight", (count, count), nn.glorot_uniform, count, count),)

    def forward(self, x, call):
        call.saved = x
        return portable.matmul(call.values["weight"], x)

    def backward(self, grad_output, call):
        call.grads["weight"][...] = portable.matmul(grad_output, call.saved.T)
        return portable.matmul(call.values["weight"].T, grad_output)


def network(input_shape, classes):
    layers = [nn.Conv2d(4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 3), nn.Sigmoid()]
    layers += [nn.Flatten(), nn.Dense(20), Softplus(), Mix(), nn.Dense(classes)]
    return nn.Sequential(layers)


def squared(outputs, labels, weights):
    loss_sum, grad = portable.squared_error(outputs, labels, weights)
    return 0.5 * loss_sum, 0.5 * grad


def halving(progress):
    return float(portable.exp(-portable.log(2.0) * progress))
"""


def other_environment() -> dict[str, str]:
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index]
    return {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": " ".join(found)}


@pytest.mark.parametrize(
    "parts",
    [
        {"loss": "own_parts:squared", "schedule": "own_parts:halving", "optimizer": "adamw"},
        {"loss": "squared-error", "optimizer": "adam", "weight_decay": 0.01},
        {"validation": 0.2, "schedule": "linear", "optimizer": "sgd"},
    ],
    ids=lambda parts: parts["optimizer"],
)
def test_parts_evaluation_and_prediction_have_the_same_bits(
    parts: dict[str, object], image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "own_parts.py").write_text(OWN)
    data, printed, kernels = str(image_set()), [], []
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    flags = as_flags(
        model="own_parts:network", arithmetic="portable", data=data, learning_rate=0.01,
        epochs=2, num_shards=4, microbatch_size=8, **parts,
    )  # fmt: skip
    for name, environment in (("here", {}), ("there", other_environment())):
        run, more = str(tmp_path / name), {**environment, "PYTHONPATH": path}
        done = SERIAL.run(1, "-m", "distcnn.train", *flags, "--output", run, **more)
        assert done.returncode == 0, done.stderr
        assert "portable arithmetic" not in done.stdout
        lines = done.stdout.splitlines()
        kernels += [line for line in lines if line.startswith("ranks ") and "openblas" in line]
        results = [[line for line in lines if line.startswith("weights ")]]
        for command in (["evaluate", run, "--json"], ["predict", run, data, "--csv"]):
            words = [*command, "--trust-model"]
            found = SERIAL.run(1, "-m", f"distcnn.{words[0]}", *words[1:], **more)
            assert found.returncode == 0, found.stderr
            results.append(found.stdout.replace(run, "RUN").splitlines())
        printed.append(results)
    assert printed[0] == printed[1]
    if platform.machine() == "x86_64":
        assert len(set(kernels)) == len(kernels)
    done = SERIAL.run(
        1, "-m", "distcnn.verify", str(tmp_path / "there"), "--trust-model", PYTHONPATH=path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout


def test_random_networks_give_the_same_bits_fused_and_unfused() -> None:
    """Outputs, losses and gradients of 60 networks, most of which nobody would build."""
    environments = {}, other_environment(), {"OPENBLAS_NUM_THREADS": "2"}
    printed = []
    for environment in environments:
        done = SERIAL.run(1, "-m", "tests.support.random_models", "60", **environment)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert len(set(printed)) == 1
    assert len(printed[0]) == 65
