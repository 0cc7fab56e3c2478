"""The geometry of windows, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn.nn.layer import as_pair, output_size


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [
        ((28, 28), (5, 5), (1, 1), (0, 0), (24, 24)),
        ((28, 28), (5, 5), (1, 1), (2, 2), (28, 28)),
        ((5, 5), (3, 3), (2, 2), (1, 1), (3, 3)),
        ((7, 8), (2, 3), (2, 3), (0, 0), (3, 2)),
        ((4, 9), (4, 2), (5, 4), (0, 1), (1, 3)),
        ((1, 1), (3, 1), (1, 1), (1, 0), (1, 1)),
    ],
)
def test_output_sizes_by_hand(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    assert output_size(size, kernel, stride, padding) == expected


def test_pairs() -> None:
    assert as_pair("stride", 3, 1) == (3, 3)
    assert as_pair("stride", (3, 4), 1) == (3, 4)
    assert as_pair("padding", np.int64(0), 0) == (0, 0)


@pytest.mark.parametrize("value", [0, (1, 0), (1, 2, 3), (), 2.5, (2.5, 1), None])
def test_anything_but_a_pair_is_refused_by_name_and_value(value: object) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"stride \(=.*\) must be an integer of at least 1, or a pair of them \(height, width\)"
        ),
    ):
        as_pair("stride", value, 1)  # type: ignore[arg-type]
