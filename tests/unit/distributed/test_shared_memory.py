"""Sharing memory, and when it is refused; with one rank, whose offers a test may change.

Several ranks are tested in ``tests/mpi``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from distcnn.distributed.shared_memory_reduction import TOKEN_BYTES, share_memory

FOLDER = Path("/proc/self/fd")


@pytest.mark.parametrize("nbytes", [0, 1, TOKEN_BYTES, 5000])
def test_memory_is_zero_and_can_be_written(nbytes: int) -> None:
    before = len(list(FOLDER.iterdir()))
    memories = share_memory(lambda item: [item], nbytes)
    assert memories is not None
    assert memories[0][:] == bytes(max(nbytes, TOKEN_BYTES))
    memories[0][:nbytes] = b"x" * nbytes
    assert memories[0][:].count(b"x") == nbytes
    assert len(list(FOLDER.iterdir())) <= before + 1  # the mapping's own


def test_two_ranks_see_each_other() -> None:
    """The same process twice: what it shares first is the second rank's offer."""
    first: list[Any] = []

    def remember(item: Any) -> list[Any]:
        first.append(item if isinstance(item, bool) else (item[0], os.dup(item[1]), item[2]))
        return [item]

    ours = share_memory(remember, 100)
    assert ours is not None
    os.pwrite(first[0][1], first[0][2], 0)
    memories = share_memory(
        lambda item: [item, True] if isinstance(item, bool) else [item, first[0]], 300
    )
    assert memories is not None
    assert [len(each) for each in memories] == [300, 100]
    memories[1][2] = 7
    assert ours[0][2] == 7
    os.close(first[0][1])


@pytest.mark.parametrize(
    "change", ["another token", "no such process", "no such descriptor", "no memory"]
)
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
    assert share_memory(offer, 40) is None
    assert len(list(FOLDER.iterdir())) == before


def test_without_room_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    before = len(list(FOLDER.iterdir()))
    assert share_memory(lambda item: [item], 40) is None
    assert len(list(FOLDER.iterdir())) == before
