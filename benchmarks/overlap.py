"""Measure what overlap gains, on and off by turns within one job, so that both meet the same
machine.

mpirun ... python -m benchmarks.overlap IMAGE_SET exact|fast TURNS
"""

from __future__ import annotations

import sys
import time

import numpy as np

from distcnn.config import Config
from distcnn.distributed import Communicator, open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.training.setup import Run, prepare_run

STEPS_A_TURN = 15
Row = tuple[float, float, float]


def measure(run: Run, communicator: Communicator, first_step: int) -> Row:
    """Milliseconds a step: the whole, in sums, and only waiting for them."""
    timing = run.step.timing
    communicator.barrier()
    before = np.array([time.perf_counter(), timing.sums.allreduce_seconds, timing.waited_seconds])
    for step in range(first_step, first_step + STEPS_A_TURN):
        run.step(step, 0, step, 0.01)
    after = np.array([time.perf_counter(), timing.sums.allreduce_seconds, timing.waited_seconds])
    return tuple(((after - before) * 1000 / STEPS_A_TURN).tolist())


def main(data: str, reduction: str, turns: str) -> None:
    """Print medians and all turns; the first one of each only warms up."""
    limit_blas_threads()
    communicator = open_communicator()
    runs: dict[str, Run] = {}
    for overlap in ("off", "on"):
        config = Config(
            data=data, num_shards=8, microbatch_size=32, reduction=reduction, overlap=overlap
        )
        runs[overlap] = prepare_run(config, communicator, lambda line: None)
    rows: dict[str, list[Row]] = {overlap: [] for overlap in runs}
    for turn in range(int(turns) + 1):
        for overlap, run in runs.items():
            rows[overlap].append(measure(run, communicator, turn * STEPS_A_TURN))
    if communicator.rank == 0:
        same = runs["on"].network.values.tobytes() == runs["off"].network.values.tobytes()
        print(
            f"{reduction}, {communicator.world_size} ranks on {len(set(communicator.hosts))} hosts,"
            f" the same bits: {same}"
        )
        for overlap, all_turns in rows.items():
            table = np.array(all_turns[1:])
            whole, summing, waited = np.median(table, axis=0)
            hidden = f", hidden {1 - waited / summing:.0%}" if overlap == "on" else ""
            print(
                f"{overlap}: step {whole:.1f} ms, sums {summing:.1f} ms, waited {waited:.1f}"
                f" ms{hidden}"
            )
            print(
                f"    steps {table[:, 0].round(1).tolist()}, waited {table[:, 2].round(1).tolist()}"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
