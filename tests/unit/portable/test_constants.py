"""SHA-256 of results for fixed arguments: these hold on every machine with IEEE arithmetic.

The arguments are made of raw words of Philox by operations that are the same everywhere. A constant
that changes has changed the bits of portable runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn.nn import LOSSES, Sigmoid, Tanh, glorot_uniform, he_normal, portable, uniform
from distcnn.nn.kernels.activations import ActivationKernel
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Call
from distcnn.nn.losses import portable_loss
from distcnn.optim import OPTIMIZERS, SCHEDULES
from distcnn.random_streams import PortableGenerator

COUNT = 4096


def philox(key: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([key, 18], np.uint64))


def fractions(key: int, *shape: int) -> NDArray[np.float64]:
    """Multiples of 2**-53 in [0, 1)."""
    words = philox(key).random_raw(int(np.prod(shape))) >> np.uint64(11)
    return (words.astype(np.float64) * 2.0**-53).reshape(shape)


def sha256(*arrays: Any) -> str:
    parts = [np.ascontiguousarray(array) for array in arrays]
    little = [part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts]
    return hashlib.sha256(b"".join(little)).hexdigest()[:16]


def spread(key: int) -> NDArray[np.float64]:
    """Both signs, from 2**-40 to 2**9."""
    mantissa, power = fractions(key, 2, COUNT)
    return np.ldexp(mantissa * 2.0 - 1.0, np.floor(power * 50.0).astype(np.int32) - 40)


def of_function(name: str) -> str:
    u, x = fractions(1, COUNT), spread(2)
    given = {"log": np.abs(x), "sqrt": np.abs(x), "log1p": np.abs(x), "cos_2pi": u}.get(name, x)
    function = getattr(portable, name)
    return sha256(function(given), function(given.astype(np.float32)))


def of_large_angles() -> str:
    x = np.ldexp(fractions(3, 200) * 2.0 - 1.0, np.arange(200, dtype=np.int32) * 5)
    return sha256(portable.sin(x), portable.cos(x))


def of_sums() -> str:
    x = spread(4)[:4095].reshape(9, 455)
    pieces = (portable.total(x, 0), portable.total(x, 1), portable.total(x), portable.mean(x, 1))
    return sha256(*pieces, portable.total(x.astype(np.float32), 0))


def of_powers() -> str:
    u = fractions(5, 50)
    return sha256(*(portable.power(u, exponent) for exponent in (-3, 0, 1, 2, 7, 1000)))


def of_products() -> str:
    a, b = fractions(6, 7, 1500) - 0.5, fractions(7, 1500, 5) - 0.5
    products = (portable.matmul(a[:, :terms], b[:terms]) for terms in (1, 33, 512, 1500))
    return sha256(*products, portable.matmul(a.astype(np.float32), b.astype(np.float32)))


def of_loss(name: str) -> str:
    outputs, weights = fractions(8, 10, 128) * 40.0 - 20.0, np.ones(128, np.float32)
    weights[120:] = 0
    labels = (fractions(9, 128) * 10.0).astype(np.int64)
    return sha256(*portable_loss(LOSSES[name])(outputs, labels, weights))


def of_activation(kind: type[Sigmoid | Tanh]) -> str:
    x, call = spread(10).reshape(64, 64), Call("", {})
    kernel = ActivationKernel(kind(), x.shape, Buffers(np.float64), "portable")
    y = kernel.forward(x, call).copy()
    return sha256(y, kernel.backward(np.ones_like(x), call, True))


def of_optimizer(name: str) -> str:
    settings = {"learning_rate": 0.01, "weight_decay": 0.001}
    if name in ("sgd", "nesterov"):
        settings["momentum"] = 0.9
    values = (fractions(11, 500) - 0.5).astype(np.float32)
    updater = OPTIMIZERS[name](**settings).portable().start(values)
    for step in range(130):
        grads = (fractions(100 + step, 500) - 0.5).astype(np.float32)
        updater.step(values, grads * np.float32(128), 0.01, count=128)
    return sha256(values, *updater.state.values())


def of_schedule(name: str) -> str:
    schedule = SCHEDULES[name](7).portable()
    return sha256([schedule.learning_rate(i, peak=0.03, total_steps=997) for i in range(997)])


def of_initialiser(initialise: Callable[..., Any]) -> str:
    rng = PortableGenerator(philox(12))
    return sha256(initialise(rng, (20, 3, 5, 5), 75, 500).astype(np.float32))


CONSTANTS = {
    "function exp": "4bf3939307a9332c",
    "function expm1": "e662ef8b507b4cbe",
    "function log": "474263bfc924650f",
    "function log1p": "e15e5f207733fbd3",
    "function tanh": "d45fd22c38bc9dd1",
    "function sigmoid": "84201224d66aee1f",
    "function sqrt": "e41ff0333f85d29c",
    "function sin": "6addbb278500cdb0",
    "function cos": "980994d0e699fa71",
    "function cos_2pi": "d26da29ed6d9cc0e",
    "angles": "d3632fcb95eb0c18",
    "sums": "e408d6d37f509f95",
    "powers": "72191ac1711e29e7",
    "products": "52159ec55112430c",
    "loss cross-entropy": "29b3e4aaaed37cd2",
    "loss squared-error": "c8b3149e74b121ac",
    "activation sigmoid": "d1314389460a8e1c",
    "activation tanh": "8725490f9ba924a9",
    "optimizer nesterov": "00c14504acac8c4c",
    "optimizer sgd": "9dea115b334f3914",
    "optimizer adam": "9dcfc902c288fb19",
    "optimizer adamw": "e96508e6e75812d7",
    "schedule cosine": "d511472668f2402d",
    "schedule constant": "337ae7b353c6827d",
    "schedule step": "af6e101c207dd098",
    "schedule linear": "392f12996ef056b9",
    "initialiser he": "1db047be2ea46b3e",
    "initialiser glorot": "37fb292b90ffc2d1",
    "initialiser uniform": "533ebc3022fae4a0",
}


@pytest.mark.parametrize("what", CONSTANTS)
def test_this_machine_computes_the_reference_bits(what: str) -> None:
    name, _, argument = what.partition(" ")
    of: dict[str, Callable[[], str]] = {
        "function": lambda: of_function(argument),
        "angles": of_large_angles,
        "sums": of_sums,
        "powers": of_powers,
        "products": of_products,
        "loss": lambda: of_loss(argument),
        "activation": lambda: of_activation({"sigmoid": Sigmoid, "tanh": Tanh}[argument]),
        "optimizer": lambda: of_optimizer(argument),
        "schedule": lambda: of_schedule(argument),
        "initialiser": lambda: of_initialiser(
            {"he": he_normal, "glorot": glorot_uniform, "uniform": uniform(0.01)}[argument]
        ),
    }
    assert of[name]() == CONSTANTS[what]


def test_every_part_has_a_constant() -> None:
    functions = set(portable.__all__) - {"total", "mean", "power", "matmul"}
    functions -= {"softmax_cross_entropy", "squared_error"}
    wanted = {f"function {name}" for name in functions} | {f"loss {name}" for name in LOSSES}
    wanted |= {f"optimizer {name}" for name in OPTIMIZERS}
    wanted |= {f"schedule {name}" for name in SCHEDULES}
    wanted |= {"angles", "sums", "powers", "products", "activation sigmoid", "activation tanh"}
    wanted |= {f"initialiser {name}" for name in ("he", "glorot", "uniform")}
    assert set(CONSTANTS) == wanted
