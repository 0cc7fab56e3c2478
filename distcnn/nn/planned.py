"""A network with its parameters, one plan and a flat gradient, for callers that are not yet
written against ``Plan`` and ``Parameters``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import DTypeLike

from distcnn.nn.kernels.arena import buffer
from distcnn.nn.layer import Array, Shape
from distcnn.nn.plan import Plan
from distcnn.nn.sequential import Sequential


class PlannedNetwork:
    """``model`` for one shape, with ``plan`` and ``parameters``."""

    def __init__(
        self,
        model: Sequential,
        input_shape: Shape,
        microbatch_size: int,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.model, self.input_shape, self.microbatch_size = model, input_shape, microbatch_size
        self.dtype = np.dtype(dtype)
        self.layers, self.layer_names = model.layers, list(model.names)
        self.parameters = model.allocate(input_shape, dtype)
        self.values, self.slices = self.parameters.values, self.parameters.slices
        self.layer_starts = self.parameters.layer_starts
        self.grads = buffer(self.values.shape, dtype)
        self.plan = model.plan(input_shape, microbatch_size, self.parameters)
        self.output_shape = self.plan.output_shape
        self.observe: Callable[[str, Array], None] | None = None
        self._running = self.plan

    def share(self, other: PlannedNetwork) -> PlannedNetwork:
        """The same network with buffers of its own."""
        if self.slices != other.slices or self.dtype != other.dtype:
            raise ValueError("networks of other parameters cannot share them: make both alike")
        self.parameters, self.values = other.parameters, other.parameters.values
        self.plan = self.model.plan(self.input_shape, self.microbatch_size, self.parameters)
        self.grads = other.grads
        return self

    def write_gradients_to(self, grads: Array) -> None:
        """From now on ``grads`` takes the gradients."""
        self.grads = grads

    def initialise(self, rng: np.random.Generator) -> PlannedNetwork:
        """Draw the first values."""
        self.parameters.draw(rng)
        return self

    def forward(self, x: Array) -> Array:
        """The outputs."""
        if self.observe is None:
            self._running = self.plan
            return self.plan.forward(x, training=True)
        self._running = Plan(
            self.model, self.input_shape, self.microbatch_size, self.parameters, fused=False
        )
        self.observe("input", x)
        for stage in self._running.stages:
            x = stage.forward(x, True, None)
            self.observe(f"output of {stage.name}", x)
        return x

    def backward(self, grad_output: Array) -> None:
        """Write ``grads``."""
        for _ in self.backward_by_layer(grad_output):
            pass

    def backward_by_layer(self, grad_output: Array) -> Iterator[tuple[None, int]]:
        """``backward`` in pieces: from which element on ``grads`` is done."""
        passing = self._running.start_backward(grad_output, out=self.grads)
        if self.observe is not None:
            grad, stages = grad_output, self._running.stages
            first = next(i for i, stage in enumerate(stages) if stage.call.values)
            for index in reversed(range(first, len(stages))):
                grad_input = stages[index].backward(grad, index > first)
                if grad_input is not None:
                    grad = grad_input
                    self.observe(f"input gradient of {stages[index].name}", grad)
            yield None, 0
            return
        for start in sorted(set(self.layer_starts), reverse=True):
            passing.advance(until=start)
            yield None, start

    def named_values(self) -> dict[str, Array]:
        """Views of the values."""
        return self.parameters.named()

    def named_grads(self) -> dict[str, Array]:
        """Views of the gradient."""
        return self.parameters.named(self.grads)

    def named(self, flat: Array) -> dict[str, Array]:
        """Views of ``flat``."""
        return self.parameters.named(flat)

    def parameter_at(self, index: int) -> str:
        """The parameter that holds an element."""
        return self.parameters.parameter_at(index)
