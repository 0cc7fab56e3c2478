"""IDX files: read whole, gzipped or not, and refused by name when damaged."""

from __future__ import annotations

import gzip
import os
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.datasets.importers.idx import open_idx, parse_idx
from distcnn.errors import InputError

ToIdx = Callable[[NDArray[np.integer]], bytes]
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)


def read_idx(path: Path) -> NDArray[np.uint8]:
    with open_idx(path) as file:
        return file.read()


@pytest.mark.parametrize("shape", [(7,), (5, 4, 3), (2, 4, 3, 3), (0, 4, 3)], ids=str)
@pytest.mark.parametrize("gzipped", [False, True], ids=["plain", "gzipped"])
def test_an_array_comes_back_as_it_was(
    tmp_path: Path, idx: ToIdx, shape: tuple[int, ...], gzipped: bool
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / "array"
    path.write_bytes(gzip.compress(idx(array)) if gzipped else idx(array))
    found = read_idx(path)
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert np.array_equal(found, array)


def test_the_header_is_read_as_the_format_says() -> None:
    content = bytes.fromhex("00000803 00000001 00000002 00000003") + bytes(
        [10, 20, 30, 40, 50, 255]
    )
    assert parse_idx(content, "by hand").tolist() == [[[10, 20, 30], [40, 50, 255]]]


def test_gzip_is_recognised_by_content_not_by_name(tmp_path: Path, idx: ToIdx) -> None:
    (tmp_path / "plain.gz").write_bytes(idx(IMAGES))
    (tmp_path / "gzipped").write_bytes(gzip.compress(idx(IMAGES)))
    assert np.array_equal(read_idx(tmp_path / "plain.gz"), read_idx(tmp_path / "gzipped"))


def test_a_gzip_file_cut_off_anywhere_is_refused(tmp_path: Path, idx: ToIdx) -> None:
    path, content = tmp_path / "images.gz", gzip.compress(idx(IMAGES))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(
            InputError,
            match=(
                r"images\.gz is damaged \(" if length >= 2 else r"images\.gz is not an IDX file"
            ),
        ):
            read_idx(path)


def test_a_gzip_file_with_any_byte_of_its_data_altered_is_refused(
    tmp_path: Path, idx: ToIdx
) -> None:
    path, content = tmp_path / "images.gz", gzip.compress(idx(IMAGES))
    for position in range(
        10, len(content)
    ):  # the first 10 are gzip's own header, of which some mean nothing
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :]
        )
        with pytest.raises(
            InputError, match=r"images\.gz (is damaged|is not an IDX file|holds|has)"
        ):
            read_idx(path)


def test_a_gzip_file_of_a_cut_off_idx_file_is_refused(tmp_path: Path, idx: ToIdx) -> None:
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(IMAGES)[:-1]))
    with pytest.raises(
        InputError, match=r"images\.gz holds 75 bytes, but its header \(5, 4, 3\) needs 76"
    ):
        read_idx(tmp_path / "images.gz")


@pytest.mark.parametrize(
    ("content", "begins"),
    [
        (b"", "nothing"),
        (b"\0\0\x08", "000008"),
        (b"\0\0\x0d\x01\0\0\0\1\0\0\0\0", "00000d01"),
        (b"\0\1\x08\x01\0\0\0\1\0", "00010801"),
        (b"\x89PNG and more", "89504e47"),
    ],
    ids=["empty", "three bytes", "floats", "first bytes not zero", "PNG"],
)
def test_something_else_is_refused_with_its_first_bytes(content: bytes, begins: str) -> None:
    with pytest.raises(
        InputError,
        match=(
            f"some-file is not an IDX file of unsigned bytes: it begins with {begins}, not 000008"
        ),
    ):
        parse_idx(content, "some-file")


@pytest.mark.parametrize("length", [16, 40, 75])
def test_a_file_cut_off_in_its_data_is_refused_with_both_lengths(idx: ToIdx, length: int) -> None:
    with pytest.raises(
        InputError, match=rf"cut holds {length} bytes, but its header \(5, 4, 3\) needs 76"
    ):
        parse_idx(idx(IMAGES)[:length], "cut")


def test_a_file_with_too_much_data_is_refused(idx: ToIdx) -> None:
    with pytest.raises(
        InputError, match=r"long holds more than the 76 bytes its header \(5, 4, 3\)"
    ):
        parse_idx(idx(IMAGES) + b"\0", "long")


@pytest.mark.parametrize("length", range(4, 16))
def test_a_file_cut_off_in_its_header_is_refused(idx: ToIdx, length: int) -> None:
    with pytest.raises(
        InputError, match=f"cut holds {length} bytes, but its header alone needs 16: it is damaged"
    ):
        parse_idx(idx(IMAGES)[:length], "cut")


@pytest.mark.parametrize(
    "sizes",
    [(2**31, 2**31, 4), (1, *[2**32 - 1] * 3), (2**32 - 1, 100, 100), (2**32 - 1,)],
    ids=str,
)
def test_sizes_far_beyond_the_file_are_refused_and_take_no_memory(sizes: tuple[int, ...]) -> None:
    tracemalloc.start()
    with pytest.raises(InputError, match=r"huge (holds|has items)"):
        parse_idx(bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes), "huge")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def test_a_gzip_file_that_unpacks_to_far_more_than_its_header_says_is_refused_at_once(
    tmp_path: Path, idx: ToIdx
) -> None:
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as file:
        file.write(idx(IMAGES))
        for _ in range(64):
            file.write(bytes(2**22))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.gz holds more than the 76 bytes"):
        read_idx(tmp_path / "bomb.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a socket"])
def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd"
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "a named pipe":
            os.mkfifo(path)
        elif kind == "a device":
            path.symlink_to("/dev/zero")
        else:
            bound.bind(os.path.relpath(path))  # the address of a socket may not be long
        with pytest.raises(InputError, match=r"odd (is|cannot be read)"):
            read_idx(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"nowhere\.gz cannot be read \(No such file or directory\)"
    ):
        read_idx(tmp_path / "nowhere.gz")
    with pytest.raises(InputError, match=r"is a folder, not a regular file"):
        read_idx(tmp_path)


@pytest.mark.parametrize("dimensions", [0, 5, 255])
def test_more_dimensions_than_images_have_are_refused(dimensions: int) -> None:
    content = bytes([0, 0, 8, dimensions]) + b"\0\0\0\1" * dimensions + b"a"
    with pytest.raises(InputError, match=rf"many has {dimensions} dimensions"):
        parse_idx(content, "many")
