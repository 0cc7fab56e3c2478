"""Shared memory of killed runs is removed; that of other users and living processes is not."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from distcnn.fault_tolerance.leftovers import clean_before_start, remove_left_behind


def test_what_nobody_uses_is_removed(left_behind: list[Path]) -> None:
    other = left_behind[0].with_name("somebody's")
    other.touch()
    assert sorted(remove_left_behind(other.parent)) == sorted(left_behind)
    assert [path for path in left_behind if path.exists()] == []
    assert other.exists()


def test_what_a_process_has_open_or_mapped_stays(left_behind: list[Path]) -> None:
    with left_behind[0].open("rb"), left_behind[1].open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        file.close()
        assert remove_left_behind(left_behind[0].parent) == [left_behind[2]]
        mapped.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_another_users_stays(left_behind: list[Path]) -> None:
    os.chown(left_behind[0], 12345, 12345)
    assert left_behind[0] not in remove_left_behind(left_behind[0].parent)


@pytest.mark.parametrize(
    ("environment", "cleans"),
    [
        ({}, False),
        ({"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, True),
        ({"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}, False),
    ],
)
def test_one_rank_of_a_host_cleans(
    environment: dict[str, str],
    cleans: bool,
    left_behind: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clean_before_start(left_behind[0].parent)
    assert any(path.exists() for path in left_behind) != cleans
