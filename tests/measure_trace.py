"""What the trace costs: the same steps with its stopwatches and without, by turns in one job, so that both meet the same machine.

[mpirun -n 2] python -m tests.measure_trace [--pairs 100] [flags of distcnn.train]
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext

import numpy as np

from distcnn.config import parse_config
from distcnn.parallel import open_communicator
from distcnn.parallel.threads import limit_blas_threads
from distcnn.trace.recorder import MOST_OF_STEPS, Parts, Recorder
from distcnn.trace.steps import StepTrace
from distcnn.training.setup import Run, prepare_run

STEPS_A_TURN = 3
"""The fewer, the more alike is what both turns of a pair meet."""


def main() -> None:
    """Print the medians of all steps, and of the pairs of turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=100, help="of turns, with and without")
    args, flags = parser.parse_known_args()
    limit_blas_threads()
    communicator = open_communicator()
    run = prepare_run(parse_config(flags), communicator, print)
    main_thread, sums = Recorder(MOST_OF_STEPS[0]), Recorder(MOST_OF_STEPS[0])
    trace = StepTrace(run.step, range(sys.maxsize), Parts(), main_thread, sums, "sum")
    seconds: dict[bool, list[float]] = {False: [], True: []}
    slices = 0
    for pair in range(args.pairs + 1):
        for traced in (pair % 2 == 0, pair % 2 == 1):
            communicator.barrier()
            main_thread.kept.clear()
            with trace.entered() if traced else nullcontext():
                taken = take_steps(run)
            slices = max(slices, len(main_thread.kept) // (STEPS_A_TURN + 1))
            seconds[traced] += taken if pair else []  # the first only warms up
    if communicator.rank == 0:
        plain, with_trace = (np.array(seconds[traced]) for traced in (False, True))
        pairs = np.median(with_trace.reshape(-1, STEPS_A_TURN), axis=1) / np.median(plain.reshape(-1, STEPS_A_TURN), axis=1)
        medians = np.median(plain), np.median(with_trace)
        print(
            f"{run.config.model}, {communicator.world_size} ranks: {medians[0] * 1e3:.3f} ms a step, {medians[1] * 1e3:.3f} traced: "
            f"{medians[1] / medians[0] - 1:+.2%}, of {plain.size} steps each; {np.median(pairs) - 1:+.2%}, median of {len(pairs)} pairs of "
            f"turns; {slices} slices a step on rank 0"
        )


def take_steps(run: Run) -> list[float]:
    """Seconds of each of a turn's steps, but of the first, which meets caches that something else has left."""
    seconds = []
    for step in range(STEPS_A_TURN + 1):
        start = time.perf_counter()
        run.step(step, 0, step, 0.01)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


if __name__ == "__main__":
    main()
