"""Opening image sets: files of other formats, damaged or in use, and parts that are not files."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import pickle
import resource
import shutil
import socket
from pathlib import Path

import h5py
import numpy as np
import pytest

from distcnn.datasets import read_examples, read_info
from distcnn.datasets.opening import LOCKING, SIGNATURE, file_system_problem
from distcnn.errors import InputError
from tests.support.image_sets import assert_refused, make_arrays, put, write, write_as_a_user
from tests.support.parts_of_sets import WAYS, Build


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.h5", write_as_a_user(tmp_path / "a.h5") / "below-a-file.h5"):
        assert_refused(path, r"no such file: .*: name a prepared image set with --data")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, "is a folder: --data takes one HDF5 file")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (bytes(4096), "not a complete HDF5 file"),
        (SIGNATURE, "not a complete HDF5 file"),
        ("label,pixel\n1,2\n".encode("utf-16"), "not an HDF5 file: "),
        (bytes(16) + b"\xde\xc0\xef\xbe" + bytes(100), "not an HDF5 file: "),
        (b"PK\x03\x04" + bytes(100), r"not an HDF5 file but .*\.npz"),
        (b"\x93NUMPY\x01\x00", r"not an HDF5 file but .*\.npy"),
        (b"label,pixel0,pixel1\r\n3,0,255\r\n" * 100, r"not an HDF5 file but .*CSV"),
        (pickle.dumps({"train": [1, 2]}), "not an HDF5 file but a Python pickle"),
        (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "not an HDF5 file but a MATLAB file"),
        (gzip.compress(SIGNATURE), "not an HDF5 file but compressed with gzip"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
            "not an HDF5 file but a Git LFS pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html>", "not an HDF5 file but a web page"),
    ],
    ids=[
        "empty",
        "zeros",
        "short",
        "utf-16",
        "lmdb",
        "npz",
        "npy",
        "csv",
        "pickle",
        "mat",
        "gzip",
        "lfs",
        "html",
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "set.h5"
    path.write_bytes(content)
    assert_refused(path, rf"set\.h5 (is )?{says}")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5", make_arrays(train=20))
    content = path.read_bytes()
    for length in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:length])
        assert_refused(path, r"set\.h5 is (empty|not a complete HDF5 file).*: prepare it again")


def test_a_file_that_another_process_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "set.h5", make_arrays())
    with path.open("rb+") as locked:
        fcntl.flock(locked, fcntl.LOCK_SH)  # a reader's
        assert read_info(path).examples["test"] == 7
        fcntl.flock(locked, fcntl.LOCK_EX)  # as HDF5's own while it writes
        assert_refused(
            path,
            r"set\.h5 is locked by another process .*: wait"
            r" .*HDF5_USE_FILE_LOCKING",
        )
        monkeypatch.setenv(LOCKING, "FALSE")
        assert read_examples(read_info(path), "test", range(7))[1].shape == (7,)


def test_a_file_system_without_locks_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    path = write(tmp_path / "set.h5", make_arrays())
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert read_examples(read_info(path), "test", range(7))[1].shape == (7,)


def test_a_file_open_for_writing_without_a_lock_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w", locking=False) as file:
        for split, (images, labels) in make_arrays(train=20).items():
            file[f"{split}/images"], file[f"{split}/labels"] = images, labels
        file.flush()
        assert read_info(path).examples["train"] == 20  # all is on the disk
        file["more"] = np.zeros(100_000)
        assert_refused(path, r"set\.h5 is [\d,]+ bytes longer than its own header")
    assert read_info(path).examples["train"] == 20


def test_a_file_open_for_writing_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w", libver="latest", locking=False) as file:
        for split, (images, labels) in make_arrays(train=20).items():
            file[f"{split}/images"], file[f"{split}/labels"] = images, labels
        file.swmr_mode = True
        copy = shutil.copy(path, tmp_path / "copy.h5")  # HDF5 shares what one process has open
    assert_refused(copy, r"copy\.h5 is open for writing .*h5clear")
    assert read_info(path).examples["train"] == 20


def test_what_the_file_system_reports_is_not_told_as_bad_data(tmp_path: Path) -> None:
    path = write(tmp_path / "set.h5", make_arrays())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first_free = os.dup(0)
    os.close(first_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
    try:
        assert_refused(path, r"Too many open files, EMFILE")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for number in (errno.ESTALE, errno.EIO, errno.ETIMEDOUT):
        said = file_system_problem(
            "set.h5",
            OSError(
                f"Can't read data (file read failed: time = now\n, errno = {number}, error message"
                " = 'x')"
            ),
        )
        assert said
        assert errno.errorcode[number] in said
        assert "again" in said
        assert "prepare" not in said
        assert said == file_system_problem("set.h5", OSError(number, "x"))


# -- sets in several files


@pytest.mark.parametrize("build", WAYS)
def test_a_part_that_is_a_regular_file_is_read(tmp_path: Path, build: Build) -> None:
    path = build(tmp_path, write_as_a_user(tmp_path / "part.h5"))
    assert read_examples(read_info(path), "train", range(4))[0].reshape(-1).tolist() == list(
        range(24)
    )


@pytest.mark.parametrize("build", WAYS)
@pytest.mark.parametrize("kind", ["named pipe", "socket", "device", "folder"])
def test_a_part_that_is_not_a_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: Build, kind: str
) -> None:
    part = tmp_path / "part.h5"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "named pipe":
            os.mkfifo(part)
        elif kind == "socket":
            monkeypatch.chdir(tmp_path)  # a socket's path must be short
            listener.bind(part.name)
        elif kind == "device":
            part.symlink_to("/dev/zero")
        else:
            part.mkdir()
        with pytest.raises(
            InputError, match="is a folder" if kind == "folder" else "is not a regular file"
        ) as raised:
            read_info(build(tmp_path, part))
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_links_in_a_circle_are_followed_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    circle = put("train", h5py.ExternalLink("folder/../set.h5", "train"))
    with pytest.raises(InputError, match=r"set\.h5"):
        read_info(write_as_a_user(tmp_path / "set.h5", circle))
    with pytest.raises(InputError, match=r"set\.h5"):
        read_info(write_as_a_user(tmp_path / "set.h5", put("train", h5py.SoftLink("/train"))))
