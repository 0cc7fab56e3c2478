"""Parts of an image set that are not files are refused at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from distcnn.datasets import read_examples, read_info
from distcnn.errors import InputError
from tests.support.image_sets import put, write_as_a_user

Build = Callable[[Path, Path], Path]
"""From a folder and a file ``part`` to an image set that needs that part."""


def itself(folder: Path, part: Path) -> Path:
    (folder / "set.h5").symlink_to(part)
    return folder / "set.h5"


def linked(folder: Path, part: Path) -> Path:
    return write_as_a_user(
        folder / "set.h5", put("train/images", h5py.ExternalLink(part.name, "train/images"))
    )


def linked_group(folder: Path, part: Path) -> Path:
    return write_as_a_user(folder / "set.h5", put("test", h5py.ExternalLink(str(part), "/test")))


def linked_twice(folder: Path, part: Path) -> Path:
    with h5py.File(folder / "between.h5", "w") as file:
        file["there"] = h5py.ExternalLink(part.name, "train")
    return write_as_a_user(
        folder / "set.h5",
        put("elsewhere", h5py.ExternalLink("between.h5", "there")),
        put("train", h5py.SoftLink("/elsewhere")),
    )


def virtual(folder: Path, part: Path) -> Path:
    layout = h5py.VirtualLayout((4, 3, 2), np.uint8)
    layout[:] = h5py.VirtualSource(part.name, "train/images", (4, 3, 2))

    def change(file: h5py.File) -> None:
        del file["train/images"]
        file.create_virtual_dataset("train/images", layout)

    return write_as_a_user(folder / "set.h5", change)


WAYS = [itself, linked, linked_group, linked_twice, virtual]


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
