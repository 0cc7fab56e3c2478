"""The step: the sum over shards is the gradient of the mean loss over the global batch; what cannot
be added is named.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from distcnn.config import Config
from distcnn.datasets import Microbatch, Shard
from distcnn.distributed import Communicator, share_of
from distcnn.errors import TrainingError
from distcnn.nn import Dense, Flatten, Sequential, softmax_cross_entropy
from distcnn.nn.parameters import Parameters
from distcnn.optim import SGD
from distcnn.training.overlap import make_step
from distcnn.training.step import Lane, TrainingStep
from tests.conftest import MakeImageSet
from tests.support.training_fixtures import stepped

EXAMPLES, NUM_SHARDS, MICROBATCH_SIZE = 10, 3, 4  # shards of 3, 3, 4: two of them padded


def a_step(gradient_limit: float = 4096.0, std: float = 0.25) -> TrainingStep:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, 3, 2, 1)).astype(np.uint8)
    labels = rng.integers(0, 5, EXAMPLES)
    model = Sequential([Flatten(), Dense(5)])
    parameters = model.initialise((1, 3, 2), np.random.default_rng(1))
    plan = model.plan((1, 3, 2), MICROBATCH_SIZE, parameters)
    spans = [share_of(EXAMPLES, NUM_SHARDS, index) for index in range(NUM_SHARDS)]
    shards = [
        Shard(index, images[span.start : span.stop], labels[span.start : span.stop], seed=7)
        for index, span in enumerate(spans)
    ]
    config = Config(
        num_shards=NUM_SHARDS, gradient_limit=gradient_limit, microbatch_size=MICROBATCH_SIZE
    )
    microbatch = Microbatch((1, 3, 2), MICROBATCH_SIZE, np.array([0.4]), np.array([std]))
    lane = Lane(plan, microbatch)
    loss, optimizer = softmax_cross_entropy, SGD().start(parameters.values)
    return make_step(config, Communicator(), lane, lambda: lane, loss, optimizer, shards)


def parameters_of(step: TrainingStep) -> Parameters:
    return step.lane.plan.parameters


def test_the_update_is_that_of_the_mean_loss_over_all_examples() -> None:
    step = a_step()
    images = (
        np.concatenate([shard.images for shard in step.shards])
        .reshape(EXAMPLES, -1)
        .astype(np.float64)
    )
    labels = np.concatenate([shard.labels for shard in step.shards])
    x = (images / 255 - 0.4) / 0.25
    weight = parameters_of(step).named()["dense1.weight"].astype(np.float64)
    logits = x @ weight.T
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    delta = probabilities - np.eye(5)[labels]
    expected = weight - 0.5 * (delta.T @ x) / EXAMPLES

    totals = step(0, 0, 0, learning_rate=0.5)
    assert totals.examples == EXAMPLES
    assert totals.correct == np.count_nonzero(logits.argmax(axis=1) == labels)
    assert totals.loss == pytest.approx(
        -np.log(probabilities[np.arange(EXAMPLES), labels]).mean(), rel=1e-5
    )
    np.testing.assert_allclose(
        parameters_of(step).named()["dense1.weight"], expected, rtol=1e-5, atol=1e-6
    )


def set_third_bias(step: TrainingStep, value: float) -> None:
    biases = parameters_of(step).named()["dense1.bias"].copy()
    biases[2] = value
    parameters_of(step).assign({"dense1.bias": biases})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_nan_or_infinite_names_step_shard_and_parameter_and_updates_nothing(
    bad: float,
) -> None:
    step = a_step()
    set_third_bias(step, bad)
    before = parameters_of(step).values.copy()
    with pytest.raises(
        TrainingError,
        match=r"step 17, shard 0: the gradient of dense1\.weight is nan: the training has diverged",
    ):
        step(17, 0, 0, learning_rate=0.1)
    assert parameters_of(step).values.tobytes() == before.tobytes()


def test_a_gradient_out_of_range_names_the_flag_that_widens_it() -> None:
    """After a smaller learning rate, because a wider range only lets a network diverge further."""
    step = a_step(gradient_limit=1.0, std=0.01)
    with pytest.raises(
        TrainingError,
        match=(
            r"the gradient of dense1\.weight is .*beyond the sum's limit of"
            r" 1 for one shard.*--learning-rate.*--gradient-limit"
        ),
    ):
        step(1, 0, 0, learning_rate=0.1)


def test_what_is_out_of_range_before_any_update_is_not_put_down_to_the_learning_rate() -> None:
    step = a_step()
    set_third_bias(step, math.inf)
    with pytest.raises(
        TrainingError, match="no update was made yet: check the image set's mean and std"
    ) as caught:
        step(0, 0, 0, learning_rate=0.1)
    assert "--learning-rate" not in str(caught.value)


def test_the_largest_limit_is_not_advised_to_grow() -> None:
    step = a_step(gradient_limit=2.0**40, std=1e-15)
    with pytest.raises(
        TrainingError, match=r"the gradient of .* is .*beyond the sum's limit of .*--learning-rate"
    ) as caught:
        step(1, 0, 0, learning_rate=0.1)
    assert "--gradient-limit" not in str(caught.value)


def test_a_loss_out_of_range_is_distinguished_from_a_gradient_out_of_range() -> None:
    step = a_step()
    set_third_bias(step, 2.0**31)  # softmax's gradient is at most 1, whatever the logits are
    before = parameters_of(step).values.copy()
    with pytest.raises(
        TrainingError,
        match=r"step 3, shard 0: the loss is .*e\+\d\d, beyond the sum's limit of 1\.07374e\+09",
    ) as caught:
        step(3, 0, 0, learning_rate=0.1)
    assert (
        "for one shard: the training has diverged; lower --learning-rate or lengthen"
        " --warmup-steps; training examples " in str(caught.value)
    )
    assert "--gradient-limit" not in str(caught.value)
    assert parameters_of(step).values.tobytes() == before.tobytes()


def test_other_settings_give_other_weights(image_set: MakeImageSet) -> None:
    flags = ["--data", str(image_set()), "--model", "tutorial"]
    settings = ["", "--seed 1", "--num-shards 4", "--microbatch-size 31", "--learning-rate 0.04"]
    weights = [stepped(2, *flags, *each.split()) for each in settings]
    assert len({b"".join(values.values()) for values in weights}) == len(settings)
