"""The comparison with PyTorch: refused without it, one line of ratios with it."""

from __future__ import annotations

import importlib.util

import pytest

from tests.conftest import Launcher, MakeImageSet

COMMAND = ["-m", "benchmarks.pytorch_ddp"]


def test_it_prints_both_speeds_or_says_what_is_missing(
    serial: Launcher, image_set: MakeImageSet
) -> None:
    flags = ["--turns", "1", "--steps", "2", "--model", "tutorial", "--microbatch-size", "4"]
    done = serial.run(1, *COMMAND, *flags, "--data", str(image_set()))
    if importlib.util.find_spec("torch") is None:
        assert done.returncode == 1
        assert "pip install torch" in done.stderr
        pytest.skip("PyTorch is not installed")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == [
        *("distcnn", "PyTorch", "NCHW", "channels_last", "ratio")
    ]
