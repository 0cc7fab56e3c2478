"""Dense (fully connected) layers, and the Flatten before them."""

import math

from distcnn.errors import explained
from distcnn.nn.layer import Initialiser, Layer, Parameter, Shape, as_count
from distcnn.nn.parameters import as_initialiser, he_normal, zeros


class Flatten(Layer):
    """(C, H, W, N) to (C*H*W, N), in that order, which is PyTorch's."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)


class Dense(Layer):
    """``y = W x + b``: (in_features, N) to (out_features, N).

    The number of inputs is the input's, so it is not given (PyTorch's ``Linear(784, 10)`` is
    ``Dense(10)``). Parameters: ``weight`` (out_features, in_features), ``bias`` (out_features,).

    Args:
        out_features: number of outputs.
        weight_initialiser: draws the first weights.
        bias_initialiser: draws the first biases.

    Raises:
        ArgumentError: for other arguments.
        ValueError: when out_features is below 1, and for inputs that are not flat.
    """

    @explained(
        "write Dense(out_features), and weight_initialiser=..., bias_initialiser=... by name: the"
        " number of inputs is the input's (PyTorch's Linear(784, 10) is Dense(10) here)"
    )
    def __init__(
        self,
        out_features: int,
        *,
        weight_initialiser: Initialiser = he_normal,
        bias_initialiser: Initialiser = zeros,
    ) -> None:
        self.out_features = as_count("out_features", out_features)
        self.weight_initialiser = as_initialiser("weight_initialiser", weight_initialiser)
        self.bias_initialiser = as_initialiser("bias_initialiser", bias_initialiser)

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise ValueError(
                f"Dense takes flat inputs (features,), but its input has shape {input_shape}: put"
                " Flatten before it"
            )
        return (self.out_features,)

    def parameters(self, input_shape: Shape) -> tuple[Parameter, ...]:
        fans = input_shape[0], self.out_features
        shape = self.out_features, input_shape[0]
        return (
            Parameter("weight", shape, self.weight_initialiser, *fans),
            Parameter("bias", (self.out_features,), self.bias_initialiser, *fans),
        )
