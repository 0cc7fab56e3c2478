"""``python -m tests.support.random_models [COUNT]``: a hash of what random networks compute in
portable arithmetic: outputs, losses, the gradients of parameters and inputs.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable

import numpy as np

from distcnn import nn
from distcnn.nn.losses import portable_loss
from distcnn.random_streams import PortableGenerator

Draw = Callable[..., int]


def layers_of(draw: Draw) -> list[nn.Layer]:
    """Convolutions, poolings and activations in any order; then dense layers and activations."""

    def convolution() -> nn.Layer:
        stride = 1 + draw(2)
        return nn.Conv2d(1 + draw(5), 1 + draw(3), padding=draw(2), stride=stride)

    def pooling() -> nn.Layer:
        kind = (nn.MaxPool2d, nn.AvgPool2d)[draw(2)]
        return kind(2, 1 + draw(2))

    def activation() -> nn.Layer:
        return (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity)[draw(4)]()

    def dense() -> nn.Layer:
        return nn.Dense(1 + draw(7))

    of_images = [(convolution, pooling, activation)[draw(3)]() for _ in range(draw(5))]
    of_vectors = [(dense, activation)[draw(2)]() for _ in range(draw(3))]
    return [
        *of_images,
        nn.Flatten(),
        *of_vectors,
        nn.Dense(4),
        *(activation() for _ in range(draw(2))),
    ]


def sha256_of(count: int) -> str:
    """The hash of the results of ``count`` networks."""
    found = hashlib.sha256()
    rng = PortableGenerator(np.random.Philox(key=np.array([18, 1], np.uint64)))

    def draw(below: int) -> int:
        return int(rng.random() * below)

    while count:
        model, shape, size = nn.Sequential(layers_of(draw)), (1 + draw(2), 12, 13), 1 + draw(8)
        try:
            parameters = model.initialise(shape, rng)
        except ValueError:  # the images have become too small
            continue
        count -= 1
        images = rng.standard_normal((*shape, size), np.float32)
        labels = np.array([draw(4) for _ in range(size)])
        loss = portable_loss(tuple(nn.LOSSES.values())[draw(2)])
        results = []
        for plan in (fused := model.plan(shape, size, parameters, "portable"), fused.unfused()):
            outputs = plan.forward(images, training=True).copy()
            loss_sum, grad = loss(outputs, labels, np.ones(size, np.float32))
            gradient = np.zeros_like(parameters.values)
            of_images = plan.backward(grad, out=gradient, input_gradient=True)
            assert of_images is not None
            arrays = [np.array(loss_sum), outputs, gradient, of_images]
            # Signs of zero may differ; bytes are in one order everywhere.
            results.append([np.asarray(array + 0.0, "<f8").tobytes() for array in arrays])
        assert results[0] == results[1], f"fused and unfused differ: {model} for {shape}, {size}"
        found.update(b"".join(results[0]))
    return found.hexdigest()


if __name__ == "__main__":
    print(sha256_of(int(sys.argv[1]) if len(sys.argv) > 1 else 60))
