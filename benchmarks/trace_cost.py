"""What listening to spans costs: the same steps without a listener, with the heartbeat that every
training command has, and with a recorder as for ``--trace``, alternating in one job.

    [mpirun -n 2] python -m benchmarks.trace_cost [--turns 200] [flags of distcnn.train]
"""

from __future__ import annotations

import argparse
import time
import timeit
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from distcnn.config_parsing import parse_request
from distcnn.distributed import open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.fault_tolerance.heartbeat import heartbeat
from distcnn.profiling.recorder import Recorder, intervals_of
from distcnn.spans import Span, listening
from distcnn.training.setup import Run, prepare_run

STEPS_A_TURN = 4
"""Few, so that all ways of a turn meet the same machine; the fastest step of each counts, and of
these the fastest tenth, which other programs have disturbed least.
"""

CLOCKS = {"wall clock": time.perf_counter, "processor": time.thread_time}
"""The main thread's processor time is not disturbed by other processes, but includes spinning."""


def main() -> None:
    """Print what a step takes in each way, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=200, help="of all ways (default 200)")
    args, flags = parser.parse_known_args()
    limit_blas_threads()
    communicator = open_communicator()
    run = prepare_run(parse_request(flags).config, communicator, print)
    recorder = Recorder()
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "no listener": nullcontext,
        "the heartbeat": heartbeat.listening,
        "a recorder": lambda: listening(recorder),
    }
    seconds = np.zeros((args.turns + 1, len(ways), len(CLOCKS)))
    spans = 0
    for turn in range(args.turns + 1):
        for way in np.roll(range(len(ways)), turn):
            communicator.barrier()
            recorder.events.clear()
            with list(ways.values())[way]():
                seconds[turn, way] = fastest_step(run)
            spans = max(spans, len(intervals_of(recorder.events)) // (STEPS_A_TURN + 1))
    if communicator.rank:
        return
    seconds = seconds[1:]  # the first turn only warms up
    print(
        f"{run.config.model}, {communicator.world_size} ranks, {spans} spans a step on rank 0;"
        f" the fastest tenth of {args.turns} turns"
    )
    for clock, name in enumerate(CLOCKS):
        plain, *heard = np.percentile(seconds[:, :, clock], 10, axis=0)
        shares = ", ".join(
            f"{heard_by / plain - 1:+.2%} with {title}"
            for title, heard_by in zip(list(ways)[1:], heard, strict=True)
        )
        print(f"{name:<11}{plain * 1e3:.3f} ms a step without a listener, {shares}")
    cost = seconds_of_a_span()
    share = spans * cost / np.percentile(seconds[:, 0, 1], 10)
    print(f"without a listener a span costs {cost * 1e6:.3f} us, all of a step {share:.3%} of it")


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
        run.training_step(step, 0, step, 0.01)
        rows.append([read() - begin for read, begin in zip(CLOCKS.values(), start, strict=True)])
    fastest: list[float] = np.array(rows[1:]).min(axis=0).tolist()
    return fastest


if __name__ == "__main__":
    main()
