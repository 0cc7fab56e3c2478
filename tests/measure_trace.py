"""What tracing costs: the same steps with the trace's stopwatches and without, by turns in one process a rank, so that both meet the same machine.

[mpirun -n 2] python -m tests.measure_trace [--pairs 60] [flags of distcnn.train]
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median

from distcnn.config import parse_config
from distcnn.parallel import open_communicator
from distcnn.parallel.threads import limit_blas_threads
from distcnn.trace.recorder import MOST_OF_STEPS, Parts, Recorder
from distcnn.trace.steps import StepTrace
from distcnn.training.setup import Run, prepare_run

STEPS_A_TURN = 5
"""The fewer, the more alike is what both turns of a pair meet; the first after a change is not timed."""


def main() -> None:
    """Print the medians of a step, and what of a step tracing is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=60, help="of turns, with and without")
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
            if traced:
                main_thread.packed.clear()
                with trace.entered():
                    taken = take_steps(run)
                slices = len(main_thread) // (STEPS_A_TURN + 1)
            else:
                taken = take_steps(run)
            seconds[traced] += taken if pair else []
    if communicator.rank == 0:
        without, with_trace = median(seconds[False]), median(seconds[True])
        turns = [
            median(seconds[True][each : each + STEPS_A_TURN]) / median(seconds[False][each : each + STEPS_A_TURN]) - 1
            for each in range(0, len(seconds[True]), STEPS_A_TURN)
        ]
        print(
            f"{run.config.model}, {communicator.world_size} ranks, {len(seconds[True])} steps each, by turns: {without * 1e3:.3f} ms a step, "
            f"with the trace {with_trace * 1e3:.3f}: {with_trace / without - 1:+.2%} (median of pairs of turns {median(turns):+.2%}), "
            f"{slices} slices a step on rank 0"
        )


def take_steps(run: Run) -> list[float]:
    """Seconds of each of a turn's steps, but the first."""
    seconds = []
    for step in range(STEPS_A_TURN + 1):
        start = time.perf_counter()
        run.step(step, 0, step, 0.01)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


if __name__ == "__main__":
    main()
