"""An exported network agrees with ours on the whole test set of MNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import distcnn as dc
from distcnn.datasets.hdf5 import read_info
from tests.conftest import ROOT, SERIAL

MNIST = ROOT / "data" / "mnist.h5"


@pytest.mark.skipif(
    not MNIST.exists() or read_info(MNIST).examples["test"] != 10_000,
    reason="data/mnist.h5 is not prepared, or a sample",
)
@pytest.mark.parametrize("model", ["lenet", "tutorial"])
def test_onnxruntime_finds_the_same_classes(model: str, tmp_path: Path) -> None:
    flags = ["--data", str(MNIST), "--max-steps", "60", "--output", str(tmp_path / "run")]
    done = SERIAL.run(1, "-m", "distcnn.train", "--model", model, *flags)
    assert done.returncode == 0, done.stderr
    done = SERIAL.run(1, "-m", "distcnn.export", str(tmp_path / "run"), str(tmp_path / "x.onnx"))
    assert done.returncode == 0, done.stderr
    network = dc.load(tmp_path / "run")
    images, labels = dc.datasets.open(MNIST).read("test")
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    pixels = images.reshape(-1, 1, 28, 28)
    probabilities, logits = session.run(["probabilities", "logits"], {"pixels": pixels})
    expected = network.logits(images)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert np.array_equal(logits.argmax(axis=1), expected.argmax(axis=1))
    assert np.array_equal(probabilities.argmax(axis=1), expected.argmax(axis=1))
    assert (expected.argmax(axis=1) == labels).mean() > 0.8
