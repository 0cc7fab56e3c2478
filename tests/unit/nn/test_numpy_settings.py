"""Computing with a short buffer changes no bit, and leaves NumPy as it was."""

from __future__ import annotations

import numpy as np
import pytest

from distcnn.models import MODELS
from distcnn.nn import numpy_settings
from distcnn.nn.numpy_settings import BUFFER_ELEMENTS
from tests.support.networks import planned


@pytest.mark.parametrize("model", MODELS)
def test_no_bit_depends_on_it(model: str) -> None:
    network = planned(MODELS[model]((1, 28, 28), 10), (1, 28, 28), 8).initialise(
        np.random.default_rng(0)
    )
    rng = np.random.default_rng(1)
    images, grads = (
        rng.standard_normal((1, 28, 28, 8), np.float32),
        rng.standard_normal((10, 8), np.float32),
    )
    y = network.forward(images).copy()
    network.backward(grads)
    expected = network.grads.copy()
    with numpy_settings():
        np.testing.assert_array_equal(network.forward(images), y)
        network.backward(grads)
    np.testing.assert_array_equal(network.grads, expected)


def fail_within() -> None:
    with numpy_settings():
        assert np.getbufsize() == BUFFER_ELEMENTS
        assert np.float32(3e38) * np.float32(10) == np.inf  # pytest makes warnings errors
        raise KeyError


def test_numpy_is_left_as_it_was() -> None:
    size, errors = np.getbufsize(), np.geterr()
    with pytest.raises(KeyError):
        fail_within()
    assert (np.getbufsize(), np.geterr()) == (size, errors)
