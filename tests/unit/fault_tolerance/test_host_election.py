"""Exactly one process of a host is elected; other users' files and folders are not trusted."""

from __future__ import annotations

import os
import secrets
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distcnn.fault_tolerance.host_election import claim, private_folder


def test_a_name_is_given_once() -> None:
    name = secrets.token_hex(8)
    assert [claim(f"{name}-{each}") for each in "aab"] == [True, False, True]


def test_only_the_user_can_enter_the_folder_of_claims(claim_folders: Path) -> None:
    folder = private_folder()
    assert folder
    assert folder.parent == claim_folders / "first"
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def is_open(path: Path) -> None:
    path.mkdir(mode=0o777)
    path.chmod(0o777)


def is_a_link(path: Path) -> None:
    path.symlink_to(path.parent.parent, target_is_directory=True)


def belongs_to_another(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can give a folder to another user"
)


@pytest.mark.parametrize(
    "squat", [is_open, is_a_link, Path.touch, pytest.param(belongs_to_another, marks=needs_root)]
)
def test_a_folder_that_another_user_made_is_not_trusted(
    squat: Callable[[Path], None], claim_folders: Path
) -> None:
    name = f"distcnn-{os.geteuid()}"
    squat(claim_folders / "first" / name)
    assert private_folder() == claim_folders / "second" / name
    (claim_folders / "second" / name).rmdir()
    squat(claim_folders / "second" / name)
    assert private_folder() is None
    assert [claim("report"), claim("report")] == [True, True]  # rather two reports than none


def test_abstract_sockets_of_others_silence_nobody(claim_folders: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.bind("\0distcnn-report")
        assert claim("report")


def test_files_of_ended_processes_are_removed_and_held_ones_are_not(claim_folders: Path) -> None:
    folder = private_folder()
    assert folder
    assert claim("held")
    (folder / "old").touch()
    for name in ("held", "old"):
        os.utime(folder / name, (time.time() - 3600,) * 2)
    assert claim("next")
    assert sorted(path.name for path in folder.iterdir()) == ["held", "next"]
    assert not claim("held")
