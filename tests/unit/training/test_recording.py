"""A recorded pass has the plan's bits, and its checksums find every flipped bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from distcnn import models, nn
from distcnn.nn import Sequential, softmax_cross_entropy
from distcnn.random_streams import layer_streams
from distcnn.training.recording import Checksums, Recording, checksum, first_difference

SHAPE, CLASSES, SIZE = (1, 28, 28), 10, 4
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((*SHAPE, SIZE)).astype(np.float32)
LABELS, WEIGHTS = np.array([3, 1, 9, 0]), np.array([1, 1, 1, 0], np.float32)


def test_a_checksum_is_of_values_not_of_their_order_in_memory() -> None:
    values = RNG.standard_normal((3, 5, 4)).astype(np.float32)
    assert checksum(values) == checksum(np.asfortranarray(values))
    assert checksum(values) == checksum(np.repeat(values, 2, axis=1)[:, ::2])
    assert checksum(values) != checksum(values.swapaxes(0, 1))


def test_zeros_and_nans_count_as_equal_whatever_their_sign() -> None:
    assert checksum(np.float32([0.0, 1.0])) == checksum(np.float32([-0.0, 1.0]))
    nans = np.array([0x7FC00000, 0xFFC00001], np.uint32).view(np.float32)
    assert checksum(nans[:1]) == checksum(nans[1:])
    assert checksum(nans[:1]) != checksum(np.float32([np.inf]))


def test_a_checksum_finds_every_flipped_bit() -> None:
    values = RNG.standard_normal(7).astype(np.float32)
    found = {checksum(values)}
    for element in range(7):
        for bit in range(32):
            flipped = values.copy()
            flipped.view(np.uint32)[element] ^= np.uint32(1 << bit)
            found.add(checksum(flipped))
    assert len(found) == 1 + 7 * 32


def test_the_first_difference_is_the_first_thing_that_was_computed() -> None:
    own: Checksums = {"a": 1, "b": 2, "c": None}
    assert first_difference(own, dict(own)) == ""
    assert first_difference(own, {"a": 1, "b": 3, "c": 4}) == "b"
    assert first_difference(own, {"a": 0, "b": 3, "c": 4}) == "a"
    assert first_difference(own, {"a": 1, "b": 2, "c": 4}) == ""  # it failed before
    assert first_difference(own, {"a": 1, "b": None, "c": None}) == "b"


def computed(run: Any, loss: Any, size: int, buckets: list[int]) -> list[NDArray[Any]]:
    """Outputs and gradient, with the gradient completed from each of ``buckets`` on, or at once."""
    gradient = np.full(size, 7, np.float32)
    with nn.numpy_settings():
        outputs = run.forward(IMAGES, True, layer_streams(0, 0, 0)).copy()
        _, grad_outputs = loss(outputs, LABELS, WEIGHTS)
        if not buckets:
            run.backward(grad_outputs, gradient)
        else:
            backward = run.start_backward(grad_outputs, gradient)
            for until in buckets:
                backward.advance(until=until)
    return [outputs, gradient]


def planned(model: Sequential, arithmetic: str = "native", freeze: tuple[str, ...] = ()) -> nn.Plan:
    parameters = model.initialise(SHAPE, np.random.default_rng(1))
    plan = model.plan(SHAPE, SIZE, parameters, arithmetic=arithmetic)
    plan.freeze(freeze)
    return plan


@pytest.mark.parametrize("arithmetic", nn.ARITHMETICS)
@pytest.mark.parametrize("freeze", [(), ("conv1.weight", "conv1.bias")])
@pytest.mark.parametrize("name", ["lenet", "tutorial", "lenet5"])
def test_a_recorded_pass_has_the_bits_of_the_plan(
    name: str, freeze: tuple[str, ...], arithmetic: str
) -> None:
    model = models.MODELS[name](SHAPE, CLASSES)
    plan = planned(model, arithmetic, freeze)
    recording = Recording(planned(model, arithmetic, freeze), softmax_cross_entropy)
    size, starts = plan.parameters.values.size, sorted({0, *plan.parameters.layer_starts})
    expected = computed(plan, softmax_cross_entropy, size, [])
    recorded = computed(recording, recording.loss, size, [])
    assert [each.tobytes() for each in recorded] == [each.tobytes() for each in expected]
    missing = [name for name, value in recording.checksums.items() if value is None]
    assert all("input gradient" in name for name in missing)  # below the first trained layer
    in_pieces = Recording(planned(model, arithmetic, freeze), softmax_cross_entropy)
    computed(in_pieces, in_pieces.loss, size, starts[::-1])
    assert in_pieces.checksums == recording.checksums


def test_names_are_in_the_order_in_which_an_error_spreads() -> None:
    model = Sequential([nn.Conv2d(2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Dense(10)])
    assert list(Recording(planned(model), softmax_cross_entropy).checksums) == [
        "output of conv1 to relu1 (forward)",
        "output of flatten1 (forward)",
        "output of dense1 (forward)",
        "loss",
        "gradient of the loss",
        "gradient of dense1.weight (backward)",
        "gradient of dense1.bias (backward)",
        "input gradient of dense1 (backward)",
        "input gradient of flatten1 (backward)",
        "gradient of conv1.weight (backward)",
        "gradient of conv1.bias (backward)",
        "input gradient of conv1 to relu1 (backward)",
    ]
