"""Sharing vectors, and when it is refused; with one rank, whose offers a test may change. Sums over ranks: ``tests/mpi``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distcnn.parallel.shared_vector import SharedVector, share_vectors

FOLDER = Path("/proc/self/fd")


def test_a_vector_is_zero_and_can_be_written() -> None:
    before = len(list(FOLDER.iterdir()))
    vectors = share_vectors(lambda item: [item], 5, np.float64)
    assert vectors is not None
    assert [each.tolist() for each in vectors] == [[0.0] * 5]
    vectors[0][:] = range(5)
    assert vectors[0].sum() == 10
    assert len(list(FOLDER.iterdir())) <= before + 1  # the mapping's own


def test_two_ranks_see_each_other() -> None:
    """The same process twice: what it shares first is what the second rank offers."""
    first: list[Any] = []

    def remember(item: Any) -> list[Any]:
        first.append(item if isinstance(item, bool) else (item[0], os.dup(item[1]), item[2]))
        return [item]

    ours = share_vectors(remember, 3, np.float32)
    assert ours is not None
    os.pwrite(first[0][1], first[0][2], 0)
    vectors = share_vectors(lambda item: [item, True] if isinstance(item, bool) else [item, first[0]], 3, np.float32)
    assert vectors is not None
    vectors[1][2] = 7
    assert ours[0][2] == 7
    os.close(first[0][1])


@pytest.mark.parametrize("change", ["another token", "no such process", "no such descriptor", "no memory"])
def test_what_cannot_be_seen_is_not_shared(change: str) -> None:
    def offer(item: Any) -> list[Any]:
        if isinstance(item, bool):
            return [item]
        process, descriptor, token = item
        changed = {
            "another token": (process, descriptor, bytes(len(token))),
            "no such process": (2**22 + 1, descriptor, token),
            "no such descriptor": (process, 10**6, token),
            "no memory": (process, None, token),
        }
        return [changed[change]]

    before = len(list(FOLDER.iterdir()))
    assert share_vectors(offer, 5, np.float64) is None
    assert len(list(FOLDER.iterdir())) == before


def test_without_room_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    before = len(list(FOLDER.iterdir()))
    assert share_vectors(lambda item: [item], 5, np.float64) is None
    assert len(list(FOLDER.iterdir())) == before


def test_parts_are_told_from_other_arrays() -> None:
    own = np.zeros(10)
    vector = SharedVector([own, np.zeros(10)], 0, lambda: None)
    assert [vector.part(each) for each in (own, own[3:5], own[9:])] == [slice(0, 10), slice(3, 5), slice(9, 10)]
    others = (np.zeros(10), own[::2], own.view(np.float32), own.view(np.int64), np.zeros(20)[5:15])
    assert [vector.part(each) for each in others] == [None] * len(others)


def test_a_rank_sums_its_share_in_rank_order_between_two_meetings() -> None:
    vectors, meetings = [np.array([1e16, 1, 2, 3]), np.array([1.0, 10, 20, 30]), np.array([-1e16, 100, 200, 300])], []
    SharedVector(vectors, 0, lambda: meetings.append(vectors[1].tolist())).sum(slice(0, 3))
    assert meetings == [[1, 10, 20, 30], [0, 10, 20, 30]]  # (1e16 + 1) - 1e16 is 0 in this order
    for rank in (1, 2):
        SharedVector(vectors, rank, lambda: None).sum(slice(0, 3))
    assert [each.tolist() for each in vectors] == [[0, 111, 222, own] for own in (3, 30, 300)]
