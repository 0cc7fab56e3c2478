"""A network with all that runs it: parameters, gradient and plan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from distcnn.nn import NATIVE, Layer, Parameters, Plan, Sequential
from distcnn.nn.gradient_check import gradient_error
from distcnn.nn.layer import RandomSource

Array = NDArray[Any]


class Network:
    """``model`` for microbatches ``(*input_shape, microbatch_size)``."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.model, self.parameters = plan, plan.model, plan.parameters
        self.input_shape, self.microbatch_size = plan.input_shape, plan.microbatch_size
        self.output_shape = plan.output_shape
        self.values = plan.parameters.values
        self.dtype = self.values.dtype
        self.grads = np.zeros_like(self.values)

    def initialise(self, rng: np.random.Generator) -> Network:
        self.parameters.draw(rng)
        return self

    def unfused(self) -> Network:
        """The same network, computed layer by layer."""
        return Network(self.plan.unfused())

    def forward(
        self, x: Array, training: bool = True, random_source: RandomSource | None = None
    ) -> Array:
        return self.plan.forward(x, training, random_source)

    def backward(self, grad_output: Array, input_gradient: bool = False) -> Array | None:
        return self.plan.backward(grad_output, self.grads, input_gradient)

    def named_values(self) -> dict[str, Array]:
        return self.parameters.named()

    def named_grads(self) -> dict[str, Array]:
        return self.parameters.named(self.grads)

    def gradient_error(
        self,
        rng: np.random.Generator,
        x: Array | None = None,
        random_source: RandomSource | None = None,
    ) -> float:
        """The error at these values, for ``x`` or a random microbatch."""
        if x is None:
            x = rng.standard_normal((*self.input_shape, self.microbatch_size))
        return gradient_error(self.model, x, rng, self.parameters, random_source)


def planned(
    layers: Sequential | list[Layer],
    input_shape: tuple[int, ...],
    microbatch_size: int,
    dtype: DTypeLike = np.float32,
    parameters: Parameters | None = None,
    arithmetic: str = NATIVE,
) -> Network:
    """A plan of ``layers`` for one shape, with all parameters zero."""
    model = layers if isinstance(layers, Sequential) else Sequential(layers)
    parameters = parameters or model.allocate(input_shape, dtype)
    return Network(model.plan(input_shape, microbatch_size, parameters, arithmetic))


def run_twice(network: Network, input_gradient: bool = True) -> list[Array]:
    """Output and gradients of the second of two random microbatches, to detect buffers that do not
    start at zero.
    """
    rng, results = np.random.default_rng(1), []
    for _ in range(2):
        shape = (*network.input_shape, network.microbatch_size)
        x = rng.integers(-2, 3, shape) + rng.choice([0.0, 0.25], shape)  # pooling meets ties
        y = network.forward(x.astype(network.dtype))
        grad_output = rng.standard_normal(y.shape).astype(network.dtype)
        results = [y.copy()]
        grad_x = network.backward(grad_output, input_gradient)
        results += [network.grads.copy(), *([] if grad_x is None else [grad_x.copy()])]
    return results
