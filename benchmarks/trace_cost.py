"""What a listener costs: the same steps with one and without, alternating in one job.

    [mpirun -n 2] python -m benchmarks.trace_cost [--pairs 200] [flags of distcnn.train]

Spans cost something also when nobody listens: the time to enter and leave one, for each span.
"""

from __future__ import annotations

import argparse
import time
import timeit
from contextlib import nullcontext

import numpy as np

from distcnn.config_parsing import parse_config
from distcnn.distributed import open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.profiling.recorder import Recorder, intervals_of
from distcnn.spans import Span, listening
from distcnn.training.setup import Run, prepare_run

STEPS_A_TURN = 4
"""Few, so that both turns of a pair meet the same machine; the fastest step of a turn counts."""

CLOCKS = {"wall clock": time.perf_counter, "processor": time.thread_time}
"""The main thread's processor time is not disturbed by other processes, but includes spinning."""


def main() -> None:
    """Print what a step takes with and without, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200, help="turns with and without")
    args, flags = parser.parse_known_args()
    limit_blas_threads()
    communicator = open_communicator()
    run = prepare_run(parse_config(flags), communicator, print)
    recorder = Recorder()
    seconds = np.zeros((2, args.pairs + 1, len(CLOCKS)))
    spans = 0
    for pair in range(args.pairs + 1):
        for more in (pair % 2, 1 - pair % 2):
            communicator.barrier()
            recorder.events.clear()
            with listening(recorder) if more else nullcontext():
                seconds[more, pair] = fastest_step(run)
            spans = max(spans, len(intervals_of(recorder.events)) // (STEPS_A_TURN + 1))
    if communicator.rank:
        return
    print(
        f"{run.config.model}, {communicator.world_size} ranks, {spans} spans a step on rank 0;"
        f" medians of {args.pairs} pairs of turns"
    )
    for name, (plain, heard) in zip(CLOCKS, seconds[:, 1:].transpose(2, 0, 1), strict=True):
        low, middle, high = np.percentile(heard / plain - 1, (25, 50, 75))
        print(
            f"  {name:10} {np.median(plain) * 1e3:.3f} ms a step, {np.median(heard) * 1e3:.3f} with"
            f" a listener: {middle:+.2%} (half of the pairs: {low:+.1%} to {high:+.1%})"
        )
    cost = seconds_of_a_span()
    share = spans * cost / np.median(seconds[0, 1:, 1])
    print(f"  without a listener a span costs {cost * 1e6:.3f} us, all of a step {share:.3%} of it")


def seconds_of_a_span() -> float:
    """To enter and leave a span when nobody listens, without the loop around it."""
    number, span = 100_000, Span("span")
    with_span = min(timeit.repeat("with span: pass", number=number, globals={"span": span}))
    return (with_span - min(timeit.repeat("pass", number=number))) / number


def fastest_step(run: Run) -> list[float]:
    """The fewest seconds of a step, by each clock; the first step only warms up."""
    rows = []
    for step in range(STEPS_A_TURN + 1):
        start = [read() for read in CLOCKS.values()]
        run.step(step, 0, step, 0.01)
        rows.append([read() - begin for read, begin in zip(CLOCKS.values(), start, strict=True)])
    fastest: list[float] = np.array(rows[1:]).min(axis=0).tolist()
    return fastest


if __name__ == "__main__":
    main()
