"""Shared memory that killed runs left is removed, that of others and of living processes is not."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

import pytest

from distcnn.fault_tolerance.leftovers import clean_before_start, remove_left_behind

# Of this process alone: a file of the same name that another one has open counts as in use.
OWN = f"{os.getpid():x}"
NAMES = (f"mpich_shm_{OWN}_0", f"sm_segment.host.{os.getpid()}.1", f"ucx_shm_posix_{OWN}")


@pytest.fixture
def left(tmp_path: Path) -> list[Path]:
    """Files as an MPI names them, an hour old, that nobody has open."""
    paths = [tmp_path / name for name in NAMES]
    for path in paths:
        path.write_bytes(bytes(mmap.PAGESIZE))
        os.utime(path, (time.time() - 3600,) * 2)
    return paths


def test_what_nobody_uses_is_removed(left: list[Path]) -> None:
    other = left[0].with_name("somebody's")
    other.touch()
    assert sorted(remove_left_behind(other.parent)) == sorted(left)
    assert [path for path in left if path.exists()] == []
    assert other.exists()


def test_what_a_process_has_open_or_mapped_stays(left: list[Path]) -> None:
    with left[0].open("rb"), left[1].open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        file.close()
        assert remove_left_behind(left[0].parent) == [left[2]]
        mapped.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_stays(left: list[Path]) -> None:
    os.chown(left[0], 12345, 12345)
    assert left[0] not in remove_left_behind(left[0].parent)


@pytest.mark.parametrize(
    ("environment", "cleans"),
    [
        ({}, False),
        ({"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, True),
        ({"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}, False),
    ],
)
def test_one_rank_of_a_host_cleans(
    environment: dict[str, str], cleans: bool, left: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clean_before_start(left[0].parent)
    assert any(path.exists() for path in left) != cleans
