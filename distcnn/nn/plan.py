"""A plan runs a network for one shape of microbatch: it chooses the kernels, makes the buffers,
and fuses neighbours.

    plan = model.plan((1, 28, 28), microbatch_size=16, parameters=parameters)
    logits = plan.forward(images, training=True)                # (classes, N)
    loss_sum, grad_logits = loss(logits, labels, weights)
    plan.backward(grad_logits, out=gradient)                    # flat, like parameters.values

What ``forward`` returns is a buffer of the plan, and holds until its next call. Plans share nothing
but the parameters, so one can go forward while another runs backward for another microbatch, and
two threads can run one each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from distcnn.nn.geometry import as_count
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.layer import Array, Call, RandomSource, Shape
from distcnn.nn.parameters import Parameters
from distcnn.nn.planner import Kernel, Planner
from distcnn.spans import BACKWARD, FORWARD, Span

if TYPE_CHECKING:
    from distcnn.nn.sequential import Sequential

BUFFER_ELEMENTS = 1024
"""NumPy (2.4) copies operands whose runs are shorter than its buffer, 8192 elements by default,
into that buffer, such as rows of images, and works on the copy. With a buffer no longer than the
runs it works in place: half the time for runs of 768 (docs/speed.md).
"""


@contextmanager
def computing() -> Iterator[None]:
    """NumPy's settings while layers compute, on which no result depends: no warnings of overflow,
    since the reduction rejects non-finite values, and a shorter buffer.
    """
    before = np.getbufsize()
    with np.errstate(over="ignore", invalid="ignore"):
        np.setbufsize(BUFFER_ELEMENTS)
        try:
            yield
        finally:
            np.setbufsize(before)


class Stage:
    """A kernel and what its calls need. Its (first) layer's elements of the flat vectors begin at
    ``start``.
    """

    def __init__(self, name: str, kernel: Kernel, values: Mapping[str, Array], start: int) -> None:
        self.name, self.values, self.start = name, values, start
        self.grads: Mapping[str, Array] = {}
        self._kernel = kernel
        self._forward, self._backward = Span(FORWARD, layer=name), Span(BACKWARD, layer=name)

    def forward(self, x: Array, training: bool, random: RandomSource | None) -> Array:
        self._call = Call(self.name, self.values, self.grads, training, random)
        with self._forward:
            return self._kernel.forward(x, self._call)

    def backward(self, grad_output: Array, input_gradient: bool) -> Array | None:
        self._call.grads = self.grads
        with self._backward:
            return self._kernel.backward(grad_output, self._call, input_gradient)


class Plan:
    """Runs ``model`` for inputs of shape ``(*input_shape, microbatch_size)``.

    Attributes:
        parameters: the values, shared with other plans.
        output_shape: of the logits, without the batch.
    """

    def __init__(
        self,
        model: Sequential,
        input_shape: Shape,
        microbatch_size: int,
        parameters: Parameters,
        fused: bool = True,
    ) -> None:
        self.model, self.input_shape, self.parameters = model, input_shape, parameters
        self.microbatch_size = as_count("microbatch_size", microbatch_size)
        given = {name: values.shape for name, values in parameters.named().items()}
        expected = {name: made.shape for name, made in model.parameters(input_shape).items()}
        if given != expected:
            raise ValueError(
                f"parameters of the shapes {given} are those of another network or input, not"
                f" {expected}: make them with model.initialise({input_shape}, rng)"
            )
        shapes = model.shapes(input_shape)
        self.output_shape = shapes[-1]
        self._buffers = Buffers(parameters.values.dtype)
        with_batch = [(*shape, microbatch_size) for shape in shapes]
        planner = Planner(model.layers, model.names, with_batch, self._buffers, fused)
        self.stages = [self._stage(index, kernel) for index, kernel in planner.kernels()]
        self._first_with_parameters = next(
            (i for i, stage in enumerate(self.stages) if stage.values), len(self.stages)
        )
        self._gradient: Array | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return self._buffers.nbytes

    def forward(
        self, images: Array, training: bool = False, random: RandomSource | None = None
    ) -> Array:
        """The outputs ``(*output_shape, N)`` for ``images`` ``(*input_shape, N)``.

        Args:
            images: one microbatch; the batch is the last axis.
            training: what the layers see as ``call.training``.
            random: gives a layer, by its name, the generator of this pass.

        Raises:
            ValueError: ``images`` have another shape.
        """
        expected = (*self.input_shape, self.microbatch_size)
        if images.shape != expected:
            raise ValueError(
                f"the input has shape {images.shape}, but the network was planned for"
                f" {expected}: plan it for the shape it gets (the batch is the last axis)"
            )
        x = images
        for stage in self.stages:
            x = stage.forward(x, training, random)
        return x

    def backward(
        self, grad_output: Array, out: Array, input_gradient: bool = False
    ) -> Array | None:
        """Write the gradient of every parameter for the microbatch that last went forward.

        Args:
            grad_output: the gradient of the outputs, ``(*output_shape, N)``.
            out: takes the gradient, a flat vector like ``parameters.values``.
            input_gradient: whether to return the input's gradient ``(*input_shape, N)``.
        """
        started = self.start_backward(grad_output, out, input_gradient)
        started.advance(until=0)
        return started.gradient if input_gradient else None

    def start_backward(
        self, grad_output: Array, out: Array, input_gradient: bool = False
    ) -> Backward:
        """``backward`` in pieces: nothing is computed until ``advance`` is called."""
        values = self.parameters.values
        if (out.shape, out.dtype) != (values.shape, values.dtype):
            raise ValueError(
                f"gradients of shape {values.shape} ({values.dtype}) cannot be written to"
                f" {out.shape} ({out.dtype})"
            )
        if out is not self._gradient:
            self._gradient = out
            for stage in self.stages:
                stage.grads = self.parameters.of_layer(stage.name, out)
        # Before the first layer with parameters only the input's gradient is worth computing.
        first = 0 if input_gradient else self._first_with_parameters
        return Backward(self.stages[first:], grad_output, out.size, input_gradient)

    def unfused(self) -> Plan:
        """A plan with buffers of its own that runs one layer after another, with the same bits."""
        return Plan(self.model, self.input_shape, self.microbatch_size, self.parameters, False)

    def _stage(self, index: int, kernel: Kernel) -> Stage:
        name, parameters = self.model.names[index], self.parameters
        values = parameters.of_layer(name, parameters.values)
        return Stage(name, kernel, values, parameters.layer_starts[index])


class Backward:
    """A backward pass from the last layer to the first, in pieces.

    Attributes:
        gradient: of the outputs at first, then of the input of the layer last computed. (Only on
            request is it computed for the first layer.)
    """

    def __init__(
        self, stages: list[Stage], grad_output: Array, size: int, input_gradient: bool
    ) -> None:
        self.gradient, self._stages, self._complete_from = grad_output, stages, size
        self._input_gradient = input_gradient

    def next_layer(self) -> str | None:
        """Compute one layer, and return its name; None if none is left."""
        if not self._stages:
            return None
        stage = self._stages.pop()
        grad = stage.backward(self.gradient, self._input_gradient or bool(self._stages))
        self._complete_from = stage.start
        self.gradient = self.gradient if grad is None else grad
        return stage.name

    def advance(self, until: int) -> None:
        """Compute until the flat gradient is complete from element ``until`` on; with 0, go on
        through the layers without parameters before, for the input's gradient.
        """
        while (self._complete_from > until or until == 0) and self.next_layer():
            pass
