"""Which array of a file is which parameter of the network: by name, by order, by ``--map``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from distcnn import nn
from distcnn.architecture import describe
from distcnn.errors import InputError
from distcnn.interop import ForeignWeights, fit
from tests.support.interop_fixtures import MNIST, Array, values_for


def lenet_like(classes: int = 10) -> nn.Sequential:
    return nn.Sequential(
        [nn.Conv2d(3, 5), nn.Flatten(), nn.Dense(20), nn.ReLU(), nn.Dense(classes)]
    )


def foreign(arrays: Mapping[str, Array]) -> ForeignWeights:
    return ForeignWeights("test file", dict(arrays))


def fitted(arrays: Mapping[str, Array], model: nn.Sequential, mapping: str = "") -> Any:
    return fit(foreign(arrays), model, MNIST, mapping, "FILE")


def renamed(values: Mapping[str, Array], names: str) -> dict[str, Array]:
    new = [f"{name}.{kind}" for name in names.split() for kind in ("weight", "bias")]
    return dict(zip(new, values.values(), strict=True))


def test_equal_names_win_over_the_order() -> None:
    values = values_for(lenet_like())
    backwards = dict(reversed(list(values.items())))
    found = fitted({**backwards, "more": np.ones(3, np.float32)}, lenet_like())
    assert all(np.array_equal(found.arrays[name], values[name]) for name in values)
    assert any("not used: more" in line for line in found.remarks)


def test_the_order_counts_where_names_differ_and_is_said() -> None:
    values = values_for(lenet_like())
    found = fitted(renamed(values, "features.0 classifier.1 classifier.3"), lenet_like())
    assert all(np.array_equal(found.arrays[name], values[name]) for name in values)
    assert any("dense1.bias is classifier.1.bias" in line for line in found.remarks)


@pytest.mark.parametrize("names", ["", "a b c"])
def test_a_head_of_other_classes_is_left_out_and_said(names: str) -> None:
    values = values_for(lenet_like(26))
    found = fitted(renamed(values, names) if names else values, lenet_like(10))
    assert list(found.arrays) == ["conv1.weight", "conv1.bias", "dense1.weight", "dense1.bias"]
    assert any("dense2.weight, dense2.bias newly init" in line for line in found.remarks)


def test_what_does_not_fit_is_listed() -> None:
    other = [nn.Conv2d(4, 5), nn.Flatten(), nn.Dense(20), nn.ReLU(), nn.Dense(10)]
    values = values_for(nn.Sequential(other))
    with pytest.raises(InputError) as caught:
        fitted(values, lenet_like())
    text = str(caught.value)
    for words in ("conv1.weight is 3x1x5x5", "4x1x5x5", "dense1.weight", "--model", "--map"):
        assert words in text
    assert "dense2" not in text
    with pytest.raises(InputError, match=r"6 arrays .*the file.* 4 "):
        fitted(dict(list(values.items())[:4]), lenet_like())


def test_weights_of_another_network_that_fit_by_chance_are_noticed() -> None:
    values, others = values_for(lenet_like()), [*lenet_like().layers]
    others[3] = nn.Tanh()
    for theirs, remarked in {
        describe(lenet_like()): False,
        describe(lenet_like(26)): False,  # another head, which has its own remark
        describe(nn.Sequential(others)): True,
        describe(nn.Sequential(others[:4])): True,
        "": False,
        "Sequential([own.Layer(), __import__('os').abort()])": True,
        "[" * 10_000: False,
        "no Python": False,
    }.items():
        weights = ForeignWeights("test file", values, architecture=theirs)
        remarks = fit(weights, lenet_like(), MNIST).remarks
        assert any("another network" in line for line in remarks) == remarked, theirs
        assert len(fit(weights, lenet_like(), MNIST, "conv1").remarks) == 3  # as the user wants


def test_weights_for_other_images_are_named_as_such() -> None:
    model, arrays = lenet_like(), values_for(lenet_like())
    weights = ForeignWeights("run", arrays, image_shape="1x28x28")
    with pytest.raises(InputError, match=r"for images of 1x28x28.* are 3x28x28.*--grayscale"):
        fit(weights, model, (3, 28, 28), "", "FILE")


def test_a_misfit_names_the_models_where_they_are_known() -> None:
    values = values_for(nn.Sequential([nn.Flatten(), nn.Dense(10)]))
    weights = ForeignWeights("test file", values, model="mine:net")
    with pytest.raises(InputError, match=r"--model mlp.*those of --model mine:net"):
        fit(weights, lenet_like(), MNIST, "", "FILE", "mlp")


def test_a_mapping_loads_what_it_lists() -> None:
    values = values_for(lenet_like())
    theirs = renamed(values, "features.0 classifier.1 classifier.3")
    for mapping, names in {
        "conv1=features.0": ["conv1.weight", "conv1.bias"],
        "conv1.bias=features.0.bias, dense2 = classifier.3": [
            "conv1.bias",
            "dense2.weight",
            "dense2.bias",
        ],
    }.items():
        found = fitted(theirs, lenet_like(), mapping)
        assert list(found.arrays) == names
        assert all(np.array_equal(found.arrays[name], values[name]) for name in names)
        assert "newly initialised" in found.remarks[-1]
    by_pattern = fitted(values, lenet_like(), "conv*,dense1.*")
    assert list(by_pattern.arrays) == list(values)[:4]


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("conv9=a", ["conv9", "conv1.weight"]),
        ("conv1=none", ["none", "a.weight"]),
        ("conv1=a.weight", ["conv1", "2 arrays"]),
        ("conv1", ["conv1.weight"]),
        ("dense1=a", ["dense1.weight is 20x1728", "a.weight 3x1x5x5"]),
        ("=a", ["=a"]),
        (" , ", ["OURS=THEIRS"]),
    ],
)
def test_a_wrong_mapping_is_named(mapping: str, words: list[str]) -> None:
    theirs = renamed(values_for(lenet_like()), "a b c")
    with pytest.raises(InputError, match="--map") as caught:
        fitted(theirs, lenet_like(), mapping)
    assert all(word in str(caught.value) for word in words), caught.value
