"""Shards are distributed over ranks: each once, in order, as evenly as possible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.distributed import shards_of_rank, share_of
from distcnn.errors import InputError


@given(items=st.integers(0, 10_000), parts=st.integers(1, 300))
def test_spans_cover_all_items_once_and_differ_by_at_most_one(items: int, parts: int) -> None:
    spans = [share_of(items, parts, part) for part in range(parts)]
    assert [item for span in spans for item in span] == list(range(items))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_seven_ranks_share_eight_shards() -> None:
    assert [list(shards_of_rank(8, 7, rank)) for rank in range(7)] == [
        [0],
        [1],
        [2],
        [3],
        [4],
        [5],
        [6, 7],
    ]


def test_more_ranks_than_shards_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        InputError, match=r"9 ranks cannot share 8 shards.*at most 8 ranks.*--num-shards 9"
    ):
        shards_of_rank(8, 9, 0)
