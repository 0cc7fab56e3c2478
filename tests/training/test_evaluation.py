"""Which test examples each rank evaluates."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distcnn.training.evaluation import examples_of_rank


@given(examples=st.integers(1, 2000), block_size=st.integers(1, 64), world_size=st.integers(1, 40))
def test_ranks_take_whole_blocks_and_each_example_once(examples: int, block_size: int, world_size: int) -> None:
    spans = [examples_of_rank(examples, block_size, world_size, rank) for rank in range(world_size)]
    assert [example for span in spans for example in span] == list(range(examples))
    assert all(span.start % block_size == 0 for span in spans if len(span))
