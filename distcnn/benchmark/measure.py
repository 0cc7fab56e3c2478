"""A measurement in turns, so that other load on the machine affects everything equally.

Each turn takes steps as they are, steps with a listener, the products of im2col alone, and a test
pass.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from distcnn.benchmark.im2col_bound import Product, im2col_products, seconds_of
from distcnn.benchmark.machine import machine_facts, peak_bytes
from distcnn.benchmark.measurement import Measurement
from distcnn.profiling.step_times import WAITING, StepTimes, mean, measure_steps, middle_half
from distcnn.spans import ALLREDUCE, LOCAL_SUM
from distcnn.training.setup import Run

WARM_UP_STEPS = 3
SHARE_OF_STEPS = 3
"""For every three steps of a turn, one is also taken with a listener."""


class Stepper:
    """Training steps of ``run``, one after the other, epoch after epoch.

    The padded steps at the end of an epoch are left out, unless there are no others.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._taken = run, 0
        config = run.config
        shortest = run.dataset.examples["train"] // config.num_shards
        self._an_epoch = shortest // config.microbatch_size or run.schedule.steps_an_epoch

    def take(self) -> int:
        """Take the next step, and return how many examples it used."""
        run, step = self._run, self._taken
        epoch, step_of_epoch = divmod(step, self._an_epoch)
        learning_rate = run.schedule.learning_rate(min(step, run.schedule.scheduled_steps - 1))
        self._taken += 1
        return run.step(step, epoch, step_of_epoch, learning_rate).examples


@dataclass(frozen=True)
class Turn:
    """What one turn measured on this rank.

    Args:
        images_per_second: of all ranks.
        step_seconds: of a step without a listener.
        tests_per_second: examples of all ranks in a test pass.
        bound_seconds: the products of im2col in one step of this rank.
        times: steps with a listener.
    """

    images_per_second: float
    step_seconds: float
    tests_per_second: float
    bound_seconds: float
    times: list[StepTimes]


def measure(run: Run, steps: int, turns: int) -> Measurement:
    """Measure ``turns`` turns of ``steps`` steps. Collective."""
    stepper = Stepper(run)
    for _ in range(WARM_UP_STEPS):
        stepper.take()
    run.evaluation()
    peak = peak_bytes()  # before the products below allocate memory
    shape, shards = run.dataset.image_shape, len(run.step.shards)
    products = im2col_products(run.model, shape, run.config.microbatch_size) * shards
    found = [take_turn(run, stepper, products, steps) for _ in range(turns)]
    operations = sum(product.operations for product in products)
    return summary(run, steps, found, operations, peak)


def take_turn(run: Run, stepper: Stepper, products: Sequence[Product], steps: int) -> Turn:
    """Measure everything once. Collective."""
    few = max(2, steps // SHARE_OF_STEPS)
    seconds, images = _timed(run, lambda: sum(stepper.take() for _ in range(steps)))
    times = measure_steps(stepper.take, few, run.communicator)
    run.communicator.barrier()  # the ranks share the machine, so all compute at the same time
    bound = median([seconds_of(products) for _ in range(few + 1)][1:])
    test_seconds, tests = _timed(run, lambda: run.evaluation().examples)
    return Turn(images / seconds, seconds / steps, tests / test_seconds, bound, times)


def summary(run: Run, steps: int, turns: Sequence[Turn], operations: int, peak: int) -> Measurement:
    """The measurement from this rank's turns, operations and peak memory. Collective."""
    config, communicator = run.config, run.communicator
    times = [step for turn in turns for step in turn.times]
    chosen = middle_half([step.seconds for step in times])
    splits = communicator.allgather(mean([times[index] for index in chosen]))
    parts, step_seconds = splits[0].parts, [turn.step_seconds for turn in turns]
    bounds = communicator.allgather([turn.bound_seconds for turn in turns])
    slowest = [max(of_ranks) for of_ranks in zip(*bounds, strict=True)]
    fractions = [bound / step for bound, step in zip(slowest, step_seconds, strict=True)]
    local_sum = parts.get(LOCAL_SUM, 0.0) if config.reduction == "exact" else 0.0
    waited = parts.get(ALLREDUCE, 0.0) + parts.get(WAITING, 0.0)
    peaks = communicator.allgather(peak)
    return Measurement(
        model=config.model,
        parameters=int(run.parameters.values.size),
        data=run.dataset.name,
        world_size=communicator.world_size,
        global_batch_size=config.global_batch_size,
        overlap=run.step.overlaps,
        steps_per_turn=steps,
        images_per_second=median(turn.images_per_second for turn in turns),
        images_per_second_turns=[turn.images_per_second for turn in turns],
        step_seconds=median(step_seconds),
        step_seconds_turns=step_seconds,
        evaluation_images_per_second=median(turn.tests_per_second for turn in turns),
        evaluation_images_per_second_turns=[turn.tests_per_second for turn in turns],
        gemm_bound_seconds=median(slowest),
        gemm_bound_fraction=median(fractions),
        gemm_bound_fraction_turns=fractions,
        gemm_operations=max(communicator.allgather(operations)),
        split_ranks=splits,
        split_steps=len(times),
        split_images=len(run.step.shards) * config.microbatch_size,
        exact_sum_fraction=local_sum / splits[0].seconds,
        communication_fraction=waited / splits[0].seconds,
        peak_memory_bytes=max(peaks),
        peak_memory_bytes_ranks=peaks,
        machine=machine_facts(communicator),
        flags=dataclasses.asdict(config),
    )


def _timed(run: Run, work: Callable[[], int]) -> tuple[float, int]:
    """Seconds and result of ``work``, which all ranks begin together and end with a sum."""
    run.communicator.barrier()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
