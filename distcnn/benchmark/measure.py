"""A measurement: turns of everything, so that other load on the machine affects all alike.

Each turn takes steps as they are, steps with a listener, the products of im2col alone, and a test
pass.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from distcnn.benchmark.im2col_bound import im2col_products, seconds_of
from distcnn.benchmark.machine import machine_facts, peak_bytes
from distcnn.benchmark.results import Bound, Measurement, RankTimes, split_rows
from distcnn.profiling.step_times import WAITING, StepTimes, mean, measure_steps, middle_half
from distcnn.spans import ALLREDUCE, LOCAL_SUM
from distcnn.training.setup import Run

WARM_UP_STEPS = 3
SHARE_OF_STEPS = 3
"""Of the steps of a turn, one in three is taken again with a listener."""


class Steps:
    """Training steps of ``run``, one after the other, epoch after epoch.

    The padded steps at the end of an epoch are left out, unless there are no others.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._taken = run, 0
        config = run.config
        shortest = run.dataset.examples["train"] // config.num_shards
        self._an_epoch = shortest // config.microbatch_size or run.plan.steps_an_epoch

    def take(self) -> int:
        """Take the next step, and return how many examples it used."""
        run, step = self._run, self._taken
        epoch, step_of_epoch = divmod(step, self._an_epoch)
        learning_rate = run.plan.learning_rate(min(step, run.plan.scheduled_steps - 1))
        self._taken += 1
        return run.step(step, epoch, step_of_epoch, learning_rate).examples


@dataclass
class Turns:
    """What was measured; a list has an item for each turn."""

    images_per_second: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    tests_per_second: list[float] = field(default_factory=list)
    bound_seconds: list[float] = field(default_factory=list)
    times: list[StepTimes] = field(default_factory=list)


def measure(run: Run, steps: int, turns: int) -> Measurement:
    """Measure ``turns`` turns of ``steps`` steps. Collective."""
    following, few = Steps(run), max(2, steps // SHARE_OF_STEPS)
    for _ in range(WARM_UP_STEPS):
        following.take()
    run.evaluation()
    peak = peak_bytes()  # before the products below take memory of their own
    communicator, config, network = run.communicator, run.config, run.network
    products = im2col_products(network.model, network.input_shape, config.microbatch_size)
    products *= len(run.step.shards)
    found = Turns()
    for _ in range(turns):
        seconds, images = _timed(run, lambda: sum(following.take() for _ in range(steps)))
        found.images_per_second.append(images / seconds)
        found.step_seconds.append(seconds / steps)
        found.times += measure_steps(following.take, few, communicator)
        communicator.barrier()  # the ranks share the machine, so all compute at the same time
        found.bound_seconds.append(median([seconds_of(products) for _ in range(few + 1)][1:]))
        seconds, tests = _timed(run, lambda: run.evaluation().examples)
        found.tests_per_second.append(tests / seconds)
    chosen = middle_half([step.seconds for step in found.times])
    split = mean([found.times[index] for index in chosen])
    bounds = communicator.allgather(found.bound_seconds)
    layers, parts = split_rows(split.parts)
    ranks = communicator.allgather(RankTimes(split.seconds, split.parts, peak))
    operations = max(communicator.allgather(sum(product.operations for product in products)))
    bound = bound_of([max(turn) for turn in zip(*bounds, strict=True)], found, operations)
    waited = split.parts.get(ALLREDUCE, 0.0)
    late = split.parts.get(WAITING, 0.0)
    return Measurement(
        model=config.model,
        parameters=int(network.values.size),
        data=run.dataset.name,
        world_size=communicator.world_size,
        global_batch_size=config.global_batch_size,
        overlap=run.step.overlaps,
        steps_per_turn=steps,
        images_per_second=median(found.images_per_second),
        images_per_second_turns=found.images_per_second,
        step_seconds=median(found.step_seconds),
        step_seconds_turns=found.step_seconds,
        gemm_bound_fraction=bound.fraction,
        bound=bound,
        split_seconds=split.seconds,
        split_steps=len(found.times),
        split_images=len(run.step.shards) * config.microbatch_size,
        layers=layers,
        parts=parts,
        exact_sum_fraction=(
            split.parts.get(LOCAL_SUM, 0.0) / split.seconds if config.reduction == "exact" else 0.0
        ),
        communication_fraction=(late + waited) / split.seconds,
        allreduce_seconds=split.sums_seconds,
        waited_seconds=waited,
        late_ranks_seconds=late,
        evaluation_images_per_second=median(found.tests_per_second),
        evaluation_images_per_second_turns=found.tests_per_second,
        peak_memory_bytes=max(one.peak_memory_bytes for one in ranks),
        ranks=ranks,
        machine=machine_facts(communicator),
        flags=dataclasses.asdict(config),
    )


def bound_of(seconds: list[float], found: Turns, operations: int) -> Bound:
    """The bound of a step, from each turn's ``seconds`` on the rank that took longest."""
    fractions = [one / step for one, step in zip(seconds, found.step_seconds, strict=True)]
    middle = median(seconds)
    return Bound(
        seconds=middle,
        fraction=median(fractions),
        fraction_turns=fractions,
        operations=operations,
        gflop_per_second=operations / middle / 1e9 if middle else 0.0,
    )


def _timed(run: Run, work: Callable[[], int]) -> tuple[float, int]:
    """Seconds and result of ``work``, which all ranks begin together and end with a sum."""
    run.communicator.barrier()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
