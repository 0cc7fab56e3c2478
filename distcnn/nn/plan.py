"""A plan runs a network for one shape of microbatch: it chooses kernels, and fuses neighbours.

    plan = model.plan((1, 28, 28), microbatch_size=16, parameters=parameters)
    logits = plan.forward(images, training=True)                # (classes, N)
    loss_sum, grad_logits = loss(logits, labels, weights)
    plan.backward(grad_logits, out=gradient)                    # flat, like parameters.values

All decisions on which layers run as one and who may overwrite what are made here; kernels follow
them, and layers know nothing of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from distcnn.nn.activations import Activation, ReLU
from distcnn.nn.convolution import Conv2d
from distcnn.nn.dense import Dense, Flatten
from distcnn.nn.kernels.activations import ActivationKernel, OwnLayerKernel, ReLUKernel
from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.convolution import ConvKernel
from distcnn.nn.kernels.dense import DenseKernel, FlattenKernel
from distcnn.nn.kernels.exact_convolution import ExactConvKernel
from distcnn.nn.kernels.exact_dense import ExactDenseKernel
from distcnn.nn.kernels.fusion import Pooling
from distcnn.nn.kernels.pooling import AvgPoolKernel, MaxPoolKernel
from distcnn.nn.layer import Array, Call, Layer, RandomSource, Shape, as_count
from distcnn.nn.parameters import Parameters
from distcnn.nn.pooling import AvgPool2d, MaxPool2d
from distcnn.spans import BACKWARD, FORWARD, Span

if TYPE_CHECKING:
    from distcnn.nn.sequential import Sequential

BUILT_IN = (Conv2d, MaxPool2d, AvgPool2d, ReLU, Activation, Flatten, Dense)
"""Layers that kernels compute; any other runs its own ``forward`` and ``backward``."""
OUTPUT_MAY_BE_OVERWRITTEN = (Conv2d, MaxPool2d, Dense)
"""Layers whose output the next layer may overwrite: backward does not read it again."""
GRADIENT_MAY_BE_OVERWRITTEN = (Conv2d, MaxPool2d, AvgPool2d, Dense)
"""Layers whose input gradient the layer before may overwrite: it is not read again either."""
NATIVE, PORTABLE = ARITHMETICS = ("native", "portable")
"""Native: as fast as the processor and its BLAS can, so bits depend on them. Portable: the same
bits on every machine (``distcnn.portable``)."""
METHODS = {"output_shape", "parameters", "forward", "backward"}
"""A subclass that defines one of these computes by itself, not by its base's kernel."""


class Kernel(Protocol):
    """Runs one layer, or several fused ones, for one shape of microbatch (``nn/kernels``)."""

    def forward(self, x: Array, call: Call) -> Array: ...

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        """Write the parameters' gradients to ``call.grads``; return the input's gradient, or None
        without ``input_gradient`` (always given to kernels that have no parameters).
        """


class Stage:
    """A kernel and what its calls need; ``start`` is its first element of the flat vectors."""

    def __init__(
        self,
        name: str,
        kernel: Kernel,
        values: Mapping[str, Array],
        start: int,
        parameters: Parameters,
    ) -> None:
        self.name, self.values, self.start, self._parameters = name, values, start, parameters
        self.grads: Mapping[str, Array] = {}
        self._kernel = kernel
        self._forward, self._backward = Span(FORWARD, layer=name), Span(BACKWARD, layer=name)

    def forward(self, x: Array, training: bool, random_source: RandomSource | None) -> Array:
        version = self._parameters.version
        self._call = Call(self.name, self.values, self.grads, training, random_source, version)
        with self._forward:
            return self._kernel.forward(x, self._call)

    def backward(self, grad_output: Array, input_gradient: bool) -> Array | None:
        self._call.grads = self.grads
        with self._backward:
            return self._kernel.backward(grad_output, self._call, input_gradient)


class Plan:
    """Runs ``model`` for inputs of shape ``(*input_shape, microbatch_size)``.

    What ``forward`` returns is a buffer of the plan, valid until its next call. Plans share
    nothing but the parameters, so one can go forward while another runs backward for another
    microbatch, and two threads can run one each.

    Attributes:
        parameters: the values, shared with other plans.
        arithmetic: "native" or "portable".
        output_shape: of the logits, without the batch.
    """

    def __init__(
        self,
        model: Sequential,
        input_shape: Shape,
        microbatch_size: int,
        parameters: Parameters,
        arithmetic: str = NATIVE,
        fused: bool = True,
    ) -> None:
        self.model, self.input_shape, self.parameters = model, input_shape, parameters
        if arithmetic not in ARITHMETICS:
            raise ValueError(f"arithmetic (={arithmetic!r}) must be native or portable")
        self.arithmetic = arithmetic
        self.microbatch_size = as_count("microbatch_size", microbatch_size)
        given = {name: values.shape for name, values in parameters.named().items()}
        expected = {
            name: parameter.shape for name, parameter in model.parameters(input_shape).items()
        }
        if given != expected:
            raise ValueError(
                f"parameters of the shapes {given} are those of another network or input, not"
                f" {expected}: make them with model.initialise({input_shape}, rng)"
            )
        shapes = model.shapes(input_shape)
        self.output_shape = shapes[-1]
        self._is_portable = arithmetic == PORTABLE
        self._buffers = Buffers(parameters.values.dtype)
        self._shapes = [(*shape, self.microbatch_size) for shape in shapes]
        self._fused = fused
        self.stages = list(self._make_stages())
        self.freeze(())
        self._gradient: Array | None = None

    def freeze(self, names: Collection[str]) -> None:
        """Let ``backward`` end above the first layers all of whose parameters are in ``names``: it
        writes zeros for their gradients. Further frozen parameters get their gradients.
        """
        trained = (
            index
            for index, stage in enumerate(self.stages)
            if any(f"{stage.name}.{name}" not in names for name in stage.values)
        )
        self._first_trained = next(trained, len(self.stages))

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return self._buffers.nbytes

    def forward(
        self, images: Array, training: bool = False, random_source: RandomSource | None = None
    ) -> Array:
        """The outputs ``(*output_shape, N)`` for ``images`` ``(*input_shape, N)``.

        Args:
            images: one microbatch; the batch is the last axis.
            training: what the layers see as ``call.training``.
            random_source: maps a layer's name to its generator for this pass (``call.random``).

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
            x = stage.forward(x, training, random_source)
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
        started.finish()
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
            self._gradient, named = out, self.parameters.named(out)
            for stage in self.stages:
                stage.grads = {name: named[f"{stage.name}.{name}"] for name in stage.values}
        # Before the first layer that is trained only the input's gradient is worth computing.
        first = 0 if input_gradient else self._first_trained
        stages = self.stages[first:]
        out[: stages[0].start if stages else out.size] = 0
        return Backward(stages, grad_output, out.size, input_gradient)

    def unfused(self) -> Plan:
        """A plan with buffers of its own that runs one layer after another, with the same bits."""
        return Plan(
            *(self.model, self.input_shape, self.microbatch_size, self.parameters),
            arithmetic=self.arithmetic,
            fused=False,
        )

    def _make_stages(self) -> Iterator[Stage]:
        index, named = 0, self.parameters.named().items()
        while index < len(self.model.layers):
            kernel, layer = self._kernel(index), self.model.names[index]
            prefix, start = f"{layer}.", self.parameters.layer_starts[index]
            own = {
                name.removeprefix(prefix): view for name, view in named if name.startswith(prefix)
            }
            yield Stage(layer, kernel, own, start, self.parameters)
            index += kernel.layers if isinstance(kernel, ConvKernel) else 1

    def _kernel(self, index: int) -> Kernel:
        """The kernel that begins with layer ``index``."""
        layer, shape, buffers = self.model.layers[index], self._shapes[index], self._buffers
        kind = self._kind(index)
        if kind is None:
            output_shape = self._shapes[index + 1]
            return OwnLayerKernel(self.model.names[index], layer, shape, output_shape)
        if kind is ReLU:  # not a subclass with a function of its own, which is an Activation
            in_place = self._kind(index - 1) in OUTPUT_MAY_BE_OVERWRITTEN
            overwrite_gradient = self._kind(index + 1) in GRADIENT_MAY_BE_OVERWRITTEN
            return ReLUKernel(shape, buffers, in_place, overwrite_gradient)
        match layer:
            case Conv2d():
                conv = ExactConvKernel if self._is_portable else ConvKernel
                return conv(layer, shape, buffers, self._pooling(index + 1), self._fused)
            case MaxPool2d():
                return MaxPoolKernel(layer, shape, buffers)
            case AvgPool2d():
                return AvgPoolKernel(layer, shape, buffers)
            case Activation():
                return ActivationKernel(layer, shape, buffers, self.arithmetic)
            case Flatten():
                return FlattenKernel(shape, buffers)
            case Dense():
                dense = ExactDenseKernel if self._is_portable else DenseKernel
                return dense(layer.out_features, shape, buffers)
        raise AssertionError(f"{kind} has no kernel")

    def _kind(self, index: int) -> type[Layer] | None:
        """``built_in`` of layer ``index``; None before the first layer and after the last."""
        layers = self.model.layers
        return built_in(layers[index]) if 0 <= index < len(layers) else None

    def _pooling(self, index: int) -> Pooling | None:
        """The max pooling at ``index`` with what follows it, for the convolution before it."""
        pool = self.model.layers[index] if self._kind(index) is MaxPool2d else None
        if not isinstance(pool, MaxPool2d) or not pool.is_side_by_side:
            return None
        rectify = self._kind(index + 1) is ReLU
        flattened = self._kind(index + (2 if rectify else 1)) is Flatten
        return Pooling(pool.kernel_size, self.model.names[index], rectify, flattened)


class Backward:
    """A backward pass from the last layer to the first, in pieces.

    ``gradient`` is the gradient of the network's outputs, and after each layer that of its input.
    (At the first layer it is computed only on request; otherwise ``gradient`` stays as it was.)
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
        """Compute until the flat gradient is complete from element ``until`` on."""
        while self._complete_from > until and self.next_layer():
            pass

    def finish(self) -> None:
        """Compute all layers that are left, and the input's gradient if it was requested."""
        while self.next_layer():
            pass


def built_in(layer: Layer) -> type[Layer] | None:
    """The class of ``BUILT_IN`` whose kernel computes ``layer``; None for a user's own layer."""
    defined: set[str] = set()
    for kind in type(layer).__mro__:
        if kind is Activation and not defined & METHODS:
            return Activation  # which calls the layer's own function and derivative
        if kind in BUILT_IN and not defined:
            return kind
        defined |= vars(kind).keys() & (METHODS | {"function", "derivative"})
    return None
