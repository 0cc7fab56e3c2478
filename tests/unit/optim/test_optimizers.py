"""Optimizers: two steps by hand, a scalar reference, PyTorch, and their promises about state and
dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.optim import OPTIMIZERS, SGD, Adam, AdamW, Optimizer, Updater

Vector = NDArray[np.floating]
Maker = Callable[[Vector], Updater]

VARIANTS: dict[str, Maker] = {
    name: rule.start
    for name, rule in {
        "plain": SGD(),
        "decay": SGD(weight_decay=0.1),
        "momentum": SGD(momentum=0.9),
        "momentum-decay": SGD(momentum=0.9, weight_decay=0.1),
        "nesterov": SGD(momentum=0.9, nesterov=True),
        "nesterov-decay": SGD(momentum=0.9, weight_decay=0.1, nesterov=True),
        "adam": Adam(),
        "adam-decay": Adam(weight_decay=0.1),
        "adamw": AdamW(weight_decay=0.1),
    }.items()
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize(
    ("variant", "after_one", "after_two"),
    [
        ("plain", [0.95, -2.1], [1.05, -2.3]),
        ("decay", [0.94, -2.08], [1.0306, -2.2592]),
        ("momentum", [0.95, -2.1], [1.005, -2.39]),
        # v = (0.6, 0.8), then 0.9 * v + (-0.906, 1.792) = (-0.366, 2.512)
        ("momentum-decay", [0.94, -2.08], [0.9766, -2.3312]),
        ("nesterov", [0.905, -2.19], [1.0545, -2.651]),
        # steps (0.6 + 0.54, 0.8 + 0.72), then g = (-0.9114, 1.7848), v = (-0.3714, 2.5048), steps g
        # + 0.9 v
        ("nesterov-decay", [0.886, -2.152], [1.010566, -2.555912]),
        # The first step of Adam is learning_rate * sign(g); the second has m = (0.045 - 0.1, 0.09 +
        # 0.2) / 0.19 and v = (0.00024975 + 0.001, 0.000999 + 0.004) / 0.001999.
        (
            "adam",
            [0.9, -2.1],
            [0.9 + 0.1 * 0.2894736842 / 0.7906880501, -2.1 - 0.1 * 1.5263157895 / 1.5813761018],
        ),
        (
            "adamw",
            [0.89, -2.08],
            [
                0.8811 + 0.1 * 0.2894736842 / 0.7906880501,
                -2.0592 - 0.1 * 1.5263157895 / 1.5813761018,
            ],
        ),
    ],
)
def test_two_steps_by_hand(variant: str, after_one: list[float], after_two: list[float]) -> None:
    """From (1, -2), gradients (0.5, 1) and (-1, 2), learning rate, weight decay 0.1,
    momentum 0.9.
    """
    values = np.array([1.0, -2.0])
    optimizer = VARIANTS[variant](values)
    optimizer.step(values, np.array([0.5, 1.0]), 0.1)
    np.testing.assert_allclose(values, after_one, rtol=0, atol=1e-8)
    optimizer.step(values, np.array([-1.0, 2.0]), 0.1)
    np.testing.assert_allclose(values, after_two, rtol=0, atol=1e-8)


def naive_sgd(
    value: float,
    grads: list[float],
    rates: list[float],
    momentum: float,
    weight_decay: float,
    nesterov: bool,
) -> float:
    velocity = 0.0
    for grad, rate in zip(grads, rates, strict=True):
        decayed = grad + weight_decay * value
        velocity = momentum * velocity + decayed
        value -= rate * (decayed + momentum * velocity if nesterov else velocity)
    return value


def naive_adam(
    value: float, grads: list[float], rates: list[float], weight_decay: float, decoupled: bool
) -> float:
    first = second = 0.0
    for step, (grad, rate) in enumerate(zip(grads, rates, strict=True), start=1):
        if decoupled:
            value -= rate * weight_decay * value
        else:
            grad += weight_decay * value
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad**2
        value -= rate * (first / (1 - 0.9**step)) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return value


@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_twenty_steps_agree_with_the_formulas_one_number_at_a_time(
    name: str, weight_decay: float, portable: bool
) -> None:
    rng = np.random.default_rng(0)
    start, grads, rates = (
        rng.standard_normal(7),
        rng.standard_normal((20, 7)),
        rng.uniform(0.01, 0.2, 20).tolist(),
    )
    values = start.copy()
    settings: dict[str, Any] = {"weight_decay": weight_decay}
    if name in ("nesterov", "sgd"):
        settings["momentum"] = 0.8
    rule = OPTIMIZERS[name](learning_rate=0.1, **settings)
    optimizer = (rule.portable() if portable else rule).start(values)
    for grad, rate in zip(grads, rates, strict=True):
        optimizer.step(values, grad.copy(), rate)
    for index, value in enumerate(start.tolist()):
        column = grads[:, index].tolist()
        if name in ("adam", "adamw"):
            expected = naive_adam(value, column, rates, weight_decay, name == "adamw")
        else:
            expected = naive_sgd(value, column, rates, 0.8, weight_decay, name == "nesterov")
        assert values[index] == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_the_portable_form_of_a_rule_is_equal_to_it_and_inherits_what_a_user_changed() -> None:
    class Mine(Adam):
        @property
        def state_names(self) -> tuple[str, ...]:
            return (*super().state_names, "more")

    for rule in (SGD(momentum=0.5), Adam(), AdamW(weight_decay=0.1), Mine(beta1=0.5)):
        assert rule.portable() == rule
        assert type(rule.portable()) is type(rule)
        assert repr(rule.portable()) == repr(rule)
    assert "more" in Mine().portable().start(np.ones(2)).state


TORCH_VARIANTS: dict[str, Callable[[Any, Any], Any]] = {
    "plain": lambda optim, p: optim.SGD(p, lr=0.1),
    "decay": lambda optim, p: optim.SGD(p, lr=0.1, weight_decay=0.1),
    "momentum": lambda optim, p: optim.SGD(p, lr=0.1, momentum=0.9),
    "momentum-decay": lambda optim, p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda optim, p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "nesterov-decay": lambda optim, p: optim.SGD(
        p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True
    ),
    "adam": lambda optim, p: optim.Adam(p, lr=0.1),
    "adam-decay": lambda optim, p: optim.Adam(p, lr=0.1, weight_decay=0.1),
    "adamw": lambda optim, p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@every_variant
def test_twenty_steps_agree_with_pytorch(variant: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(0)
    values = rng.standard_normal(100)
    tensor = torch.nn.Parameter(torch.from_numpy(values.copy()))
    optimizer, torch_optimizer = (
        VARIANTS[variant](values),
        TORCH_VARIANTS[variant](torch.optim, [tensor]),
    )
    for _ in range(20):
        grads = rng.standard_normal(100)
        tensor.grad = torch.from_numpy(grads.copy())
        torch_optimizer.step()
        optimizer.step(values, grads, 0.1)
    np.testing.assert_allclose(values, tensor.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("variant", "names"),
    [
        ("plain", set()),
        ("decay", set()),
        ("momentum", {"velocity"}),
        ("nesterov", {"velocity"}),
        ("adam", {"first_moment", "second_moment"}),
        ("adamw", {"first_moment", "second_moment"}),
    ],
)
def test_state_begins_as_zeros_of_the_values_shape(variant: str, names: set[str]) -> None:
    values = np.ones(5, np.float32)
    optimizer = VARIANTS[variant](values)
    assert set(optimizer.state) == names
    for vector in optimizer.state.values():
        assert (vector.shape, vector.dtype) == (values.shape, values.dtype)
        assert not vector.any()


def test_the_state_holds_velocity_and_moments() -> None:
    values = np.array([1.0])
    sgd, adam = SGD(momentum=0.5).start(values), Adam().start(values)
    for grad in (4.0, 8.0):
        sgd.step(values, np.array([grad]), 0.1)
        adam.step(values, np.array([grad]), 0.1)
    assert sgd.state["velocity"].item() == 0.5 * 4 + 8
    assert adam.state["first_moment"].item() == pytest.approx(0.9 * 0.4 + 0.8)
    assert adam.state["second_moment"].item() == pytest.approx(0.999 * 0.016 + 0.064)


@every_variant
def test_steps_are_counted_and_the_vectors_stay_the_same_objects(variant: str) -> None:
    values = np.ones(3)
    optimizer = VARIANTS[variant](values)
    vectors = dict(optimizer.state)
    assert optimizer.steps_taken == 0
    for step in range(1, 4):
        optimizer.step(values, np.ones(3), 0.1)
        assert optimizer.steps_taken == step
    assert all(optimizer.state[name] is vector for name, vector in vectors.items())


@every_variant
def test_state_and_steps_are_all_it_remembers(variant: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal(50).astype(np.float32)
    optimizer = VARIANTS[variant](values)
    for _ in range(3):
        optimizer.step(values, rng.standard_normal(50).astype(np.float32), 0.1)

    restored_values = values.copy()
    restored = VARIANTS[variant](np.zeros(50, np.float32))
    restored.restore(optimizer.state, optimizer.steps_taken)
    for _ in range(3):
        grads = rng.standard_normal(50).astype(np.float32)
        optimizer.step(values, grads.copy(), 0.1)
        restored.step(restored_values, grads.copy(), 0.1)
    np.testing.assert_array_equal(restored_values, values)


@every_variant
def test_each_element_gets_the_same_bits_at_any_place(variant: str) -> None:
    rng = np.random.default_rng(2)
    whole = rng.standard_normal(37).astype(np.float32)
    parts = [whole[:5].copy(), whole[5:].copy()]
    optimizer, of_parts = VARIANTS[variant](whole), [VARIANTS[variant](part) for part in parts]
    for _ in range(5):
        grads = rng.standard_normal(37).astype(np.float32)
        for part, own, span in zip(parts, of_parts, (slice(0, 5), slice(5, 37)), strict=True):
            own.step(part, grads[span].copy(), 0.03)
        optimizer.step(whole, grads, 0.03)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@every_variant
@pytest.mark.parametrize("learning_rate", [0.1, np.float64(0.1)])
def test_float32_stays_float32(variant: str, learning_rate: float) -> None:
    values = np.ones(3, np.float32)
    optimizer = VARIANTS[variant](values)
    optimizer.step(values, np.ones(3, np.float32), learning_rate)
    assert values.dtype == np.float32
    assert all(vector.dtype == np.float32 for vector in optimizer.state.values())
    assert np.all(values < 1)


@pytest.mark.parametrize("variant", ["plain", "momentum", "nesterov", "adam", "adamw"])
def test_a_learning_rate_of_zero_changes_nothing(variant: str) -> None:
    values = np.array([1.5, -2.5])
    VARIANTS[variant](values).step(values, np.array([3.0, 4.0]), 0.0)
    np.testing.assert_array_equal(values, [1.5, -2.5])


def test_adam_with_zero_gradient_stays_where_it_is() -> None:
    values = np.array([1.5, -2.5])
    Adam().start(values).step(values, np.zeros(2), 0.1)
    np.testing.assert_array_equal(values, [1.5, -2.5])


# -- units that are dead: a gradient of 0 for ever


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("variant", ["momentum", "nesterov"])
def test_the_momentum_of_a_dead_unit_becomes_0(variant: str, dtype: type[np.floating]) -> None:
    values, grads = np.ones(4, dtype), np.array([1, -1, 1e-20, 0], dtype)
    optimizer = VARIANTS[variant](values)
    for step in range(7500):
        optimizer.step(values, grads if step == 0 else np.zeros(4, dtype), 0.1)
    assert np.all(optimizer.state["velocity"] == 0)


@pytest.mark.parametrize("variant", ["momentum", "nesterov", "adam", "adamw"])
def test_tiny_states_are_flushed_and_others_left_alone(variant: str) -> None:
    values = np.ones(6, np.float32)
    optimizer = VARIANTS[variant](values)
    for _ in range(500):
        for vector in optimizer.state.values():
            vector[:] = [4e-45, 1e-40, 1e-38, 0, 1e-20, 1e-3]
        optimizer.step(values, np.zeros(6, np.float32), 0.1)
        if all(not vector[:4].any() for vector in optimizer.state.values()):
            break
    else:
        pytest.fail("a subnormal state is never flushed")
    for vector in optimizer.state.values():
        assert np.all(vector[4:] > [1e-21, 1e-4])


@every_variant
def test_a_flush_depends_on_the_value_and_the_step_alone(variant: str) -> None:
    rng = np.random.default_rng(3)
    size = 40_000  # more than one chunk
    whole = rng.standard_normal(size).astype(np.float32)
    parts = [whole[:1000].copy(), whole[1000:].copy()]
    optimizer, of_parts = VARIANTS[variant](whole), [VARIANTS[variant](part) for part in parts]
    for step in range(200):
        grads = (rng.standard_normal(size) * 1e-36).astype(np.float32) * (step < 3)
        for part, own, span in zip(
            parts, of_parts, (slice(0, 1000), slice(1000, size)), strict=True
        ):
            own.step(part, grads[span].copy(), 0.03)
        optimizer.step(whole, grads, 0.03)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    for name, vector in optimizer.state.items():
        np.testing.assert_array_equal(np.concatenate([own.state[name] for own in of_parts]), vector)


def test_a_half_written_optimizer_says_what_it_must_define() -> None:
    class Half(Optimizer):
        pass

    values = np.ones(2)
    with pytest.raises(NotImplementedError, match="Half must define update"):
        Half().start(values).step(values, np.ones(2), 0.1)


def test_a_users_own_rule_is_one_class() -> None:
    class SignSGD(Optimizer):
        def update(
            self,
            values: Vector,
            grads: Vector,
            state: Mapping[str, Vector],
            learning_rate: float,
            step: int,
            scratch: Vector,
        ) -> None:
            values -= np.multiply(np.sign(grads), learning_rate, out=scratch)

    values = np.array([1.0, -2.0])
    SignSGD().start(values).step(values, np.array([3.0, -4.0]), 0.5)
    np.testing.assert_array_equal(values, [0.5, -1.5])


def test_descriptions_print_compare_and_refuse_impossible_values() -> None:
    rule = SGD(learning_rate=0.1, momentum=0.9, nesterov=True)
    assert rule == SGD(learning_rate=0.1, momentum=0.9, nesterov=True) != SGD(learning_rate=0.1)
    assert eval(repr(rule)) == rule
    assert Adam(weight_decay=0.1) != AdamW(weight_decay=0.1)
    for wrong in ({"momentum": 1.0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=name):
            SGD(**wrong)
    with pytest.raises(AttributeError):
        rule.momentum = 0.5  # type: ignore[misc]
