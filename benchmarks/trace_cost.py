"""What the trace costs: the same steps with its stopwatches and without, by turns in one job, so
that both meet the same machine.

[mpirun -n 2] python -m benchmarks.trace_cost [--pairs 100] [flags of distcnn.train]
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext

import numpy as np

from distcnn.config_parsing import parse_config
from distcnn.distributed import open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.profiling.recorder import MOST_OF_STEPS, Parts, Recorder
from distcnn.profiling.steps import StepTrace
from distcnn.training.setup import Run, prepare_run

STEPS_A_TURN = 4
"""The fewer, the more alike is what both turns of a pair meet.

The fastest counts, which other work of the machine has disturbed least.
"""

CLOCKS = {"wall clock": time.perf_counter, "processor": time.thread_time}
"""The main thread's processor time is not disturbed by work that takes the processor away, but also
counts spinning while it waits.
"""


def main() -> None:
    """Print what a step takes with and without, and by how much the two differ."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=200, help="of turns, with and without")
    args, flags = parser.parse_known_args()
    limit_blas_threads()
    communicator = open_communicator()
    run = prepare_run(parse_config(flags), communicator, print)
    main_thread, sums = Recorder(MOST_OF_STEPS[0]), Recorder(MOST_OF_STEPS[0])
    trace = StepTrace(run.step, range(sys.maxsize), Parts(), main_thread, sums, "sum")
    seconds = np.zeros((2, args.pairs + 1, len(CLOCKS)))
    slices = 0
    for pair in range(args.pairs + 1):
        for traced in (pair % 2, 1 - pair % 2):
            communicator.barrier()
            main_thread.kept.clear()
            with trace.entered() if traced else nullcontext():
                seconds[traced, pair] = fastest_step(run)
            slices = max(slices, len(main_thread.kept) // (STEPS_A_TURN + 1))
    if communicator.rank == 0:
        print(
            f"{run.config.model}, {communicator.world_size} ranks: {slices} slices a step on rank"
            f" 0; medians of {args.pairs} pairs of turns"
        )
        for name, (plain, traced) in zip(
            CLOCKS, seconds[:, 1:].transpose(2, 0, 1), strict=True
        ):  # the first pair only warms up
            low, middle, high = np.percentile(traced / plain - 1, (25, 50, 75))
            print(
                f"  {name:10} {np.median(plain) * 1e3:.3f} ms a step, {np.median(traced) * 1e3:.3f}"
                f" traced: {middle:+.2%} (half of the pairs: {low:+.1%} to {high:+.1%})"
            )


def fastest_step(run: Run) -> list[float]:
    """Seconds by each clock, of the fastest of a turn's steps.

    The first, which meets caches that something else has left, is left out.
    """
    steps = []
    for step in range(STEPS_A_TURN + 1):
        begin = [clock() for clock in CLOCKS.values()]
        run.step(step, 0, step, 0.01)
        steps.append(
            [clock() - before for clock, before in zip(CLOCKS.values(), begin, strict=True)]
        )
    return np.min(steps[1:], axis=0).tolist()


if __name__ == "__main__":
    main()
