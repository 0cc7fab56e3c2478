"""The named networks and your own: functions ``(input_shape, classes) -> Sequential``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from distcnn import nn
from distcnn.architecture import describe, parse
from distcnn.errors import ArgumentError, InputError
from distcnn.fault_tolerance.failure import described, mistake_in
from distcnn.nn import Sequential
from distcnn.registry import USAGE, find, name_of
from distcnn.system.wording import counted
from distcnn.user_code import is_own

Shape = tuple[int, int, int]
"""(channels, height, width)."""
Model = Callable[[Shape, int], Sequential]


def lenet(input_shape: Shape, classes: int) -> Sequential:
    """Two 5x5 convolutions (20, 50 channels) with max pooling and ReLU, 500 units."""
    return Sequential(
        [
            *(nn.Conv2d(20, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(50, 5), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Dense(500), nn.ReLU(), nn.Dense(classes)),
        ]
    )


def lenet5(input_shape: Shape, classes: int) -> Sequential:
    """The sizes of LeNet-5 (LeCun et al. 1998): 6 and 16 channels, 120, 84; tanh, average pooling.

    28x28 images are padded to its 32x32. Simpler than 1998: every map of C3 sees all of S2's,
    pooling has no coefficients.
    """
    conv = partial(nn.Conv2d, weight_initialiser=nn.glorot_uniform)
    dense = partial(nn.Dense, weight_initialiser=nn.glorot_uniform)
    return Sequential(
        [
            *(conv(6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
            *(conv(16, 5), nn.Tanh(), nn.AvgPool2d(2)),
            *(nn.Flatten(), dense(120), nn.Tanh(), dense(84), nn.Tanh(), dense(classes)),
        ]
    )


def wide(input_shape: Shape, classes: int) -> Sequential:
    """Two 3x3 convolutions (32, 64 channels) with ReLU, one max pooling, 128 units."""
    return Sequential(
        [
            *(nn.Conv2d(32, 3), nn.ReLU(), nn.Conv2d(64, 3), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Dense(128), nn.ReLU(), nn.Dense(classes)),
        ]
    )


def tutorial(input_shape: Shape, classes: int) -> Sequential:
    """The smallest CNN: one 3x3 convolution (8 channels) with max pooling and ReLU."""
    layers = [nn.Conv2d(8, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Dense(classes)]
    return Sequential(layers)


def mlp(input_shape: Shape, classes: int) -> Sequential:
    """No convolution: 300 and 100 units with ReLU."""
    hidden = [nn.Dense(300), nn.ReLU(), nn.Dense(100), nn.ReLU()]
    return Sequential([nn.Flatten(), *hidden, nn.Dense(classes)])


MODELS: dict[str, Model] = {model.__name__: model for model in (lenet, lenet5, wide, tutorial, mlp)}


def find_model(model: Sequential | Model | str) -> Model:
    """A network, or its name, or its text (see ``architecture``), as a function that makes it."""
    if isinstance(model, str) and model.startswith("Sequential("):
        model = parse(model)
    if isinstance(model, Sequential):
        return lambda input_shape, classes: model
    found: Model = find("model", model, MODELS) if isinstance(model, str) else model
    return found


def model_name(model: Sequential | Model | str) -> str:
    """The name by which ``find_model`` finds ``model`` again."""
    if isinstance(model, str):
        return model
    return describe(model) if isinstance(model, Sequential) else name_of(model, MODELS)


def build_model(
    name: str,
    input_shape: Shape,
    classes: int,
    microbatch_size: int,
    make: Model | None = None,
    arithmetic: str = nn.NATIVE,
) -> nn.Plan:
    """A plan of a network for such images, float32; its parameters are zero.

    ``make`` makes the network, by default the model called ``name``. ``InputError`` when it does
    not fit such images, or has other outputs than ``classes``.
    """
    images = "x".join(map(str, input_shape))
    try:
        model = (make or find_model(name))(input_shape, classes)
        if not isinstance(model, Sequential):
            raise InputError(
                f"model {name!r} returned a {type(model).__name__}: it must return a"
                " distcnn.nn.Sequential"
            )
        plan = model.plan(input_shape, microbatch_size, model.allocate(input_shape), arithmetic)
    except (Exception, SystemExit) as error:
        raise _explained(error, name, images) from error
    if plan.output_shape != (classes,):
        raise InputError(
            f"model {name!r} gives outputs of shape {plan.output_shape} for images of {images}: "
            f"it must end in one output for each of the {counted(classes, 'class')}"
        )
    return plan


def initialise_model(name: str, parameters: nn.Parameters, rng: np.random.Generator) -> None:
    """Draw the first parameters; ``InputError`` says where an initialiser of the user's fails."""
    try:
        parameters.draw(rng)
    except (Exception, SystemExit) as error:
        raise _explained(error, name) from error


def _explained(error: BaseException, name: str, images: str = "") -> BaseException:
    """What to raise for an ``error`` of a model: ``InputError`` unless it is our defect."""
    mistake = mistake_in(error)
    if isinstance(error, InputError):
        return error
    if isinstance(error, MemoryError):
        text = f" needs more memory than is available ({error}): lower --microbatch-size"
    elif mistake or isinstance(error, ArgumentError):
        text = f": {mistake or error}"
    elif isinstance(error, ValueError) and images:
        text = f" does not fit images of {images} (channels x height x width): {error}"
        if name in MODELS and name != "mlp":
            text += ", or --model mlp, which fits any size"
    elif is_own(name):
        text = f": {described(error)}: {USAGE['model']} of layers"
    else:
        return error
    return InputError(f"model {name!r}{text}")
