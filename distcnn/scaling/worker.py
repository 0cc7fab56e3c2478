"""The program of a point's ranks: ``python -m distcnn.scaling.worker --result FILE --steps N``,
which the sweep starts through a launcher.

It takes the same steps on any number of ranks, so that their bits can be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.benchmark.measure import SHARE_OF_STEPS, WARM_UP_STEPS, Stepper
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.config import Config
from distcnn.config_parsing import parse_request
from distcnn.distributed import SUMS, Allreduce, BucketReducer, Communicator, on_root, plan_buckets
from distcnn.distributed.blas_threads import blas_thread_count
from distcnn.errors import InputError
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.profiling.step_times import WAITING, StepTimes, mean_of_middle_half, measure_steps
from distcnn.scaling.interconnect_test import measure_sums
from distcnn.scaling.records import GROUPS, Result, ShardTimes
from distcnn.spans import ALLREDUCE, BACKWARD, LOCAL_SUM, READ_DATA, UPDATE
from distcnn.system.console import say
from distcnn.system.host import oversubscription, processor, usable_cores
from distcnn.system.json_values import to_json
from distcnn.training.consistency import compare_replicas, params_sha256
from distcnn.training.setup import Run, prepare_run

NAME = "distcnn.scaling.worker"
# All other parts of a step count as computing.
GROUP_OF_PART = dict(zip((LOCAL_SUM, ALLREDUCE, WAITING, READ_DATA), GROUPS[1:], strict=True))
SUMS_SECONDS, ADD_REPEATS = 0.6, 9  # for what only a prediction needs


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(NAME, make_parser, measure_command, arguments)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog=f"python -m {NAME}", description="One measurement of distcnn.scaling.")
    parser.add_argument("--result", type=Path, required=True, metavar="FILE", help="a new file")
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="timed steps")
    return parser


def measure_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    args, of_training = on_root(communicator, lambda: make_parser().parse_known_args(arguments))
    config = on_root(communicator, lambda: Config(**parse_request(of_training).given))
    with Watchdog(NAME, communicator, config.stall_timeout):
        speaks = communicator.rank == 0
        run = prepare_run(config, communicator, say if speaks else lambda line: None)
        result = measure(run, args.steps)
        on_root(communicator, lambda: write_result(args.result, result))


def measure(run: Run, steps: int) -> Result:
    """Take some steps to warm up, ``steps`` without instruments, and some with. Collective."""
    config, communicator, stepper = run.config, run.communicator, Stepper(run)
    for _ in range(WARM_UP_STEPS):
        stepper.take()
    communicator.barrier()
    start = time.perf_counter()
    images = sum(stepper.take() for _ in range(steps))
    seconds = time.perf_counter() - start
    times = measure_steps(stepper.take, max(2, steps // SHARE_OF_STEPS), communicator)
    splits = mean_of_middle_half(times, communicator)
    compare_replicas(run.parameters, run.training_step.updater, communicator, steps)
    everyone = communicator.allgather(usable_cores(communicator.hosts[communicator.rank]))
    # the buckets that overlap would use, even if it is off
    buckets = plan_buckets(sorted({0, *run.parameters.layer_starts, run.parameters.values.size}))
    itemsize = 8 if config.reduction == "exact" else 4
    return Result(
        model=config.model,
        data=run.dataset.name,
        world_size=communicator.world_size,
        num_shards=config.num_shards,
        microbatch_size=config.microbatch_size,
        reduction=config.reduction,
        overlap=config.overlap,
        hosts=communicator.hosts,
        crowd=oversubscription(everyone, blas_thread_count()),
        processor=processor(),
        mpi=communicator.description,
        software=run.software,
        images_per_second=images / seconds,
        step_seconds=seconds / steps,
        shares=shares_of(splits),
        shard=shard_times(run, splits, seconds / steps, [bucket.start for bucket in buckets]),
        bucket_bytes=[(bucket.stop - bucket.start) * itemsize for bucket in buckets],
        sum_times=measure_sums(communicator, SUMS_SECONDS),
        params_sha256=params_sha256(run.parameters),
    )


def shares_of(splits: Sequence[StepTimes]) -> dict[str, float]:
    """Return the fraction of a step that each group takes, mean over ranks."""
    seconds = dict.fromkeys(GROUPS, 0.0)
    for split in splits:
        for part, took in split.parts.items():
            seconds[GROUP_OF_PART.get(part, "compute")] += took
    whole = sum(split.seconds for split in splits)
    return {group: took / whole for group, took in seconds.items()}


def shard_times(
    run: Run, splits: Sequence[StepTimes], step_seconds: float, bucket_starts: Sequence[int]
) -> ShardTimes:
    """Return the times of a shard on the rank that waits least, from each rank's step with
    instruments; a step without them takes ``step_seconds``. Collective.
    """
    slowest = min(splits, key=lambda split: split.parts.get(WAITING, 0.0))
    shards = -(-run.config.num_shards // run.communicator.world_size)
    factor = step_seconds / slowest.seconds / shards
    parts = {name: took * factor for name, took in slowest.parts.items()}
    data, local_sum, update, _ = (
        parts.pop(name, 0.0) for name in (READ_DATA, LOCAL_SUM, UPDATE, ALLREDUCE)
    )
    backward, bucket = [0.0] * len(bucket_starts), 0
    starts = run.parameters.layer_starts
    for name, start in reversed(list(zip(run.model.names, starts, strict=True))):
        backward[bucket] += parts.pop(f"{name} {BACKWARD}", 0.0)
        if start <= bucket_starts[bucket]:
            bucket = min(bucket + 1, len(bucket_starts) - 1)
    return ShardTimes(
        data=data,
        forward=sum(parts.values()),
        backward=backward,
        add=add_seconds(run),
        shared_memory=local_sum if run.training_step.reducer.shares_memory else None,
        update=update * shards,
    )


def add_seconds(run: Run) -> float:
    """Time adding a whole gradient to a rank's sum, on the slowest rank. Collective."""
    config, gradient = run.config, run.parameters.values.copy()
    arithmetic = SUMS[config.reduction](config.num_shards, config.gradient_limit)
    reducer = BucketReducer(arithmetic, 2, gradient, Allreduce(lambda values: None))
    seconds: list[float] = []
    run.communicator.barrier()
    for _ in range(ADD_REPEATS):
        reducer.begin()
        reducer.add(reducer.buckets[0])  # the first of a step is copied, not added
        start = time.perf_counter()
        reducer.add(reducer.buckets[0])
        seconds.append(time.perf_counter() - start)
    return max(run.communicator.allgather(median(seconds)))


def write_result(path: Path, result: Result) -> None:
    """Write ``result`` to a new file; ``InputError`` if there is one, of another root."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(to_json(result)) + "\n")
    except OSError as error:
        remedy = "free some space, or name another --output"
        if isinstance(error, FileExistsError):
            remedy = "the processes do not form one MPI world; use the launcher of mpi4py's MPI"
        raise InputError(
            f"--result: {path} cannot be written ({error.strerror}): {remedy}"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
