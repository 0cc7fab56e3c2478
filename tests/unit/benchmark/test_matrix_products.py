"""The recorder sees every matrix product of a step, counts it right, and leaves nothing behind."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import distcnn.nn
from distcnn.benchmark.im2col_bound import plain_products
from distcnn.benchmark.matrix_products import (
    FUNCTIONS,
    count_operations,
    operations_of,
    recorded,
    replay_seconds,
)
from distcnn.benchmark.session import Steps, record_step
from distcnn.nn import Conv2d, Dense, Flatten, ReLU, Sequential
from distcnn.nn.planned import PlannedNetwork
from tests.support.benchmark_fixtures import MakeRun


def tiny(microbatch_size: int = 2) -> PlannedNetwork:
    network = Sequential([Conv2d(3, 2), ReLU(), Flatten(), Dense(4)])
    return PlannedNetwork(network, (1, 4, 5), microbatch_size).initialise(np.random.default_rng(0))


def test_it_keeps_the_calls_and_counts_their_operations() -> None:
    first, second, out = (
        np.ones((3, 5), np.float32),
        np.ones((5, 7), np.float32),
        np.empty((3, 7), np.float32),
    )
    with recorded() as products:
        assert np.matmul(first, second, out=out) is out
        np.dot(second.T, first.T)
        np.matmul(first, np.ones(5, np.float32))
        np.matmul(np.ones((2, 3, 5)), np.ones((2, 5, 7)))
    assert [each.operations for each in products] == [
        2 * 3 * 5 * 7,
        2 * 7 * 5 * 3,
        2 * 3 * 5,
        2 * 2 * 3 * 5 * 7,
    ]
    assert products[0].operands[0] is first
    assert products[0].keywords["out"] is out
    np.matmul(first, second)
    assert len(products) == 4, "it records after its end"


def test_nothing_is_left_in_numpy_even_after_an_error() -> None:
    before = [getattr(np, name) for name in FUNCTIONS]
    with pytest.raises(ValueError, match="matmul"), recorded():
        np.matmul(np.ones((2, 3)), np.ones((2, 3)))
    assert [getattr(np, name) for name in FUNCTIONS] == before


def test_the_replay_makes_the_same_calls_in_the_same_order() -> None:
    first, out = np.full((2, 2), 3.0), np.zeros((2, 2))
    with recorded() as products:
        np.matmul(first, np.eye(2), out=out)
        np.matmul(out, out, out=out)
    expected = out.copy()
    out.fill(0)
    assert replay_seconds(products) > 0
    np.testing.assert_array_equal(out, expected)


def test_plain_products_of_a_small_network_by_hand() -> None:
    # conv: O=3, K=1*2*2=4, 3*4 positions x 2 examples = 24; dense: 4 outputs of 36 inputs, 2
    # examples.
    conv, dense = 2 * 3 * 4 * 24, 2 * 4 * 36 * 2
    assert [each.operations for each in plain_products(tiny())] == [conv, dense, dense, dense, conv]


def test_a_plain_step_calls_at_least_its_products(make_run: MakeRun) -> None:
    run = make_run(model="tutorial")
    recorded_step = record_step(Steps(run).take)
    forward = [each for each in recorded_step if each.operands[0].shape == (1, 10, 8 * 13 * 13)]
    assert len(forward) == 3, "one dense forward for each shard"
    assert forward[0].operations == 2 * 10 * 8 * 13 * 13 * 4
    assert operations_of(recorded_step) > 0


def test_products_are_called_where_the_recorder_sees_them() -> None:
    for file in set(Path(distcnn.nn.__file__).parent.glob("*.py")) - {
        Path(distcnn.nn.__file__).with_name("gradient_check.py")
    }:
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.MatMult), (
                f"{file.name}: write np.matmul, not @: the recorder cannot see an operator"
            )
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("einsum", "tensordot", "inner", "vdot"), (
                    f"{file.name}: write np.matmul, not {node.attr}"
                )
            if isinstance(node, ast.ImportFrom) and node.module == "numpy":
                assert not {alias.name for alias in node.names} & set(FUNCTIONS), (
                    f"{file.name}: look {node.names} up in np when called"
                )


def test_operations_of_scalars() -> None:
    assert count_operations(2.0, np.ones(3)) == 6
