"""A small network trained for some steps in portable arithmetic: whether its layers give here what
they give on every machine.
"""

from __future__ import annotations

import hashlib

import numpy as np

from distcnn import nn
from distcnn.nn.losses import portable_loss
from distcnn.optim import SGD
from distcnn.random_streams import PortableGenerator

INPUT, CLASSES, EXAMPLES, STEPS, RATE = (1, 20, 20), 10, 16, 5, 0.1
NETWORK = nn.Sequential(
    [
        *(nn.Conv2d(8, 3), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(16, 3), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Dense(30), nn.Sigmoid(), nn.Dense(CLASSES)),
    ]
)
"""Layers of all kinds, with both algorithms of convolutions: Winograd and im2col."""


def layers_sha256() -> str:
    """SHA-256 of the weights after ``STEPS`` steps on images of a fixed random stream."""
    draw = PortableGenerator(np.random.Philox(key=np.zeros(2, np.uint64)))
    parameters = NETWORK.initialise(INPUT, draw)
    plan = NETWORK.plan(INPUT, EXAMPLES, parameters, "portable")
    loss = portable_loss(nn.softmax_cross_entropy)
    updater = (
        SGD(learning_rate=0.1, momentum=0.9, nesterov=True).portable().start(parameters.values)
    )
    gradient = np.empty_like(parameters.values)
    for _ in range(STEPS):
        images = draw.random((*INPUT, EXAMPLES), np.float32)
        labels = (draw.random(EXAMPLES) * CLASSES).astype(np.int64)
        logits = plan.forward(images, training=True)
        _, grad_logits = loss(logits, labels, np.ones(EXAMPLES, logits.dtype))
        plan.backward(grad_logits, out=gradient)
        with parameters.changing() as values:
            updater.step(values, gradient, RATE, count=EXAMPLES)
    return hashlib.sha256(parameters.values.astype("<f4").tobytes()).hexdigest()
