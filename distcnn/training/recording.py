"""Forward and backward of one shard with a checksum of everything that is computed on the way."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from distcnn.nn import Plan
from distcnn.nn.layer import Array, RandomSource
from distcnn.nn.losses import Labels, Loss

Checksums = dict[str, int | None]
"""A checksum for each thing that is computed, by its name, in the order in which an error spreads;
None until it is computed."""


def checksum(values: Array) -> int:
    """CRC-32 of ``values`` in the order of their indices, whatever their order in memory.

    It finds any flipped bit, and other changes but for one in 2**32. -0 counts as +0, and all NaNs
    count as one.
    """
    with np.errstate(invalid="ignore"):  # signalling NaNs
        plain = np.add(values, 0.0, order="C")
    if (unknown := np.isnan(plain)).any():
        plain[unknown] = np.nan
    return zlib.crc32(plain.data)


def first_difference(checksums: Checksums, other: Checksums) -> str:
    """The first thing that was computed in ``checksums`` and is not the same in ``other``; empty if
    there is none.
    """
    pairs = ((name, value, other.get(name)) for name, value in checksums.items())
    return next((name for name, value, its in pairs if value is not None and value != its), "")


class Recording:
    """Stands in for a plan, its loss and its backward pass: has the same methods, computes the same
    bits, and notes ``checksums``.

    Gradients of parameters are noted where they lie when they are about to be added.
    """

    def __init__(self, plan: Plan, loss: Loss) -> None:
        self._plan, self._loss = plan, loss
        self._layers = dict(_layers_of_stages(plan))
        self._starts = {stage.name: stage.start for stage in plan.stages}
        self.checksums: Checksums = dict.fromkeys(self._names())

    def forward(
        self, images: Array, training: bool = False, random_source: RandomSource | None = None
    ) -> Array:
        """As of ``Plan``."""
        x = images
        for stage in self._plan.stages:
            x = stage.forward(x, training, random_source)
            self._note(f"output of {self._layers[stage.name]} (forward)", x)
        return x

    def loss(self, outputs: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
        """As the loss."""
        loss_sum, grad_outputs = self._loss(outputs, labels, weights)
        self._note("loss", np.array([loss_sum], np.float64))
        self._note("gradient of the loss", grad_outputs)
        return loss_sum, grad_outputs

    def backward(self, grad_output: Array, out: Array) -> None:
        """As of ``Plan``."""
        self.start_backward(grad_output, out).advance(until=0)

    def start_backward(self, grad_output: Array, out: Array) -> Recording:
        """As of ``Plan``."""
        self._backward, self._out = self._plan.start_backward(grad_output, out), out
        self._complete_from, self._noted_from, self._latest = out.size, out.size, ""
        return self

    def advance(self, until: int) -> None:
        """As of ``Backward``."""
        while self._complete_from > until and (layer := self._backward.next_layer()):
            self._complete_from, self._latest = self._starts[layer], self._input_gradient(layer)
            self._note(self._latest, self._backward.gradient)
        if (
            until == 0 and self._latest
        ):  # the first trained layer leaves the gradient of its output there
            self.checksums[self._latest] = None
        for parameter, span in self._plan.parameters.slices.items():
            if until <= span.start < self._noted_from:
                self._note(f"gradient of {parameter} (backward)", self._out[span])
        self._noted_from = until

    def _note(self, name: str, values: Array) -> None:
        self.checksums[name] = checksum(values)

    def _names(self) -> Iterator[str]:
        """All that will be noted."""
        yield from (f"output of {layers} (forward)" for layers in self._layers.values())
        yield from ("loss", "gradient of the loss")
        for stage in reversed(self._layers):
            for parameter in self._plan.parameters.slices:
                if parameter.startswith(f"{stage}."):
                    yield f"gradient of {parameter} (backward)"
            yield self._input_gradient(stage)

    def _input_gradient(self, layer: str) -> str:
        return f"input gradient of {self._layers[layer]} (backward)"


def _layers_of_stages(plan: Plan) -> Iterator[tuple[str, str]]:
    """Each stage's layers as text: "conv1", or "conv1 to relu1" where they run as one."""
    names, starts = plan.model.names, [stage.name for stage in plan.stages]
    for first, following in zip(starts, [*starts[1:], None], strict=True):
        last = names[names.index(following) - 1 if following else -1]
        yield first, first if last == first else f"{first} to {last}"
