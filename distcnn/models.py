"""The named networks and your own: functions ``(input_shape, classes) -> Sequential``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from distcnn.architecture import describe, parse
from distcnn.errors import ArgumentError, InputError
from distcnn.fault_tolerance.failure import described, mistake_in
from distcnn.nn import (
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    Parameters,
    Plan,
    ReLU,
    Sequential,
    Tanh,
    glorot_uniform,
)
from distcnn.registry import USAGE, find, name_of
from distcnn.system.wording import counted
from distcnn.user_code import is_own

Model = Callable[[tuple[int, int, int], int], Sequential]


def lenet(input_shape: tuple[int, int, int], classes: int) -> Sequential:
    """Two 5x5 convolutions (20, 50 channels), each with ReLU and 2x2 max pooling, 500 units.
    1x28x28 to 10: 431,080 parameters.
    """
    return Sequential(
        [
            *(Conv2d(20, 5), MaxPool2d(2), ReLU()),
            *(Conv2d(50, 5), MaxPool2d(2), ReLU()),
            *(Flatten(), Dense(500), ReLU(), Dense(classes)),
        ]
    )


def lenet5(input_shape: tuple[int, int, int], classes: int) -> Sequential:
    """The sizes of LeNet-5 (LeCun et al. 1998): 6 and 16 channels, 120, 84; tanh, average pooling.
    1x28x28 to 10: 61,706 parameters.

    28x28 images are padded to its 32x32. Simpler than 1998: every map of C3 sees all of S2's,
    pooling has no coefficients.
    """
    return Sequential(
        [
            *(Conv2d(6, 5, padding=2, weight_initialiser=glorot_uniform), Tanh(), AvgPool2d(2)),
            *(Conv2d(16, 5, weight_initialiser=glorot_uniform), Tanh(), AvgPool2d(2)),
            *(Flatten(), Dense(120, weight_initialiser=glorot_uniform), Tanh()),
            *(
                Dense(84, weight_initialiser=glorot_uniform),
                Tanh(),
                Dense(classes, weight_initialiser=glorot_uniform),
            ),
        ]
    )


def wide(input_shape: tuple[int, int, int], classes: int) -> Sequential:
    """Two 3x3 convolutions (32, 64 channels) with ReLU, 2x2 max pooling, 128 units. 1x28x28 to 10:
    1,199,882 parameters.
    """
    return Sequential(
        [
            *(Conv2d(32, 3), ReLU(), Conv2d(64, 3), MaxPool2d(2), ReLU()),
            *(Flatten(), Dense(128), ReLU(), Dense(classes)),
        ]
    )


def tutorial(input_shape: tuple[int, int, int], classes: int) -> Sequential:
    """The smallest CNN: one 3x3 convolution (8 channels), ReLU, 2x2 max pooling, dense.
    1x28x28 to 10: 13,610 parameters.
    """
    return Sequential([Conv2d(8, 3), MaxPool2d(2), ReLU(), Flatten(), Dense(classes)])


def mlp(input_shape: tuple[int, int, int], classes: int) -> Sequential:
    """No convolution: 300 and 100 units with ReLU. 1x28x28 to 10: 266,610 parameters."""
    return Sequential([Flatten(), Dense(300), ReLU(), Dense(100), ReLU(), Dense(classes)])


MODELS: dict[str, Model] = {
    "lenet": lenet,
    "lenet5": lenet5,
    "wide": wide,
    "tutorial": tutorial,
    "mlp": mlp,
}


def find_model(name: str) -> Model:
    """The model called ``name``.

    A network that is written out, as ``distcnn.architecture`` has it, is its own name.

    Raises:
        InputError: there is none, or ``package.module:function`` cannot be imported.
    """
    if name.startswith("Sequential("):
        network = parse(name)
        return lambda input_shape, classes: network
    found: Model = find("model", name, MODELS)
    return found


def model_name(model: Sequential | Model | str) -> str:
    """The name by which ``find_model`` finds ``model`` again."""
    if isinstance(model, str):
        return model
    return describe(model) if isinstance(model, Sequential) else name_of(model, MODELS)


def model_function(model: Sequential | Model | str) -> Model:
    """``model`` as a function that makes it."""
    if isinstance(model, str):
        return find_model(model)
    return (lambda input_shape, classes: model) if isinstance(model, Sequential) else model


def build_model(
    name: str,
    input_shape: tuple[int, int, int],
    classes: int,
    microbatch_size: int,
    make: Model | None = None,
) -> Plan:
    """A plan of the model's network for such images, float32; its parameters are zero.

    Args:
        name: the model's name, also for messages.
        input_shape: (channels, height, width).
        classes: the number of outputs.
        microbatch_size: images at a time.
        make: the function that makes the network; by default the one called ``name``.

    Raises:
        InputError: the network does not fit such images, or does not have ``classes`` outputs.
    """
    images = "x".join(map(str, input_shape))
    try:
        model = (make or find_model(name))(input_shape, classes)
        if not isinstance(model, Sequential):
            raise InputError(
                f"model {name!r} returned a {type(model).__name__}: it must return a"
                " distcnn.nn.Sequential"
            )
        plan = model.plan(input_shape, microbatch_size, model.allocate(input_shape))
    except (Exception, SystemExit) as error:
        raise _explained(error, name, images) from error
    if plan.output_shape != (classes,):
        raise InputError(
            f"model {name!r} gives outputs of shape {plan.output_shape} for images of {images}: "
            f"it must end in one output for each of the {counted(classes, 'class')}"
        )
    return plan


def initialise_model(name: str, parameters: Parameters, rng: np.random.Generator) -> None:
    """Draw the first parameters; ``InputError`` says where an initialiser of the user's fails."""
    try:
        parameters.draw(rng)
    except (Exception, SystemExit) as error:
        raise _explained(error, name) from error


def _explained(error: BaseException, name: str, images: str = "") -> BaseException:
    """What to raise for an ``error`` of a model: ``InputError`` unless it is our defect."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, MemoryError):
        return InputError(
            f"model {name!r} needs more memory than is available ({error}): lower --microbatch-size"
        )
    mistake = mistake_in(error)
    if mistake or isinstance(error, ArgumentError):
        return InputError(f"model {name!r}: {mistake or error}")
    if isinstance(error, ValueError) and images:
        return InputError(
            f"model {name!r} does not fit images of {images} (channels x height x width): {error}"
        )
    if is_own(name):
        return InputError(f"model {name!r}: {described(error)}: {USAGE['model']} of layers")
    return error
