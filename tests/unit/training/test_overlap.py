"""When overlap is on, and that a step that overlaps, or that computes shards side by side, gives
the bits of a plain one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distcnn.config import Config
from distcnn.datasets import Microbatch, Shard
from distcnn.distributed import Allreduce, Communicator, share_of
from distcnn.errors import TrainingError
from distcnn.nn import Dense, Flatten, ReLU, Sequential, softmax_cross_entropy
from distcnn.nn.layer import Array, Call, Layer, Shape
from distcnn.optim import SGD
from distcnn.training.overlap import MOST_LANES, OverlappedTrainingStep, make_step, open_allreduce
from distcnn.training.step import Lane, TrainingStep

SHAPE, MICROBATCH_SIZE = (1, 6, 5), 4


class Cluster(Communicator):
    """Claims several hosts, and can sum in the background."""

    def __init__(self, *hosts: str) -> None:
        super().__init__()
        self.hosts = list(hosts)

    def background_allreduce(self) -> Allreduce | None:
        return Allreduce(self.allreduce_sum)


@pytest.mark.parametrize(
    ("wanted", "reduction", "hosts", "on"),
    [
        ("auto", "exact", "ab", True),
        ("auto", "fast", "ab", False),
        ("auto", "exact", "aa", False),
        ("on", "fast", "aa", True),
        ("off", "exact", "ab", False),
    ],
)
def test_auto_is_on_only_where_it_measured_faster(
    wanted: str, reduction: str, hosts: str, on: bool
) -> None:
    assert (open_allreduce(wanted, reduction, Cluster(*hosts)) is not None) == on


def test_without_a_background_sum_it_is_off() -> None:
    assert open_allreduce("on", "exact", Communicator()) is None


class Dropout(Layer):
    """As a user would write it."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def forward(self, x: Array, call: Call) -> Array:
        if not call.training:
            return x
        kept = call.random.random(x.shape, np.float32) >= self.rate
        call.saved = kept.astype(np.float32) / np.float32(1 - self.rate)
        return x * call.saved

    def backward(self, grad_output: Array, call: Call) -> Array:
        return np.asarray(grad_output * call.saved)


MODEL = Sequential([Flatten(), Dense(200), ReLU(), Dropout(0.3), Dense(200), ReLU(), Dense(5)])
"""Two buckets: the last two dense layers, and the first."""


def steps_of(config: Config, num_shards: int, side_by_side: int = 1) -> TrainingStep:
    """Ready for the first step, on one rank."""
    examples = num_shards * MICROBATCH_SIZE - 1  # one shard's last microbatch is padded
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, *SHAPE[1:], 1)).astype(np.uint8)
    labels = rng.integers(0, 5, examples)
    spans = [share_of(examples, num_shards, index) for index in range(num_shards)]
    shards = [
        Shard(index, images[span.start : span.stop], labels[span.start : span.stop], seed=7)
        for index, span in enumerate(spans)
    ]
    parameters = MODEL.initialise(SHAPE, np.random.default_rng(1))

    def make_lane() -> Lane:
        plan = MODEL.plan(SHAPE, MICROBATCH_SIZE, parameters)
        microbatch = Microbatch(SHAPE, MICROBATCH_SIZE, np.array([0.4]), np.array([0.25]))
        return Lane(plan, microbatch)

    config = replace(config, num_shards=num_shards, microbatch_size=MICROBATCH_SIZE)
    updater = SGD(momentum=0.9).start(parameters.values)
    return make_step(
        *(config, Cluster("a"), make_lane(), make_lane, softmax_cross_entropy, updater, shards),
        side_by_side=side_by_side,
    )


def trained(step: TrainingStep) -> list[Any]:
    """Weights after three steps, and the sums of each step."""
    totals = [step(number, 0, 0, learning_rate=0.1) for number in range(3)]
    seen = [(round(one.loss_sum, 3), one.correct, one.examples) for one in totals]
    return [step.lane.plan.parameters.values.tobytes(), seen]


@pytest.mark.parametrize("num_shards", [1, 3, MOST_LANES + 2])
@pytest.mark.parametrize("reduction", ["exact", "fast"])
def test_an_overlapped_step_gives_the_same_bits(num_shards: int, reduction: str) -> None:
    config = Config(reduction=reduction, overlap="on", seed=3)
    overlapped = steps_of(config, num_shards)
    assert isinstance(overlapped, OverlappedTrainingStep)
    assert len(overlapped.reducer.buckets) == 2
    plain = steps_of(replace(config, overlap="off"), num_shards)
    assert not plain.overlaps
    assert trained(overlapped) == trained(plain)


def test_layers_draw_by_seed_step_and_shard() -> None:
    def weights(seed: int) -> bytes:
        return bytes(trained(steps_of(Config(overlap="off", seed=seed), 3))[0])

    assert weights(3) == weights(3)
    assert weights(3) != weights(4)


@pytest.mark.parametrize(("num_shards", "at_a_time"), [(2, 2), (5, 2), (5, 3), (4, 4)])
def test_shards_side_by_side_give_the_same_bits(num_shards: int, at_a_time: int) -> None:
    config = Config(overlap="off", seed=3)
    together = steps_of(config, num_shards, at_a_time)
    assert len(together.lanes) == at_a_time
    assert trained(together) == trained(steps_of(config, num_shards))


def test_a_shard_that_fails_beside_others_is_named() -> None:
    step = steps_of(Config(overlap="off", gradient_limit=1.0), 4, 2)
    plain = steps_of(Config(overlap="off", gradient_limit=1.0), 4)
    texts = []
    for each in (step, plain):
        with each.lane.plan.parameters.changing() as values:
            values *= 1000
        with pytest.raises(TrainingError, match=r"step 5, shard 0: the gradient of") as caught:
            each(5, 0, 0, learning_rate=0.1)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_hooks_see_one_shard_after_another() -> None:
    step, seen = steps_of(Config(overlap="off"), 4, 2), []
    step.add_hook(lambda at, shard, lane: seen.append((shard.index, lane is step.lane)))
    step(0, 0, 0, learning_rate=0.1)
    assert seen == [(index, True) for index in range(4)]
