"""A network on a failing processor: in training, one bit is wrong on some ranks. The environment
says where, on which ranks, and from which step on.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from distcnn import nn
from distcnn.nn.layer import Layer, Parameter, Shape
from distcnn.spans import SPOT_CHECK, STEP, Span, listening
from distcnn.system import launcher

RANK = launcher.declared_rank(os.environ)
FAULT, FIRST_STEP = os.environ.get("FAULT", ""), int(os.environ.get("FAULT_STEP", "0"))
IS_FAULTY = str(RANK) in os.environ.get("FAULT_RANKS", "").split(",")
FAULTS_LEFT = [int(os.environ.get("FAULTS", "1000000"))]


class Place:
    """Follows which step the main thread is in, and whether it repeats shards of other ranks."""

    step, repeats = -1, False

    def begin(self, span: Span) -> None:
        self.repeats = span.name == SPOT_CHECK
        if span.name == STEP:
            self.step = int(str(span.labels["step"]))

    def end(self, span: Span) -> None:
        self.repeats = False
        if span.name == STEP:
            self.step = -1


place = Place()
held = listening(place, {STEP, SPOT_CHECK})  # for as long as this process lives
held.__enter__()


def fail(where: str, array: Any) -> None:
    """Flip the last bit of an element if this is the place, rank and time."""
    if where == FAULT and IS_FAULTY and place.step >= FIRST_STEP and FAULTS_LEFT[0] > 0:
        FAULTS_LEFT[0] -= 1
        bits = np.random.default_rng().integers(1, 2**20) if where == "random" else 1
        array.view(np.uint32)[(0,) * array.ndim] ^= np.uint32(bits)


class Early(nn.Identity):
    """Fails in forward or backward, or flips a bit of a gradient that was complete before."""

    def function(self, x: Any, out: Any) -> None:
        super().function(x, out)
        fail("forward", out)
        fail("random", out)
        if place.repeats:
            fail("repetition", out)
            if FAULT == "hang" and IS_FAULTY:
                time.sleep(3600)

    def derivative(self, x: Any, y: Any, out: Any) -> None:
        super().derivative(x, y, out)
        fail("backward", out)
        fail("later", seen[-1])


seen: list[Any] = []


class Scale(Layer):
    """Multiplies each feature by a number that it learns."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def parameters(self, input_shape: Shape) -> tuple[Parameter, ...]:
        (features,) = input_shape
        return (Parameter("factor", (features, 1), lambda rng, shape, *_: np.ones(shape), 1, 1),)

    def forward(self, x: Any, call: Any) -> Any:
        kept = call.random.random(x.shape) < 0.7 if call.training else 1  # as dropout does
        call.saved = x * kept, kept
        return x * kept * call.values["factor"]

    def backward(self, grad_output: Any, call: Any) -> Any:
        x, kept = call.saved
        np.sum(grad_output * x, axis=1, keepdims=True, out=call.grads["factor"])
        fail("gradient", call.grads["factor"].reshape(-1))
        seen[:] = [call.grads["factor"].reshape(-1)]
        return grad_output * kept * call.values["factor"]


def network(input_shape: tuple[int, int, int], classes: int) -> nn.Sequential:
    """Two buckets: the convolution, and the rest."""
    layers = [nn.Conv2d(4, 3), nn.MaxPool2d(2), Early(), nn.Flatten(), nn.Dense(70)]
    return nn.Sequential([*layers, Scale(), nn.ReLU(), nn.Dense(classes)])
