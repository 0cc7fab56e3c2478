"""Buffers: zeros that start on a cache line, adjacent in large pages, and that use memory only once
they are written.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

import numpy as np
import pytest

from distcnn.nn.kernels.arena import ALIGNMENT_BYTES, Arena, allocate

MIB = 1 << 20


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 3, 4, 5), (3, 0, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_buffers_are_zero_contiguous_and_start_on_a_cache_line(
    shape: tuple[int, ...], dtype: type[np.floating]
) -> None:
    array = allocate(shape, dtype)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.ctypes.data % ALIGNMENT_BYTES == 0
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert not array.any()


def test_no_byte_is_given_out_twice() -> None:
    arena = Arena(slab_bytes=1024)
    arrays = [
        arena.zeros((nbytes,), np.uint8) for nbytes in (1, 64, 65, 1000, 24, 1024, 5000, 3, 0, 7)
    ]
    for number, array in enumerate(arrays, 1):
        assert array.ctypes.data % ALIGNMENT_BYTES == 0
        assert not array.any()
        array.fill(number)
    for number, array in enumerate(arrays, 1):
        assert (array == number).all()


def test_a_piece_is_given_back_when_the_last_array_in_it_is_gone() -> None:
    arena = Arena(slab_bytes=1024)
    first, second = (arena.zeros((512,), np.uint8) for _ in range(2))
    piece = weakref.ref(first.base.base.obj)
    arena.zeros((512,), np.uint8)  # begins another piece
    del first
    assert piece() is not None
    del second
    assert piece() is None


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_only_what_is_written_to_takes_room() -> None:
    before = resident_bytes()
    arrays = [allocate((MIB,), np.float32) for _ in range(100)]
    assert resident_bytes() - before < 100 * MIB
    arrays[0].fill(1)


def test_more_than_there_is_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        allocate((1 << 50,), np.float32)


def huge_pages() -> int:
    """Bytes that this process has in huge pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("AnonHugePages:"))


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="this system does not tell of its pages"
)
def test_small_buffers_are_in_large_pages_if_a_large_array_is() -> None:
    before = huge_pages()
    large = np.zeros(16 * MIB, np.uint8)
    large.fill(1)
    if huge_pages() - before < 8 * MIB:
        pytest.skip("this system gives no large pages here")
    before = huge_pages()
    buffers = [allocate((MIB // 4,), np.float32) for _ in range(80)]
    for each in buffers:
        each.fill(1)
    assert huge_pages() - before >= 64 * MIB
