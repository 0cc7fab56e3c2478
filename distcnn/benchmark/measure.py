"""A measurement: turns of everything, so that other load on the machine affects all alike.

Each turn takes steps as they are, steps with a listener, the products of im2col alone, and a test
pass.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from statistics import median

from distcnn.benchmark.im2col_bound import im2col_products, seconds_of
from distcnn.benchmark.machine import machine_facts, peak_bytes
from distcnn.benchmark.results import Measurement
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


def measure(run: Run, steps: int, turns: int) -> Measurement:
    """Measure ``turns`` turns of ``steps`` steps. Collective."""
    following, few = Steps(run), max(2, steps // SHARE_OF_STEPS)
    for _ in range(WARM_UP_STEPS):
        following.take()
    run.evaluation()
    peak = peak_bytes()  # before the products below take memory of their own
    communicator, config, network = run.communicator, run.config, run.network
    products = im2col_products(
        network.model, run.dataset.image_shape, config.microbatch_size
    ) * len(run.step.shards)
    speeds: list[float] = []
    step_seconds: list[float] = []
    test_speeds: list[float] = []
    bounds: list[float] = []
    times: list[StepTimes] = []
    for _ in range(turns):
        seconds, images = _timed(run, lambda: sum(following.take() for _ in range(steps)))
        speeds.append(images / seconds)
        step_seconds.append(seconds / steps)
        times += measure_steps(following.take, few, communicator)
        communicator.barrier()  # the ranks share the machine, so all compute at the same time
        bounds.append(median([seconds_of(products) for _ in range(few + 1)][1:]))
        seconds, images = _timed(run, lambda: run.evaluation().examples)
        test_speeds.append(images / seconds)
    chosen = middle_half([step.seconds for step in times])
    splits = communicator.allgather(mean([times[index] for index in chosen]))
    slowest = [max(turn) for turn in zip(*communicator.allgather(bounds), strict=True)]
    fractions = [bound / step for bound, step in zip(slowest, step_seconds, strict=True)]
    operations = communicator.allgather(sum(product.operations for product in products))
    peaks = communicator.allgather(peak)
    split = splits[0]
    local_sum = split.parts.get(LOCAL_SUM, 0.0) if config.reduction == "exact" else 0.0
    waited = split.parts.get(ALLREDUCE, 0.0) + split.parts.get(WAITING, 0.0)
    return Measurement(
        model=config.model,
        parameters=int(network.values.size),
        data=run.dataset.name,
        world_size=communicator.world_size,
        global_batch_size=config.global_batch_size,
        overlap=run.step.overlaps,
        steps_per_turn=steps,
        images_per_second=median(speeds),
        images_per_second_turns=speeds,
        step_seconds=median(step_seconds),
        step_seconds_turns=step_seconds,
        evaluation_images_per_second=median(test_speeds),
        evaluation_images_per_second_turns=test_speeds,
        gemm_bound_seconds=median(slowest),
        gemm_bound_fraction=median(fractions),
        gemm_bound_fraction_turns=fractions,
        gemm_operations=max(operations),
        split_ranks=splits,
        split_steps=len(times),
        split_images=len(run.step.shards) * config.microbatch_size,
        exact_sum_fraction=local_sum / split.seconds,
        communication_fraction=waited / split.seconds,
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
