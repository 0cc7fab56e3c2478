"""Replicas: equal ones give their parameters' hashes; a single different bit is found, and its rank
is named on all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.distributed import Communicator
from distcnn.errors import TrainingError
from distcnn.nn import Conv2d, Dense, Flatten, Parameters, Sequential
from distcnn.optim import Updater
from distcnn.registry import find_optimizer
from distcnn.training.consistency import (
    array_sha256,
    compare_replicas,
    parameter_hashes,
    params_sha256,
)
from tests.unit.distributed.test_communicator import on_ranks

Damage = Callable[[int, Parameters, Updater], None]


def make_replica(optimizer: str = "adam") -> tuple[Parameters, Updater]:
    model = Sequential([Conv2d(2, 2), Flatten(), Dense(3)])
    parameters = model.initialise((1, 3, 3), np.random.default_rng(1))
    return parameters, find_optimizer(optimizer, 0.1, 0.9, 0.0).start(parameters.values)


def compare(ranks: int, damage: Damage, optimizer: str = "adam") -> list[Any]:
    """The result of comparing step 7 on each rank, or the text of its ``TrainingError``."""

    def on_rank(world: Any) -> Any:
        world.hosts = [f"host{rank}" for rank in range(ranks)]
        replica = make_replica(optimizer)
        damage(world.rank, *replica)
        try:
            return compare_replicas(*replica, world, 7)
        except TrainingError as error:
            return str(error)

    return on_ranks(ranks, on_rank)


def flip(vector: np.ndarray, index: int, bit: int = 0) -> None:
    vector.view(np.uint32)[index] ^= np.uint32(1 << bit)


def flip_parameter(parameters: Parameters, index: int, bit: int = 0) -> None:
    with parameters.changing() as values:
        flip(values, index, bit)


def test_equal_replicas_give_the_hash_of_each_parameter() -> None:
    parameters, optimizer = make_replica()
    by_hand = {
        name: hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
        for name, values in parameters.named().items()
    }
    assert list(by_hand) == ["conv1.weight", "conv1.bias", "dense1.weight", "dense1.bias"]
    assert (
        compare_replicas(parameters, optimizer, Communicator(), 7)
        == parameter_hashes(parameters)
        == by_hand
    )
    assert compare(3, lambda rank, parameters, optimizer: None) == [by_hand] * 3
    assert (
        params_sha256(parameters)
        == hashlib.sha256(parameters.values.astype("<f4").tobytes()).hexdigest()
    )


def test_hashes_see_what_compares_equal_and_no_memory_layout() -> None:
    assert array_sha256(np.array([0.0], np.float32)) != array_sha256(np.array([-0.0], np.float32))
    values = np.arange(6, dtype=np.float32)
    assert (
        array_sha256(np.repeat(values, 2)[::2])
        == array_sha256(values)
        == array_sha256(values.astype(">f4"))
    )


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(3, 5), bad=st.data(), index=st.integers(0, 36), bit=st.integers(0, 31))
def test_one_bit_of_the_weights_is_found_and_its_rank_named(
    ranks: int, bad: st.DataObject, index: int, bit: int
) -> None:
    # 8 weights and 2 biases of the convolution, 24 weights and 3 biases of the dense layer.
    parameter = (
        "conv1.weight"
        if index < 8
        else "conv1.bias"
        if index < 10
        else "dense1.weight"
        if index < 34
        else "dense1.bias"
    )
    failing = bad.draw(st.integers(0, ranks - 1))
    outcomes = compare(
        ranks,
        lambda rank, parameters, optimizer: (
            flip_parameter(parameters, index, bit) if rank == failing else None
        ),
    )
    assert len(set(outcomes)) == 1
    assert outcomes[0].startswith(
        f"step 7: the replicas differ: {parameter} on rank {failing} (host host{failing}) differs"
    )


@pytest.mark.parametrize(
    ("optimizer", "vector"),
    [("adam", "first_moment"), ("adamw", "second_moment"), ("nesterov", "velocity")],
)
def test_one_bit_of_the_optimizer_is_found(optimizer: str, vector: str) -> None:
    outcomes = compare(
        4,
        lambda rank, parameters, held: flip(held.state[vector], 36) if rank == 2 else None,
        optimizer,
    )
    assert len(set(outcomes)) == 1
    assert outcomes[0].startswith(
        f"step 7: the replicas differ: the optimizer's {vector} on rank 2 (host host2) differs"
    )


def test_the_first_parameter_is_named() -> None:
    def damage(rank: int, parameters: Parameters, updater: Updater) -> None:
        if rank == 1:
            flip(updater.state["first_moment"], 0)
            flip_parameter(parameters, 20)
            flip_parameter(parameters, 9)

    assert "differ: conv1.bias on rank 1 (host host1) differs" in compare(3, damage)[0]


@pytest.mark.parametrize(
    ("bits", "named"),
    [
        ({0: 1, 3: 1}, "rank 0 (host host0), 3 (host host3) differs"),
        ({1: 1, 4: 2}, "rank 1 (host host1), 4 (host host4) differs"),
        ({0: 1, 1: 1, 2: 1}, "rank 3 (host host3), 4 (host host4) differs"),
    ],
)
def test_those_that_are_not_as_the_most_are_named(bits: dict[int, int], named: str) -> None:
    outcomes = compare(
        5,
        lambda rank, parameters, optimizer: (
            flip_parameter(parameters, 0, bits[rank]) if rank in bits else None
        ),
    )
    assert len(set(outcomes)) == 1
    assert f"conv1.weight on {named}" in outcomes[0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_without_a_majority_all_are_named(ranks: int) -> None:
    outcomes = compare(
        ranks,
        lambda rank, parameters, optimizer: (
            flip_parameter(parameters, 36) if rank < ranks // 2 else None
        ),
    )
    everyone = ", ".join(f"{rank} (host host{rank})" for rank in range(ranks))
    assert len(set(outcomes)) == 1
    assert outcomes[0].startswith(
        f"step 7: the replicas differ: dense1.bias on rank {everyone} differs"
    )
