"""``distcnn.convert`` as a user runs it: started both ways, trained on, interrupted, on MNIST."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distcnn.datasets import HDF5Dataset, read_info
from tests.conftest import ROOT, SERIAL, clean_environment
from tests.support.image_sets import make_arrays, write

MNIST = ROOT / "data/mnist.h5"
RNG = np.random.default_rng(0)
needs_mnist = pytest.mark.skipif(not MNIST.exists(), reason="data/mnist.h5 is not prepared")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """80 images of 12x12 pixels in 4 classes."""
    path = tmp_path / "in/a.npz"
    path.parent.mkdir()
    images = RNG.integers(0, 256, (80, 12, 12)).astype(np.uint8)
    np.savez(path, X=images, y=np.arange(80) % 4 + 1)
    return path


@pytest.mark.parametrize("command", [["-m", "distcnn.convert"], ["-m", "distcnn", "convert"]])
def test_a_set_is_made_and_trained_on(tmp_path: Path, source: Path, command: list[str]) -> None:
    output, picture = tmp_path / "new/out.h5", tmp_path / "look.png"
    flags = ["--output", str(output), "--preview", str(picture)]
    done = SERIAL.run(1, *command, str(source), *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{output}: out, 64 training and 16 test images, 1x12x12" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    model = ["--model", "mlp", "--max-steps", "1", "--microbatch-size", "4", "--num-shards", "2"]
    SERIAL.train(1, tmp_path / "run", "--data", str(output), *model)


def test_a_refusal_is_one_line_and_keeps_the_older_file(tmp_path: Path, source: Path) -> None:
    output = write(tmp_path / "out.h5", make_arrays())
    older = output.read_bytes()
    flags = ["--output", str(output), "--class-names", "a,b"]
    done = SERIAL.run(1, "-m", "distcnn.convert", str(source), *flags)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert [path.read_bytes() for path in tmp_path.glob("*out.h5*")] == [older]


def make_slow_and_mortal() -> None:
    """Let the process wait for this one where cores are short; CI may ignore SIGHUP."""
    os.nice(19)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_conversion_keeps_the_older_file(tmp_path: Path, number: int) -> None:
    source, output = tmp_path / "in.npz", write(tmp_path / "out.h5", make_arrays())
    older = output.read_bytes()
    images = np.zeros((300_000, 16, 16), np.uint8)
    images[:, 0, 0] = 255
    np.savez(source, X=images, y=np.arange(len(images)) % 10)
    process = subprocess.Popen(
        [sys.executable, "-m", "distcnn.convert", str(source), "--output", str(output)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=make_slow_and_mortal,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.h5*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.read_bytes() == older
    if number != signal.SIGKILL:
        assert not list(tmp_path.glob(".out.h5*"))


@pytest.mark.slow
@needs_mnist
def test_mnist_is_the_same_set_from_npz_and_csv(tmp_path: Path) -> None:
    data = HDF5Dataset(MNIST)
    parts = {split: data.read(split) for split in ("train", "test")}
    arrays = {f"x_{split}": images[..., 0] for split, (images, _) in parts.items()}
    arrays |= {f"y_{split}": labels.astype(np.uint8) for split, (_, labels) in parts.items()}
    np.savez(tmp_path / "mnist.npz", **arrays)
    tables = []
    for split, (images, labels) in parts.items():
        tables.append(tmp_path / f"mnist_{split}.csv")
        with tables[-1].open("w", newline="") as file:
            rows = np.column_stack([labels, images.reshape(len(images), -1)])
            csv.writer(file).writerows(row.tolist() for row in rows)
    for name, sources in (("npz", [tmp_path / "mnist.npz"]), ("csv", tables)):
        output = tmp_path / f"{name}.h5"
        words = [*map(str, sources), "--output", str(output)]
        done = SERIAL.run(1, "-m", "distcnn.convert", *words)
        assert done.returncode == 0, done.stderr
        found, wanted = read_info(output), read_info(MNIST)
        assert (found.sha256, found.mean, found.std) == (wanted.sha256, wanted.mean, wanted.std)


@pytest.mark.skipif("DISTCNN_MNIST_DIR" not in os.environ, reason="DISTCNN_MNIST_DIR is not set")
@needs_mnist
def test_mnist_is_the_same_set_from_idx(tmp_path: Path) -> None:
    output = tmp_path / "idx.h5"
    words = [os.environ["DISTCNN_MNIST_DIR"], "--output", str(output)]
    done = SERIAL.run(1, "-m", "distcnn.convert", *words)
    assert done.returncode == 0, done.stderr
    assert read_info(output).sha256 == read_info(MNIST).sha256
