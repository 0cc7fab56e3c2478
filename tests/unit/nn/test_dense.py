"""Dense and Flatten: a gradient check, values by hand, and a reference of plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.nn import Dense, Flatten
from distcnn.nn.kernels import dense as dense_module
from distcnn.nn.kernels.dense import SMALL_PRODUCT, blocks_of_rows
from tests.support.networks import Network, planned

examples = settings(deadline=None, derandomize=True, max_examples=50)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**32 - 1)


def dense(in_features: int, out_features: int, count: int, rng: np.random.Generator) -> Network:
    network = planned([Dense(out_features)], (in_features,), count, np.float64)
    network.parameters.assign(rng.standard_normal(network.values.shape))
    return network


@examples
@given(sizes, sizes, sizes, seeds)
def test_gradients_agree_with_finite_differences(
    in_features: int, out_features: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    network = dense(in_features, out_features, count, rng)
    assert network.gradient_error(rng, rng.standard_normal((in_features, count))) < 1e-5


def test_dense_by_hand() -> None:
    network = planned([Dense(2)], (3,), 2, np.float64)
    network.parameters.assign([1, 2, 3, 4, 5, 6, 0.5, -0.5])
    x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 2.0]])
    np.testing.assert_array_equal(network.forward(x), [[-1.5, 8.5], [-2.5, 16.5]])

    grad_x = network.backward(np.array([[1.0, 2.0], [0.0, -1.0]]), input_gradient=True)
    assert grad_x is not None
    np.testing.assert_array_equal(grad_x, [[1, -2], [2, -1], [3, 0]])
    np.testing.assert_array_equal(network.named_grads()["dense1.weight"], [[1, 2, 3], [0, -1, -2]])
    np.testing.assert_array_equal(network.named_grads()["dense1.bias"], [3, -1])


def test_flatten_orders_by_channel_then_row_then_column_and_shares_memory() -> None:
    network = planned([Flatten()], (2, 3, 4), 5, np.float64)
    assert network.output_shape == (24,)
    x = np.arange(120.0).reshape(2, 3, 4, 5)
    flat = network.forward(x)
    assert np.shares_memory(flat, x)
    for c, h, w, n in np.ndindex(x.shape):
        assert flat[(c * 3 + h) * 4 + w, n] == x[c, h, w, n]


def test_flatten_turns_the_gradient_back_into_images() -> None:
    network = planned([Flatten()], (2, 3, 4), 5, np.float64)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    np.testing.assert_array_equal(network.backward(network.forward(x), input_gradient=True), x)


@examples
@given(st.tuples(sizes, sizes, sizes), sizes, sizes, seeds)
def test_flatten_before_dense_passes_the_gradient_check(
    shape: tuple[int, int, int], out_features: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    network = planned([Flatten(), Dense(out_features)], shape, count, np.float64).initialise(rng)
    assert network.gradient_error(rng, rng.standard_normal((*shape, count))) < 1e-5


@pytest.mark.parametrize("out_features", [0, -3])
def test_too_few_features_are_refused(out_features: int) -> None:
    with pytest.raises(
        ValueError, match=rf"out_features \(={out_features}\) must be an integer of at least 1"
    ):
        Dense(out_features)


def test_images_are_refused_with_the_remedy() -> None:
    with pytest.raises(
        ValueError,
        match=r"dense1: Dense takes flat inputs .* shape \(1, 28, 28\): put Flatten before it",
    ):
        planned([Dense(10)], (1, 28, 28), 1)


@pytest.mark.parametrize(
    ("rows", "each", "expected"),
    [
        (
            500,
            800 * 32,
            20,
        ),  # 25 rows of lenet's first dense layer at microbatch 32: 640,000 multiplications
        (800, 500 * 32, 16),
        (10, 500 * 32, 1),  # small as it is
        (128, 9216 * 32, 1),  # three rows at a time would not pay
        (9216, 128 * 32, 48),
        (509, 800 * 32, 1),  # a prime number of rows
        (16, SMALL_PRODUCT // 16, 1),
        (32, SMALL_PRODUCT // 16, 2),
    ],
)
def test_blocks_of_rows_by_hand(rows: int, each: int, expected: int) -> None:
    assert blocks_of_rows(rows, each) == expected


@pytest.mark.parametrize(
    ("in_features", "out_features", "count"), [(6, 8, 3), (12, 5, 2), (5, 12, 4), (7, 7, 1)]
)
def test_products_in_blocks_give_the_same(
    in_features: int, out_features: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for small in (10**9, 40):
        monkeypatch.setattr(dense_module, "SMALL_PRODUCT", small)
        monkeypatch.setattr(dense_module, "FEWEST_ROWS", 1)
        rng = np.random.default_rng(3)
        network = dense(in_features, out_features, count, rng)
        y = network.forward(rng.standard_normal((in_features, count)))
        grad_x = network.backward(rng.standard_normal(y.shape), input_gradient=True)
        assert grad_x is not None
        results.append([y, grad_x, network.grads])
    for whole, in_blocks in zip(*results, strict=True):
        np.testing.assert_allclose(in_blocks, whole, rtol=1e-13, atol=1e-13)
