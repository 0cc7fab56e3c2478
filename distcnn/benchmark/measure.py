"""A measurement in turns, so that other load on the machine affects everything equally.

Each turn takes steps as they are, steps with a listener, the products of im2col alone, and a test
pass.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from distcnn.benchmark.im2col_bound import im2col_products, seconds_of
from distcnn.benchmark.measurement import Measurement
from distcnn.profiling.step_times import WAITING, StepTimes, mean_of_middle_half, measure_steps
from distcnn.spans import ALLREDUCE, LOCAL_SUM
from distcnn.system.host import processor
from distcnn.training.fingerprint import fingerprint
from distcnn.training.setup import Run

WARM_UP_STEPS = 3
SHARE_OF_STEPS = 3
"""For every three steps of a turn, one is also taken with a listener."""


class Stepper:
    """Training steps of ``run``, one after the other, epoch after epoch.

    The padded steps at the end of an epoch are left out, unless all are padded.
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
        return run.training_step(step, epoch, step_of_epoch, learning_rate).examples


def measure(run: Run, steps: int, turns: int) -> Measurement:
    """Measure ``turns`` turns of ``steps`` steps. Collective."""
    config, communicator, stepper = run.config, run.communicator, Stepper(run)
    for _ in range(WARM_UP_STEPS):
        stepper.take()
    run.evaluation()
    peaks = communicator.allgather(peak_bytes())  # before the products below allocate memory
    shape, shards = run.dataset.image_shape, len(run.training_step.shards)
    products = im2col_products(run.model, shape, config.microbatch_size) * shards
    operations = sum(2 * out.size * first.shape[1] for first, _, out in products)
    few = max(2, steps // SHARE_OF_STEPS)
    speeds, step_seconds, evaluation_speeds, bounds = [], [], [], []
    times: list[StepTimes] = []
    for _ in range(turns):
        seconds, examples = _timed(run, lambda: sum(stepper.take() for _ in range(steps)))
        speeds.append(examples / seconds)
        step_seconds.append(seconds / steps)
        times += measure_steps(stepper.take, few, communicator)
        communicator.barrier()  # the ranks share the machine, so all compute at the same time
        bound = median([seconds_of(products) for _ in range(few + 1)][1:])
        bounds.append(max(communicator.allgather(bound)))
        seconds, examples = _timed(run, lambda: run.evaluation().examples)
        evaluation_speeds.append(examples / seconds)

    splits = mean_of_middle_half(times, communicator)
    parts, split_seconds = splits[0].parts, splits[0].seconds
    fractions = [bound / step for bound, step in zip(bounds, step_seconds, strict=True)]
    local_sum = parts.get(LOCAL_SUM, 0.0) if config.reduction == "exact" else 0.0
    waited = parts.get(ALLREDUCE, 0.0) + parts.get(WAITING, 0.0)
    return Measurement(
        model=config.model,
        parameters=int(run.parameters.values.size),
        data=run.dataset.name,
        world_size=communicator.world_size,
        global_batch_size=config.global_batch_size,
        overlap=run.training_step.overlaps,
        steps_per_turn=steps,
        images_per_second=median(speeds),
        images_per_second_turns=speeds,
        step_seconds=median(step_seconds),
        evaluation_images_per_second=median(evaluation_speeds),
        evaluation_images_per_second_turns=evaluation_speeds,
        gemm_bound_seconds=median(bounds),
        gemm_bound_fraction=median(fractions),
        gemm_bound_fraction_turns=fractions,
        gemm_operations=max(communicator.allgather(operations)),
        split_ranks=splits,
        split_steps=len(times),
        split_images=shards * config.microbatch_size,
        exact_sum_fraction=local_sum / split_seconds,
        communication_fraction=waited / split_seconds,
        peak_memory_bytes=max(peaks),
        peak_memory_bytes_ranks=peaks,
        machine={
            "processor": processor(),
            "cores": os.cpu_count() or 0,
            "hosts": len(set(communicator.hosts)),
            "system": f"{platform.system()} {platform.release()}",
            "mpi": communicator.description,
            **fingerprint(),  # whatever decides the bits decides the speed too
        },
        flags=dataclasses.asdict(config),
    )


def peak_bytes() -> int:
    """Peak memory of this process; ``VmHWM`` where it is known, because ``ru_maxrss`` is inherited
    over exec: a small rank would report the peak of a large process that started it.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text() if status.exists() else "")
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(found[1]) * 1024 if found else most


def _timed(run: Run, work: Callable[[], int]) -> tuple[float, int]:
    """Seconds and result of ``work``, which all ranks begin together and end with a sum."""
    run.communicator.barrier()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
