"""Forward and backward of one shard with a checksum of everything that is computed on the way."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from distcnn.nn import Plan
from distcnn.nn.layer import Array, RandomSource
from distcnn.nn.losses import Labels, Loss
from distcnn.nn.plan import Backward

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
    """Stands in for a plan and a loss: computes the same bits, and notes ``checksums``.

    The gradients of parameters are noted where they lie when they are about to be added.
    """

    def __init__(self, plan: Plan, loss: Loss) -> None:
        self.plan = plan
        self._loss = loss
        self._extents = dict(_extents(plan))
        self.checksums: Checksums = dict.fromkeys(self._names())

    def forward(
        self, images: Array, training: bool = False, random_source: RandomSource | None = None
    ) -> Array:
        """As ``Plan.forward``."""
        x = images
        for stage in self.plan.stages:
            x = stage.forward(x, training, random_source)
            self._note(self._output(stage.name), x)
        return x

    def loss(self, outputs: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
        """As the loss."""
        loss_sum, grad_outputs = self._loss(outputs, labels, weights)
        self._note("loss", np.array([loss_sum], np.float64))
        self._note("gradient of the loss", grad_outputs)
        return loss_sum, grad_outputs

    def backward(self, grad_output: Array, out: Array) -> None:
        """As ``Plan.backward``."""
        self.start_backward(grad_output, out).advance(until=0)

    def start_backward(self, grad_output: Array, out: Array) -> RecordedBackward:
        """As ``Plan.start_backward``."""
        return RecordedBackward(self, self.plan.start_backward(grad_output, out), out)

    def note_input_gradient(self, layer: str, gradient: Array) -> None:
        self._note(self._input_gradient(layer), gradient)

    def note_gradients(self, out: Array, start: int, stop: int) -> None:
        """Note the gradients of the parameters in the elements ``start`` to ``stop`` of ``out``."""
        for parameter, span in self.plan.parameters.slices.items():
            if start <= span.start < stop:
                self._note(_gradient(parameter), out[span])

    def _note(self, name: str, values: Array) -> None:
        self.checksums[name] = checksum(values)

    def _names(self) -> Iterator[str]:
        stages, parameters = self.plan.stages, self.plan.parameters
        yield from (self._output(stage.name) for stage in stages)
        yield from ("loss", "gradient of the loss")
        for stage in reversed(stages):
            yield from (
                _gradient(name) for name in parameters.slices if name.startswith(f"{stage.name}.")
            )
            yield self._input_gradient(stage.name)

    def _output(self, layer: str) -> str:
        return f"output of {self._extents[layer]} (forward)"

    def _input_gradient(self, layer: str) -> str:
        return f"input gradient of {self._extents[layer]} (backward)"


def _gradient(parameter: str) -> str:
    return f"gradient of {parameter} (backward)"


def _extents(plan: Plan) -> Iterator[tuple[str, str]]:
    """For each stage, its layers as text: "conv1", or "conv1 to relu1" if they run as one."""
    names, starts = plan.model.names, [stage.name for stage in plan.stages]
    for name, following in zip(starts, [*starts[1:], None], strict=True):
        last = names[names.index(following) - 1 if following else -1]
        yield name, name if last == name else f"{name} to {last}"


class RecordedBackward:
    """As ``Backward``."""

    def __init__(self, recording: Recording, backward: Backward, out: Array) -> None:
        self._recording, self._backward, self._out = recording, backward, out
        self._starts = {stage.name: stage.start for stage in recording.plan.stages}
        self._complete_from = self._noted_from = out.size

    def advance(self, until: int) -> None:
        """As ``Backward.advance``."""
        while self._complete_from > until and (layer := self._backward.next_layer()):
            self._complete_from = self._starts[layer]
            self._recording.note_input_gradient(layer, self._backward.gradient)
        self._recording.note_gradients(self._out, until, self._noted_from)
        self._noted_from = until
