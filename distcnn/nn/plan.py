"""A plan runs a network for one shape of microbatch: it chooses the kernels, makes the buffers,
and fuses neighbours.

    plan = model.plan((1, 28, 28), microbatch_size=16, parameters=parameters)
    logits = plan.forward(images, training=True)                # (classes, N)
    loss_sum, grad_logits = loss(logits, labels, weights)
    plan.backward(grad_logits, out=gradient)                    # flat, like parameters.values

Every decision about buffers is made here, in ``_kernels``: which kernel may write over its input
or over the gradient it is given, which layers run as one, where an output lies in memory. What
``forward`` returns is a buffer of the plan, and holds until its next call. Plans share nothing but
the parameters, so one may go forward while another, for another microbatch, is on its way back,
and two threads may run one each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from distcnn.nn.activations import Activation, ReLU
from distcnn.nn.convolution import Conv2d
from distcnn.nn.dense import Dense, Flatten
from distcnn.nn.kernels.activations import ActivationKernel, OwnLayerKernel, ReLUKernel
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.convolution import ConvKernel
from distcnn.nn.kernels.dense import DenseKernel, FlattenKernel
from distcnn.nn.kernels.fusion import FusedKernel, FusedPool
from distcnn.nn.kernels.pooling import AvgPoolKernel, MaxPoolKernel
from distcnn.nn.layer import Array, Call, Layer, RandomSource, Shape
from distcnn.nn.parameters import Parameters
from distcnn.nn.pooling import AvgPool2d, MaxPool2d
from distcnn.spans import Span

if TYPE_CHECKING:
    from distcnn.nn.sequential import Sequential

BUILT_IN = (Conv2d, MaxPool2d, AvgPool2d, ReLU, Activation, Flatten, Dense)
"""What kernels compute; any other layer runs its own ``forward`` and ``backward``."""
DOES_NOT_READ_ITS_OUTPUT = (Conv2d, MaxPool2d, Dense)
"""In backward: the next layer may write over what these return."""
GIVES_GRADIENT_AWAY = (Conv2d, MaxPool2d, AvgPool2d, Dense)
"""What these return from backward, the layer before may write over."""
COMPUTING = {"output_shape", "parameters", "forward", "backward"}
"""Methods of a subclass that keep the kernel of its base from computing it."""


class Kernel(Protocol):
    """Runs a layer, or a few that are fused, for one shape of microbatch."""

    def forward(self, x: Array, call: Call) -> Array:
        """The output; it holds until the next call."""

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        """Write the parameters' gradients to ``call.grads``; return the input's gradient, or None
        without ``input_gradient``.
        """


@dataclass(frozen=True)
class Stage:
    """A kernel with what it needs; ``index`` is that of its (first) layer, the layer's elements
    of the flat vectors begin at ``start``.
    """

    index: int
    name: str
    kernel: Kernel
    call: Call
    start: int
    forward_span: Span
    backward_span: Span


class Plan:
    """Runs ``model`` for inputs of shape ``(*input_shape, microbatch_size)``.

    Attributes:
        parameters: the values, shared with other plans.
        output_shape: of the logits, without the batch.
        nbytes: what its buffers take.
    """

    def __init__(
        self,
        model: Sequential,
        input_shape: Shape,
        microbatch_size: int,
        parameters: Parameters,
        fused: bool = True,
    ) -> None:
        self.model, self.input_shape, self.microbatch_size = model, input_shape, microbatch_size
        self.parameters = parameters
        self._shapes = model.shapes(input_shape)
        self.output_shape = self._shapes[-1]
        self._buffers = Buffers(parameters.values.dtype)
        self.stages = [self._stage(index, kernel) for index, kernel in self._kernels(fused)]
        self._first_with_parameters = next(
            (i for i, stage in enumerate(self.stages) if stage.call.values), len(self.stages)
        )
        self._gradient: Array | None = None
        self._unfused: Plan | None = None if fused else self

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return self._buffers.nbytes

    def forward(
        self, images: Array, training: bool = True, random: RandomSource | None = None
    ) -> Array:
        """The outputs ``(*output_shape, N)`` for ``images`` ``(*input_shape, N)``.

        Args:
            images: one microbatch; the batch is the last axis.
            training: what the layers see as ``call.training``.
            random: gives a layer, by its name, the generator of this pass.

        Raises:
            ValueError: ``images`` have another shape.
        """
        self._check(images)
        x = images
        for stage in self.stages:
            stage.call.begin(training, random)
            with stage.forward_span:
                x = stage.kernel.forward(x, stage.call)
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
        passing = self.start_backward(grad_output, out, input_gradient)
        passing.advance(until=0)
        return passing.input_gradient

    def start_backward(
        self, grad_output: Array, out: Array, input_gradient: bool = False
    ) -> Backward:
        """``backward`` in pieces: nothing is computed until ``advance`` is called."""
        self._write_gradients_to(out)
        # Before the first layer with parameters only the input's gradient is worth computing.
        first = 0 if input_gradient else self._first_with_parameters
        return Backward(self.stages[first:], grad_output, out.size, input_gradient)

    def walk(
        self,
        images: Array,
        loss: Callable[[Array], tuple[float, Array]],
        out: Array,
        training: bool = True,
        random: RandomSource | None = None,
    ) -> Iterator[tuple[str, Array]]:
        """A pass forward and back, layer by layer and nothing fused, with the same bits.

        Yields every array as it is computed, with its name: ``input``, ``output of conv1``, ...,
        ``gradient of the loss``, ``input gradient of dense1``, ... It has buffers of its own.

        Args:
            images: one microbatch ``(*input_shape, N)``.
            loss: of the outputs: the sum over the examples, and its gradient.
            out: takes the parameters' gradients.
            training: as in ``forward``.
            random: as in ``forward``.
        """
        if self._unfused is None:
            self._unfused = Plan(
                self.model, self.input_shape, self.microbatch_size, self.parameters, fused=False
            )
        yield from self._unfused._steps(images, loss, out, training, random)

    def _steps(
        self,
        images: Array,
        loss: Callable[[Array], tuple[float, Array]],
        out: Array,
        training: bool,
        random: RandomSource | None,
    ) -> Iterator[tuple[str, Array]]:
        self._check(images)
        self._write_gradients_to(out)
        yield "input", images
        x = images
        for stage in self.stages:
            stage.call.begin(training, random)
            x = stage.kernel.forward(x, stage.call)
            yield f"output of {stage.name}", x
        _, grad = loss(x)
        yield "gradient of the loss", grad
        first = self._first_with_parameters
        for index in reversed(range(first, len(self.stages))):
            stage = self.stages[index]
            grad_input = stage.kernel.backward(grad, stage.call, index > first)
            if grad_input is not None:
                grad = grad_input
                yield f"input gradient of {stage.name}", grad

    def _check(self, images: Array) -> None:
        expected = (*self.input_shape, self.microbatch_size)
        if images.shape != expected:
            raise ValueError(
                f"the input has shape {images.shape}, but the network was planned for"
                f" {expected}: plan it for the shape it gets (the batch is the last axis)"
            )

    def _write_gradients_to(self, flat: Array) -> None:
        values = self.parameters.values
        if (flat.shape, flat.dtype) != (values.shape, values.dtype):
            raise ValueError(
                f"gradients of shape {values.shape} ({values.dtype}) cannot be written to"
                f" {flat.shape} ({flat.dtype})"
            )
        if flat is not self._gradient:
            self._gradient = flat
            for stage in self.stages:
                stage.call.grads = self.parameters.of_layer(stage.name, flat)

    def _stage(self, index: int, kernel: Kernel) -> Stage:
        name = self.model.names[index]
        call = Call(name, self.parameters.of_layer(name, self.parameters.values))
        spans = Span("forward", layer=name), Span("backward", layer=name)
        return Stage(index, name, kernel, call, self.parameters.layer_starts[index], *spans)

    def _kernels(self, fused: bool) -> Iterator[tuple[int, Kernel]]:
        """The kernels in order, each with the index of its (first) layer."""
        layers = [*self.model.layers, None, None, None]
        kinds = [built_in(layer) if layer else None for layer in layers]
        index = 0
        while kinds[index] is not None or layers[index] is not None:
            layer, kind, shape = layers[index], kinds[index], self._shapes[index]
            assert layer is not None
            batch, buffers = self.microbatch_size, self._buffers
            in_place = index > 0 and kinds[index - 1] in DOES_NOT_READ_ITS_OUTPUT
            overwrite_gradient = kinds[index + 1] in GIVES_GRADIENT_AWAY
            kernel: Kernel
            taken = 1
            if kind is Conv2d:
                assert isinstance(layer, Conv2d)
                pool = layers[index + 1]
                window = (
                    pool.kernel_size
                    if kinds[index + 1] is MaxPool2d
                    and isinstance(pool, MaxPool2d)
                    and pool.is_side_by_side
                    else (1, 1)
                )
                conv = kernel = ConvKernel(layer, shape, batch, buffers, window)
                if (
                    fused
                    and isinstance(pool, MaxPool2d)
                    and (
                        kinds[index + 1] is MaxPool2d
                        and pool.is_side_by_side
                        and conv.holds_windows(window)
                    )
                ):
                    rectify = kinds[index + 2] is ReLU
                    taken = 3 if rectify else 2
                    flattened = kinds[index + taken] is Flatten
                    row_layer = FusedPool(
                        conv, pool, self.model.names[index + 1], buffers, flattened, rectify
                    )
                    kernel = FusedKernel(conv, row_layer)
            elif kind is MaxPool2d:
                assert isinstance(layer, MaxPool2d)
                after = index + (2 if kinds[index + 1] is ReLU else 1)
                flattened = kinds[after] is Flatten
                kernel = MaxPoolKernel(layer, shape, batch, buffers, flattened, in_place)
            elif kind is AvgPool2d:
                assert isinstance(layer, AvgPool2d)
                kernel = AvgPoolKernel(layer, shape, batch, buffers)
            elif kind is ReLU:
                kernel = ReLUKernel((*shape, batch), buffers, in_place, overwrite_gradient)
            elif kind is Activation:
                assert isinstance(layer, Activation)
                kernel = ActivationKernel(layer, (*shape, batch), buffers)
            elif kind is Flatten:
                kernel = FlattenKernel(shape, batch, buffers)
            elif kind is Dense:
                assert isinstance(layer, Dense)
                kernel = DenseKernel(shape[0], layer.out_features, batch, buffers)
            else:
                output_shape = (*self._shapes[index + 1], batch)
                kernel = OwnLayerKernel(
                    self.model.names[index], layer, (*shape, batch), output_shape
                )
            yield index, kernel
            index += taken


class Backward:
    """A backward pass that goes from the last layer to the first, as far as it is told.

    Attributes:
        input_gradient: the network's input gradient, once all is done, if it was asked for.
    """

    def __init__(
        self, stages: list[Stage], grad_output: Array, size: int, input_gradient: bool
    ) -> None:
        self._stages, self._grad, self._complete = list(stages), grad_output, size
        self._wants_input_gradient = input_gradient
        self.input_gradient: Array | None = None
        self.observe: Callable[[str, Array], None] | None = None

    def advance(self, until: int) -> None:
        """Compute until all elements of the flat gradient from ``until`` on are complete."""
        while self._stages and (self._complete > until or until == 0):
            stage = self._stages.pop()
            is_first = not self._stages
            with stage.backward_span:
                grad = stage.kernel.backward(
                    self._grad, stage.call, self._wants_input_gradient or not is_first
                )
            self._complete = stage.start
            if grad is not None:
                self._grad = grad
                if self.observe is not None:
                    self.observe(f"input gradient of {stage.name}", grad)
            if is_first and self._wants_input_gradient:
                self.input_gradient = grad


def built_in(layer: Layer) -> type[Layer] | None:
    """The class of ``BUILT_IN`` whose kernel computes ``layer``: its own, or a base whose
    computation it left as it is. None for a layer of the user's own.
    """
    defined: set[str] = set()
    for kind in type(layer).__mro__:
        if kind is Activation and not defined & COMPUTING:
            return Activation  # which calls the layer's own function and derivative
        if kind in BUILT_IN and not defined:
            return kind
        defined |= vars(kind).keys() & (COMPUTING | {"function", "derivative"})
    return None
