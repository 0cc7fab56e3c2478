"""The geometry of windows, and aligned buffers: against explicit loops and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.nn.geometry import as_pair, output_size, window_offsets

examples = settings(deadline=None, derandomize=True, max_examples=50)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))


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


@examples
@given(pairs, pairs, st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_offsets_hold_what_loops_find(
    kernel: tuple[int, int], stride: tuple[int, int], spare: tuple[int, int]
) -> None:
    height, width = kernel[0] + spare[0], kernel[1] + spare[1]
    x = np.arange(2.0 * height * width * 3).reshape(2, height, width, 3)
    size = output_size((height, width), kernel, stride)
    assert size == (
        len(range(0, height - kernel[0] + 1, stride[0])),
        len(range(0, width - kernel[1] + 1, stride[1])),
    )
    offsets = list(window_offsets(x, kernel, stride, size))
    assert len(offsets) == kernel[0] * kernel[1]
    for i, j, r, s in np.ndindex(*kernel, *size):
        expected = x[:, r * stride[0] + i, s * stride[1] + j]
        np.testing.assert_array_equal(offsets[i * kernel[1] + j][:, r, s], expected)


def test_offsets_share_the_memory_of_the_images() -> None:
    x = np.zeros((1, 4, 4, 2))
    assert all(np.shares_memory(view, x) for view in window_offsets(x, (2, 2), (1, 1), (3, 3)))


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
