"""Networks as text: every model comes back equal, and text that is not a network is refused."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn.architecture import describe, parse
from distcnn.errors import InputError
from distcnn.models import MODELS
from distcnn.nn import Conv2d, Dense, Flatten, Identity, MaxPool2d, Sequential, uniform


class Doubled(Identity):
    """A user's own layer, with an argument."""

    def __init__(self, times: int = 2) -> None:
        self.times = times


@pytest.mark.parametrize("name", MODELS)
def test_every_model_comes_back_equal(name: str) -> None:
    model = MODELS[name]((1, 28, 28), 10)
    assert parse(describe(model)) == model


def test_arguments_are_kept() -> None:
    model = Sequential([Conv2d(3, (3, 1), padding=(1, 0)), MaxPool2d(3, 2), Flatten(), Dense(2)])
    assert parse(describe(model)) == model
    assert "Conv2d(3, (3, 1), padding=(1, 0))" in describe(model)
    model = Sequential([Flatten(), Dense(np.int64(2), weight_initialiser=uniform(0.1))])  # type: ignore[arg-type]
    assert describe(model) == "Sequential([Flatten(), Dense(2, weight_initialiser=uniform(0.1))])"
    assert parse(describe(model)) == model


def test_own_layers_are_named_by_their_module() -> None:
    model = Sequential([Flatten(), Doubled(3), Dense(2)])
    text = describe(model)
    assert f"{__name__}.Doubled(times=3)" in text
    assert parse(text) == model
    with pytest.raises(InputError, match=r"no_such_module\.Doubled cannot be imported"):
        parse(text.replace(__name__, "no_such_module"))


def test_what_text_cannot_tell_is_refused_unless_it_is_an_initialiser_not_asked_for() -> None:
    model = Sequential([Flatten(), Dense(2, weight_initialiser=lambda *_: np.ones(1))])
    with pytest.raises(InputError, match="weight_initialiser"):
        describe(model)
    assert describe(model, initialisers=False) == "Sequential([Flatten(), Dense(2)])"


def test_an_argument_that_the_layer_does_not_keep_is_named() -> None:
    class Leaky(Identity):
        def __init__(self, slope: float = 0.1) -> None:
            self._slope = slope

    with pytest.raises(InputError, match=r"Leaky: the argument slope .* self\.slope = slope"):
        describe(Sequential([Flatten(), Leaky(0.2), Dense(2)]))


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "Sequential()", "Sequential([3])", "Sequential([Dense])", "Dense(3)"),
        *("Sequential([Dense(__import__('os'))])", "Sequential([Dense(2)]).layers"),
        *("Sequential([Dense(2, weight_initialiser=uniform(print))])",),
        *("Sequential([Dense(-1)])", "Sequential([os.system('true')])", "[" * 5000),
    ],
)
def test_text_that_is_not_a_network_is_refused_and_not_run(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)
