"""Evaluation: which test examples each rank evaluates, and what is printed, saved and replayed if
their loss is NaN or infinite.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.datasets import Microbatch, Shard
from distcnn.distributed import Communicator, Totals
from distcnn.nn import Dense, Flatten, Sequential, softmax_cross_entropy
from distcnn.nn.plan import Plan
from distcnn.training.evaluation import Evaluation, examples_of_rank
from distcnn.training.step import Lane


@given(examples=st.integers(1, 2000), block_size=st.integers(1, 64), world_size=st.integers(1, 40))
def test_ranks_take_whole_blocks_and_each_example_once(
    examples: int, block_size: int, world_size: int
) -> None:
    spans = [examples_of_rank(examples, block_size, world_size, rank) for rank in range(world_size)]
    assert [example for span in spans for example in span] == list(range(examples))
    assert all(span.start % block_size == 0 for span in spans if len(span))


def plan_for(microbatch_size: int, scale: float) -> Plan:
    """Ten outputs from the image's ten pixels; a larger ``scale`` makes them more certain and
    better.
    """
    model = Sequential([Flatten(), Dense(10)])
    parameters = model.allocate((1, 1, 10))
    parameters.assign({"dense1.weight": scale * np.eye(10)})
    return model.plan((1, 1, 10), microbatch_size, parameters)


def evaluated(images: np.ndarray, labels: np.ndarray, microbatch_size: int, scale: float) -> Totals:
    part = Shard(0, images, labels, seed=0, shuffled=False)
    microbatch = Microbatch((1, 1, 10), microbatch_size, np.array([0.0]), np.array([1.0]))
    lane = Lane(plan_for(microbatch_size, scale), microbatch)
    return Evaluation(lane, softmax_cross_entropy, part, len(labels), Communicator())()


@pytest.mark.parametrize("scale", [0.1, 8.0, 20.0, 60.0])
def test_the_loss_is_right_to_float32_at_any_microbatch_size(scale: float) -> None:
    """Losses from 2.2 down to 8e-26, in 5,000 blocks of one example, in blocks that do not divide
    the set, and in a single block.
    """
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    images = np.zeros((5000, 1, 10, 1), np.uint8)
    images[np.arange(5000), 0, labels] = 255
    expected = math.log1p(9 * math.exp(-scale))
    for microbatch_size in (1, 7, 5000):
        totals = evaluated(images, labels, microbatch_size, scale)
        assert (totals.examples, totals.correct) == (5000, 5000)
        assert totals.loss == pytest.approx(expected, rel=5e-6)
