"""What spot checks cost: steps with and without them, alternating in one job.

[mpirun -n 2] python -m benchmarks.spot_check_cost [--turns 20] [flags of distcnn.train]
"""

from __future__ import annotations

import argparse
import time

from distcnn.benchmark.measure import Stepper
from distcnn.config import Config
from distcnn.config_parsing import parse_request
from distcnn.distributed import open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.training.setup import Run, prepare_run

FRACTIONS = (0.0, 0.01, 0.1, 1.0)
STEPS_A_TURN = 50


def main() -> None:
    """Print images/s with each fraction over all turns but the first, which only warms up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20, help="turns with each fraction")
    args, flags = parser.parse_known_args()
    limit_blas_threads()
    communicator = open_communicator()
    given = parse_request(flags).given
    runs = [
        prepare_run(Config(**{**given, "spot_check": fraction}), communicator, lambda line: None)
        for fraction in FRACTIONS
    ]
    steppers = [Stepper(run) for run in runs]
    seconds, checked = [0.0] * len(runs), [0] * len(runs)
    for turn in range(args.turns + 1):
        for index, (run, stepper) in enumerate(zip(runs, steppers, strict=True)):
            communicator.barrier()
            start = time.perf_counter()
            count = take(run, stepper)
            communicator.barrier()
            if turn:
                seconds[index] += time.perf_counter() - start
                checked[index] += count
    if communicator.rank:
        return
    config, steps = runs[0].config, args.turns * STEPS_A_TURN
    print(f"{config.model}, {communicator.world_size} ranks, {steps} steps with each fraction")
    for fraction, took, count in zip(FRACTIONS, seconds, checked, strict=True):
        speed, share = steps * config.global_batch_size / took, count / steps / config.num_shards
        print(
            f"--spot-check {fraction:<4g} {share:7.2%} of shards checked {speed:6,.0f} images/s,"
            f" {seconds[0] / took:6.1%} of the speed without"
        )


def take(run: Run, stepper: Stepper) -> int:
    """Take a turn's steps; how many shards were checked."""
    count = 0
    for _ in range(STEPS_A_TURN):
        stepper.take()
        count += run.training_step.spot_check.count if run.training_step.spot_check else 0
    return count


if __name__ == "__main__":
    main()
