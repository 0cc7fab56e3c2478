"""The named networks and a user's own: sizes, shapes, and every error."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distcnn.errors import InputError
from distcnn.models import MODELS, build_model, find_model
from distcnn.nn import Sequential

WriteModel = Callable[[str], str]
_numbers = itertools.count()

OWN_MODEL = """
from distcnn.nn import Conv2d, Dense, Flatten, Sequential

def small(input_shape, classes):
    channels, height, width = input_shape
    return Sequential([Conv2d(channels, 3, padding=1), Flatten(), Dense(classes)])
"""


@pytest.fixture
def write_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModel:
    """Write a module that can be imported, under a name that no earlier import has cached."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(source: str) -> str:
        module = f"own_model_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        return module

    return write


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet", 431_080),
        ("lenet5", 61_706),
        ("wide", 1_199_882),
        ("tutorial", 13_610),
        ("mlp", 266_610),
    ],
)
def test_parameter_counts_for_mnist(name: str, parameters: int) -> None:
    assert build_model(name, (1, 28, 28), 10, 1).parameters.values.size == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet", 702_170),
        ("lenet5", 90_776),
        ("wide", 1_638_052),
        ("tutorial", 180_324),
        ("mlp", 962_100),
    ],
)
def test_parameter_counts_for_colour_images_and_a_hundred_classes(
    name: str, parameters: int
) -> None:
    assert build_model(name, (3, 32, 32), 100, 1).parameters.values.size == parameters


@pytest.mark.parametrize("name", MODELS)
def test_every_model_takes_rectangular_images_forward_and_back(name: str) -> None:
    plan = build_model(name, (2, 20, 33), 7, 3)
    assert (plan.input_shape, plan.output_shape) == ((2, 20, 33), (7,))
    plan.parameters.draw(np.random.default_rng(0))
    outputs = plan.forward(np.random.default_rng(1).random((2, 20, 33, 3), np.float32))
    assert outputs.shape == (7, 3)
    gradient = np.zeros_like(plan.parameters.values)
    plan.backward(np.ones_like(outputs), out=gradient)
    assert all(grad.any() for grad in plan.parameters.named(gradient).values())


@pytest.mark.parametrize(
    ("name", "smallest", "layer"),
    [
        ("lenet", 16, "maxpool2"),
        ("lenet5", 12, "avgpool2"),
        ("wide", 6, "maxpool1"),
        ("tutorial", 4, "maxpool1"),
    ],
)
def test_too_small_images_are_refused_with_the_model_and_the_reason(
    name: str, smallest: int, layer: str
) -> None:
    assert build_model(name, (1, smallest, smallest), 10, 1).output_shape == (10,)
    for height, width in [(smallest - 1, 28), (28, smallest - 1)]:
        message = (
            rf"^model '{name}' does not fit images of 1x{height}x{width} \(.*\): {layer}: a window"
            r" of kernel_size"
        )
        with pytest.raises(InputError, match=message):
            build_model(name, (1, height, width), 10, 1)


def test_the_multilayer_perceptron_takes_a_single_pixel() -> None:
    assert build_model("mlp", (1, 1, 1), 2, 1).output_shape == (2,)


def test_a_name_finds_its_function() -> None:
    assert {name: find_model(name) for name in MODELS} == MODELS


def test_a_users_own_model_is_found_and_built(write_model: WriteModel) -> None:
    plan = build_model(f"{write_model(OWN_MODEL)}:small", (2, 5, 4), 3, 6)
    assert (plan.microbatch_size, plan.output_shape) == (6, (3,))
    assert plan.parameters.named()["conv1.weight"].shape == (2, 2, 3, 3)


def test_a_named_model_can_also_be_given_by_its_module() -> None:
    assert find_model("distcnn.models:lenet") is MODELS["lenet"]


@pytest.mark.parametrize("name", ["resnet", "LeNet", "", "distcnn.models.lenet"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    message = (
        rf"^unknown model '{name}': choose one of lenet, lenet5, wide, tutorial, mlp, or your own"
        r" as package.module:function"
    )
    with pytest.raises(InputError, match=message):
        find_model(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module_here:f", "No module named 'no_such_module_here'"),
        ("distcnn.no_such_module:f", "No module named 'distcnn.no_such_module'"),
        ("distcnn.models:no_such_function", "has no attribute 'no_such_function'"),
        ("distcnn.models:", "has no attribute ''"),
        (":lenet", "Empty module name"),
        (".models:lenet", "relative import"),
    ],
)
def test_a_model_that_cannot_be_imported_is_refused_with_the_reason(name: str, reason: str) -> None:
    message = (
        rf"^model '{name}' cannot be imported \(.*{reason}.*\): give package.module:name,"
        r" importable from the current folder$"
    )
    with pytest.raises(InputError, match=message):
        find_model(name)


def test_an_import_that_fails_inside_a_users_own_module_says_which(write_model: WriteModel) -> None:
    module = write_model("import no_such_dependency_here\n")
    with pytest.raises(InputError, match=r"cannot be imported \(.*, line 1: "):
        find_model(f"{module}:small")


def test_only_a_function_is_accepted(write_model: WriteModel) -> None:
    module = write_model("small = 3\n")
    with pytest.raises(InputError, match=rf"^model '{module}:small' is not a function or class"):
        find_model(f"{module}:small")


def test_a_function_that_returns_no_network_is_refused(write_model: WriteModel) -> None:
    module = write_model("def small(input_shape, classes):\n    return [1, 2]\n")
    with pytest.raises(InputError, match=rf"^model '{module}:small' returned a list"):
        build_model(f"{module}:small", (1, 5, 5), 2, 1)


def test_a_network_with_the_wrong_number_of_outputs_is_refused(write_model: WriteModel) -> None:
    module = write_model(OWN_MODEL.replace("Dense(classes)", "Dense(classes + 1)"))
    message = (
        r"gives outputs of shape \(4,\) for images of 1x5x5: it must end in one output for each of"
        r" the 3 classes$"
    )
    with pytest.raises(InputError, match=message):
        build_model(f"{module}:small", (1, 5, 5), 3, 1)


def test_a_network_that_ends_in_images_is_refused(write_model: WriteModel) -> None:
    module = write_model(OWN_MODEL.replace(", Flatten(), Dense(classes)", ""))
    with pytest.raises(InputError, match=r"gives outputs of shape \(2, 5, 5\) for images of 2x5x5"):
        build_model(f"{module}:small", (2, 5, 5), 2, 1)


def test_layers_that_do_not_fit_each_other_are_refused_by_name(write_model: WriteModel) -> None:
    module = write_model(OWN_MODEL.replace("Flatten(), ", ""))
    message = (
        rf"^model '{module}:small' does not fit images of 1x5x5 .*: dense1: Dense takes flat inputs"
        r" .*: put Flatten before it$"
    )
    with pytest.raises(InputError, match=message):
        build_model(f"{module}:small", (1, 5, 5), 2, 1)


def test_a_layer_that_a_model_makes_wrongly_is_refused_by_the_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrong_layer.py").write_text(
        "from distcnn import nn\n\ndef network(input_shape, classes):\n    return"
        " nn.Sequential([nn.Conv2d(0, 3)])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"wrong_layer\.py, line 4, in network: .*out_channels"):
        build_model("wrong_layer:network", (1, 9, 9), 2, 1)


def test_a_network_beyond_the_memory_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def plan(*_: object) -> None:
        raise MemoryError("Unable to allocate 2.85 TiB")

    monkeypatch.setattr(Sequential, "plan", plan)
    with pytest.raises(
        InputError,
        match=r"model 'mlp' needs more memory than is available \(Unable to .*--microbatch-size",
    ):
        build_model("mlp", (1, 28, 28), 10, 10**9)
