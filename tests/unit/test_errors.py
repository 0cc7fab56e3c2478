"""Calls in another library's argument order are refused with the right one; the documented calls
work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distcnn.errors import ArgumentError, InputError
from distcnn.models import build_model
from distcnn.nn import (
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    ReLU,
    Sequential,
    Tanh,
    softmax_cross_entropy,
    squared_error,
)
from distcnn.nn.losses import Loss

VALUES = np.zeros(3)


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda: Conv2d(1, 8, 3), r"Conv2d\(8, 3\)"),  # PyTorch's order
        (lambda: Conv2d(8, 3, 2), "stride="),
        (lambda: Conv2d(1, 8, kernel_size=3), r"Conv2d\(8, 3\)"),
        (lambda: Conv2d(in_channels=1, out_channels=8, kernel_size=3), r"Conv2d\(8, 3\)"),
        (lambda: Conv2d(8, 3, bias=False), "bias"),
        (lambda: Conv2d(8), "kernel_size"),
        (lambda: Dense(784, 10), r"Dense\(10\)"),
        (lambda: Dense(in_features=784, out_features=10), r"Dense\(10\)"),
        (lambda: Dense(10, "relu"), "weight_initialiser="),
        (lambda: MaxPool2d(3, 2, 1), "padding"),
        (lambda: AvgPool2d(2, padding=1), "padding"),
        (lambda: ReLU(True), "no arguments"),
        (lambda: Tanh(inplace=True), "no arguments"),
        (lambda: Flatten(1), "no arguments"),
        (lambda: Sequential(Flatten(), Dense(10)), "list"),
        (lambda: Sequential(Flatten()), "list"),
        (lambda: Sequential([Flatten(), ReLU]), r"ReLU\(\)"),
        (lambda: Sequential([[Flatten()], Dense(10)]), r"layers\[0\]"),
        (lambda: Sequential(None), "list"),  # type: ignore[arg-type]
    ],
)
def test_what_can_be_confused_is_refused_with_how_to_write_it(
    call: Callable[[], object], remedy: str
) -> None:
    with pytest.raises(ArgumentError, match=remedy):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Conv2d(0, 3), r"out_channels \(=0\)"),
        (lambda: Conv2d(8, 3, padding="same"), r"padding \(='same'\)"),  # type: ignore[arg-type]
        (lambda: Dense(10.5), r"out_features \(=10.5\)"),  # type: ignore[arg-type]
        (lambda: Dense(10, weight_initialiser="he"), r"weight_initialiser \(='he'\).*he_normal"),  # type: ignore[arg-type]
        (lambda: Conv2d(8, 3, bias_initialiser=0), r"bias_initialiser \(=0\)"),  # type: ignore[arg-type]
        (lambda: Sequential([Dense(2)]).summary((3,), 0), r"microbatch_size \(=0\)"),
    ],
)
def test_an_impossible_value_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_documented_calls_mean_what_they_say() -> None:
    conv = Conv2d(16, 3, stride=2, padding=1)
    assert (conv.out_channels, conv.kernel_size, conv.stride, conv.padding) == (
        16,
        (3, 3),
        (2, 2),
        (1, 1),
    )
    assert Dense(10).out_features == 10
    for pool in (MaxPool2d(2), MaxPool2d(2, 2), MaxPool2d(kernel_size=2, stride=2)):
        assert (pool.kernel_size, pool.stride) == ((2, 2), (2, 2))
    assert AvgPool2d(3, 2).stride == (2, 2)


def test_a_layer_of_a_users_own_takes_what_it_likes() -> None:
    class Scale(ReLU):
        def __init__(self, factor: float) -> None:
            self.factor = factor

    assert Scale(2.0).factor == 2.0


def test_a_model_with_such_a_call_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(input_shape: tuple[int, int, int], classes: int) -> Sequential:
        return Sequential([Conv2d(1, 8, 3), Flatten(), Dense(classes)])  # type: ignore[misc]

    monkeypatch.setitem(
        __import__("distcnn.models", fromlist=["MODELS"]).MODELS, "torch-like", network
    )
    with pytest.raises(InputError, match=r"model 'torch-like'.*Conv2d\(8, 3\)"):
        build_model("torch-like", (1, 28, 28), 10, 2)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, squared_error])
@pytest.mark.parametrize(
    ("outputs", "labels", "weights"),
    [
        ((4, 3), 4, 4),
        ((3, 4), 3, 4),
        ((3, 4), 4, 3),
        ((3, 4, 1), 4, 4),
        ((3, 4), 1, 4),
        ((3, 4), 4, 1),
    ],
)
def test_a_loss_refuses_other_shapes(
    loss: Loss, outputs: tuple[int, ...], labels: int, weights: int
) -> None:
    with pytest.raises(ValueError, match=r"\(classes, N\)"):
        loss(np.zeros(outputs), np.zeros(labels, int), np.ones(weights))
