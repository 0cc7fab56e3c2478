"""Losses: a gradient check, values by hand, a reference of plain loops, padding without weight, and
large logits.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distcnn.nn import LOSSES, softmax_cross_entropy, squared_error
from distcnn.nn.gradient_check import loss_gradient_error
from distcnn.nn.losses import Loss, portable_loss

Array = NDArray[np.floating]
examples = settings(deadline=None, derandomize=True, max_examples=60)
FORMS: dict[str, Loss] = {
    **LOSSES,
    **{f"portable {name}": portable_loss(loss) for name, loss in LOSSES.items()},
}
each_form = pytest.mark.parametrize("loss", FORMS.values(), ids=FORMS)
both = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
both_cross_entropies = pytest.mark.parametrize(
    "loss",
    [softmax_cross_entropy, portable_loss(softmax_cross_entropy)],
    ids=["native", "portable"],
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Array, NDArray[np.integer], Array, np.random.Generator]:
    classes, count = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.integers(0, 2, count).astype(np.float64)
    return 3 * rng.standard_normal((classes, count)), rng.integers(0, classes, count), weights, rng


@each_form
@examples
@given(batch=batches())
def test_gradients_agree_with_finite_differences(
    loss: Loss, batch: tuple[Array, NDArray[np.integer], Array, np.random.Generator]
) -> None:
    assert loss_gradient_error(loss, *batch) < 1e-5


@both_cross_entropies
def test_cross_entropy_by_hand(loss: Loss) -> None:
    """Softmax of (0, log 3) is (1/4, 3/4); of equal logits, 1/2 each.

    Values are sums over examples, not means.
    """
    logits = np.array([[0.0, 5.0], [math.log(3), 5.0]])
    loss_sum, grad = loss(logits, np.array([1, 0]), np.ones(2))
    assert loss_sum == pytest.approx(math.log(4 / 3) + math.log(2), rel=1e-14)
    np.testing.assert_allclose(grad, [[0.25, -0.5], [-0.25, 0.5]], rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@both_cross_entropies
@pytest.mark.parametrize("margin", [0.0, 1e-3, 1.0, 20.0, 43.0, 80.0, -1e-3, -20.0, -200.0])
def test_cross_entropy_is_right_however_small_it_is(
    margin: float, dtype: type[np.floating], loss: Loss
) -> None:
    logits = np.array([[margin, 5.0], [0.0, 5.0], [0.0, 5.0]], dtype)
    loss_sum, grad = loss(logits, np.array([0, 1]), np.array([1, 0], dtype))
    expected = math.log1p(2 * math.exp(-margin))
    assert loss_sum == pytest.approx(expected, rel=1e-6 if dtype is np.float32 else 1e-14, abs=0)
    assert grad[0, 0] == pytest.approx(
        -2 * math.exp(-margin) / (1 + 2 * math.exp(-margin)), rel=1e-5, abs=1e-6
    )


def test_squared_error_by_hand() -> None:
    outputs = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    loss_sum, grad = squared_error(outputs, np.array([2, 1]), np.ones(2))
    assert loss_sum == 4.5
    np.testing.assert_array_equal(grad, [[1, 0], [2, 0], [2, 0]])


@each_form
def test_examples_of_weight_zero_add_nothing_and_get_a_gradient_of_exactly_zero(loss: Loss) -> None:
    rng = np.random.default_rng(5)
    outputs, labels = rng.standard_normal((4, 6)).astype(np.float32), rng.integers(0, 4, 6)
    weights = np.array([1, 0, 1, 1, 0, 0], np.float32)
    loss_sum, grad = loss(outputs, labels, weights)
    assert np.all(grad[:, weights == 0] == 0)
    assert np.all(grad[:, weights == 1] != 0)

    padding = weights == 0
    other_outputs, other_labels = outputs.copy(), labels.copy()
    other_outputs[:, padding] = 100 * rng.standard_normal((4, 3))
    other_labels[padding] = (labels[padding] + 1) % 4
    other_sum, other_grad = loss(other_outputs, other_labels, weights)
    assert other_sum == loss_sum
    np.testing.assert_array_equal(other_grad, grad)

    real_sum, real_grad = loss(outputs[:, ~padding], labels[~padding], weights[~padding])
    assert loss_sum == pytest.approx(real_sum, rel=1e-6)
    np.testing.assert_array_equal(grad[:, ~padding], real_grad)


@each_form
def test_nothing_but_padding_sums_to_exactly_zero(loss: Loss) -> None:
    loss_sum, grad = loss(
        np.random.default_rng(0).standard_normal((3, 4)), np.array([0, 1, 2, 0]), np.zeros(4)
    )
    assert loss_sum == 0
    assert not grad.any()


@both_cross_entropies
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_huge_logits_do_not_overflow(size: float, loss: Loss) -> None:
    logits = np.array([[size, -size, 0], [0, 0, size], [-size, size, -size]], np.float32)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        loss_sum, grad = loss(logits, np.array([0, 2, 0]), np.ones(3, np.float32))
    assert loss_sum == pytest.approx(size, rel=1e-6)
    np.testing.assert_array_equal(grad, [[0, 0, -1], [0, 0, 1], [0, 0, 0]])


def test_cross_entropy_does_not_change_when_all_logits_of_an_example_move_together() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.integers(-8, 8, (5, 7)).astype(np.float64), rng.integers(0, 5, 7)
    loss_sum, grad = softmax_cross_entropy(logits, labels, np.ones(7))
    moved_sum, moved_grad = softmax_cross_entropy(logits + 1024.0, labels, np.ones(7))
    assert moved_sum == loss_sum
    np.testing.assert_array_equal(moved_grad, grad)


@both
def test_float32_stays_float32_the_sum_is_a_float_and_the_outputs_are_left_alone(
    loss: Loss,
) -> None:
    outputs = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    loss_sum, grad = loss(outputs, np.array([0, 1], np.uint8), np.ones(2, np.float32))
    assert type(loss_sum) is float
    assert grad.dtype == np.float32
    np.testing.assert_array_equal(outputs, [[1, 2], [3, 4]])


@both
def test_a_portable_form_agrees_with_the_native_in_float64_and_knows_what_is_its_own(
    loss: Loss,
) -> None:
    rng = np.random.default_rng(3)
    outputs = 4 * rng.standard_normal((10, 128)).astype(np.float32)
    labels, weights = rng.integers(0, 10, 128), np.ones(128, np.float32)
    expected_sum, expected = loss(outputs.astype(np.float64), labels, weights)
    loss_sum, grad = portable_loss(loss)(outputs, labels, weights)
    assert type(loss_sum) is float
    assert grad.dtype == np.float64
    assert loss_sum == pytest.approx(expected_sum, rel=1e-14)
    np.testing.assert_allclose(grad, expected, rtol=1e-13, atol=1e-15)

    def own(outputs: Array, labels: Array, weights: Array) -> tuple[float, Array]:
        return 0.0, outputs

    assert portable_loss(own) is own
    assert portable_loss(portable_loss(loss)) is portable_loss(loss)


def test_the_losses_have_the_names_of_the_command_line() -> None:
    assert dict(LOSSES) == {"cross-entropy": softmax_cross_entropy, "squared-error": squared_error}
