"""CIFAR's pickles, binary files and archives that are damaged or made to do harm."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.datasets.importers.pickled import unpickled
from distcnn.errors import InputError
from tests.support.converting import MEBIBYTE, Evil, refused, refused_cheaply


def cifar(folder: Path, batch: bytes) -> Path:
    folder.mkdir()
    for name in (*(f"data_batch_{index}" for index in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(batch)
    return folder


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    batch = pickle.dumps({b"data": Evil(marker), b"labels": [0]}, protocol=protocol)
    said = refused(cifar(tmp_path / "cifar", batch))
    assert "open" in said
    assert "may run code" in said
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cbuiltins\neval\n(S'1/0'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
        b"cnumpy\nndarray\n(K\x01tR.",  # an array that is never filled
        b"\x80\x02cnumpy\ndtype\nU\x01OK\x00K\x01\x87R.",
        b"\x80\x02" + b"N\x85" * 100_000 + b"}N\x85N\x86s.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x02(" + b"]" * 10 + b"t.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02}}\x8c\x01a}sb.",
        b"\x80\xff.",
        b"",
        b".",
        b"0.",
    ],
    ids=range(17),
)
def test_pickles_made_to_do_harm_are_refused(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            unpickled(content, "x")
        assert tracemalloc.get_traced_memory()[1] < 20 * MEBIBYTE
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_arrays_of_objects_in_pickles_are_refused() -> None:
    for array in (np.array([1, "a"], object), np.zeros(2, "i4,f4"), np.array(["a"])):
        with pytest.raises(InputError):
            unpickled(pickle.dumps({"data": array}, protocol=2), "x")


def test_plain_pickles_are_read() -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.asfortranarray(np.ones((2, 3), ">f4"))}
    for protocol in range(2, 6):
        found = unpickled(pickle.dumps({**arrays, "c": ["x", 1]}, protocol=protocol), "x")
        assert np.array_equal(found["a"], arrays["a"])
        assert np.array_equal(found["b"], arrays["b"])
        assert found["c"] == ["x", 1] or protocol == 2


@pytest.mark.parametrize(
    "batch",
    [
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.float64), b"labels": [0]},
        {b"data": np.zeros((1, 3), np.uint8), b"labels": [0]},
        {b"data": [1], b"labels": [0]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": [2**70]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": "abc"},
        {b"labels": [0]},
        [1, 2],
        {},
    ],
    ids=range(9),
)
def test_batches_of_another_form_are_refused(tmp_path: Path, batch: Any) -> None:
    refused(cifar(tmp_path / "cifar", pickle.dumps(batch, protocol=2)))


def test_binary_batches_of_another_length_are_refused(tmp_path: Path) -> None:
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(bytes(3073))
    assert "not rows of 3074" in refused(tmp_path)


@pytest.mark.parametrize("kind", ["bomb", "truncated", "link", "other", "twice"])
def test_archives_made_to_do_harm_are_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distcnn.datasets.importers.cifar.MOST_BYTES", 4 * MEBIBYTE)
    path = tmp_path / "in/cifar.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        for name in ("c/data_batch_1.bin", "c/test_batch.bin", "c/test_batch.bin"):
            member = tarfile.TarInfo(name if kind != "other" else "other.txt")
            member.size = 3073
            if kind == "link":
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            if kind == "bomb":
                member.size = 64 * MEBIBYTE
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-60])
    refused_cheaply(path)
