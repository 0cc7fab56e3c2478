"""A user's own dropout keeps the promise: the same bits on any number of ranks, with and without
overlap, after a resume and in a replay.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SERIAL, Launcher, MakeImageSet
from tests.support.training_fixtures import train, with_path

DROPOUT = """
import numpy as np

from distcnn import nn
from distcnn.nn.layer import Layer


class Dropout(Layer):
    def __init__(self, rate):
        self.rate = rate

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, call):
        if not call.training:
            return x
        call.saved = (call.random.random(x.shape) >= self.rate).astype(x.dtype) / (1 - self.rate)
        return x * call.saved

    def backward(self, grad_output, call):
        return grad_output * call.saved


def network(input_shape, classes):
    return nn.Sequential([
        nn.Conv2d(6, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(),
        nn.Dense(100), Dropout(0.5), nn.ReLU(), nn.Dense(classes),
    ])


def plain(input_shape, classes):
    layers = network(input_shape, classes).layers
    return nn.Sequential([layer for layer in layers if not isinstance(layer, Dropout)])
"""
FLAGS = ["--model", "dropout:network", "--epochs", "2", "--microbatch-size", "8", "--keep", "9"]


@pytest.mark.mpi
def test_the_bits_are_the_same_on_any_ranks_after_a_resume_and_in_a_replay(
    mpirun: Launcher, image_set: MakeImageSet, tmp_path: Path
) -> None:
    (tmp_path / "dropout.py").write_text(DROPOUT)
    path = with_path(tmp_path)
    flags = ["--data", str(image_set()), *FLAGS]

    def weights(launcher: Launcher, ranks: int, name: str, *more: str) -> str:
        run = tmp_path / name
        done = train(launcher, ranks, "--output", str(run), *flags, *more, PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        return next(line for line in done.stdout.splitlines() if line.startswith("weights "))

    alone = weights(SERIAL, 1, "alone")
    assert weights(mpirun, 3, "overlapped", "--overlap", "on") == alone
    assert weights(SERIAL, 1, "plain", "--model", "dropout:plain") != alone
    assert weights(mpirun, 2, "short", "--max-steps", "3") != alone

    short = tmp_path / "short"
    done = train(mpirun, 3, "--resume", str(short), "--max-steps", "0", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert alone in done.stdout.splitlines()
    trusted = ["-m", "distcnn.verify", str(short), "--trust-model"]
    done = SERIAL.run(1, *trusted, PYTHONPATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout
