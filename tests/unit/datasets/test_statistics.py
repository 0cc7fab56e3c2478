"""Mean and standard deviation of the pixels: by channel, exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distcnn.datasets import read_info
from distcnn.datasets.survey import mean_and_std, pixel_sums
from tests.support.image_sets import make_arrays, write


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=str)
def test_mean_and_std_are_of_the_training_pixels_by_channel(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    arrays = make_arrays(shape)
    arrays["train"][0][..., 0] //= 3  # channels (or columns) that differ
    info = read_info(write(tmp_path / "set.h5", arrays, (128,)))
    by_channel = (
        arrays["train"][0].reshape(-1, shape[2] if len(shape) == 3 else 1).astype(np.float64) / 255
    )
    assert info.mean == pytest.approx(by_channel.mean(axis=0), abs=1e-14)
    assert info.std == pytest.approx(by_channel.std(axis=0), abs=1e-14)


def test_a_constant_channel_has_std_zero_exactly() -> None:
    pixels = np.stack([np.full(1000, 171), np.tile([0, 255], 500)], axis=1).astype(np.uint8)
    mean, std = mean_and_std(pixel_sums(pixels), len(pixels))
    assert mean == pytest.approx([171 / 255, 0.5], abs=1e-15)
    assert std.tolist() == [0.0, 0.5]


def test_pixel_sums_are_exact_and_add_up() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 3)).astype(np.uint8)
    wide = pixels.astype(object)
    assert pixel_sums(pixels).tolist() == [
        wide.sum(axis=0).tolist(),
        (wide**2).sum(axis=0).tolist(),
    ]
    assert np.array_equal(pixel_sums(pixels[:300]) + pixel_sums(pixels[300:]), pixel_sums(pixels))
