"""``Network.activations`` against the textbook, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn import nn
from distcnn.errors import ArgumentError, InputError
from distcnn.network import Network
from distcnn.nn import reference

MEAN, STD = 0.25, 0.5


@pytest.fixture(scope="module")
def network() -> Network:
    """Its plan fuses the convolution, the pooling and the ReLU."""
    layers = [nn.Conv2d(4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Dense(5)]
    model = nn.Sequential(layers)
    parameters = model.initialise((2, 8, 8), np.random.default_rng(0))
    return Network(
        model,
        parameters.named(),
        image_shape=(2, 8, 8),
        mean=[MEAN, MEAN],
        std=[STD, STD],
        class_names="abcde",
        microbatch_size=3,
    )


def test_every_layers_output_is_the_textbooks(network: Network) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 2)).astype(np.uint8)
    found = network.activations(images)
    weights = network.model.initialise((2, 8, 8), np.random.default_rng(0)).named()
    x = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    conv = reference.conv2d(x, weights["conv1.weight"], weights["conv1.bias"])
    pooled = reference.max_pool2d(conv, (2, 2), (2, 2))
    expected = {"conv1": conv, "maxpool1": pooled, "relu1": np.maximum(pooled, 0)}
    expected["flatten1"] = expected["relu1"].reshape(4, -1)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    assert list(found) == list(network.model.names)
    np.testing.assert_array_equal(found["dense1"], network.logits(images))


def test_there_may_be_no_image_and_none_of_another_size(network: Network) -> None:
    assert network.activations(np.zeros((0, 8, 8, 2), np.uint8))["conv1"].shape == (0, 4, 6, 6)
    with pytest.raises(ArgumentError):
        network.activations(np.zeros((1, 9, 9, 2), np.uint8))


def test_a_single_image_has_the_activations_of_a_batch(network: Network) -> None:
    images = np.arange(128, dtype=np.uint8).reshape(1, 8, 8, 2)
    batch, one = network.activations(images), network.activations(images[0])
    for name, values in batch.items():
        np.testing.assert_array_equal(one[name], values[0])


def test_a_network_that_diverged_predicts_nothing() -> None:
    model = nn.Sequential([nn.Flatten(), nn.Dense(2)])
    zeros = model.allocate((1, 2, 2)).named()
    weights = {name: np.full_like(values, np.nan) for name, values in zeros.items()}
    network = Network(
        model, weights, image_shape=(1, 2, 2), mean=[MEAN], std=[STD], class_names="ab"
    )
    with pytest.raises(InputError, match="diverged"):
        network.predict(np.zeros((1, 2, 2), np.uint8))
