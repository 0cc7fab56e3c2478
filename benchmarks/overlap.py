"""The gain of overlap: steps with and without it, alternating in one job.

    mpirun -n 2 python -m benchmarks.overlap [--turns 9] [flags of distcnn.train]

Prints milliseconds per step: the whole, in sums over all ranks, and waiting for them.
"""

from __future__ import annotations

import argparse
from statistics import median

from distcnn.benchmark.measure import Stepper
from distcnn.config import Config
from distcnn.config_parsing import parse_request
from distcnn.distributed import open_communicator
from distcnn.distributed.blas_threads import limit_blas_threads
from distcnn.profiling.step_times import WAITING, StepTimes, mean_of_middle_half, measure_steps
from distcnn.spans import ALLREDUCE
from distcnn.training.consistency import params_sha256
from distcnn.training.setup import prepare_run

STEPS_A_TURN = 15


def main() -> None:
    """Print medians over turns; the first turn only warms up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9, help="turns with and without")
    args, flags = parser.parse_known_args()
    limit_blas_threads()
    communicator = open_communicator()
    given = {"microbatch_size": 32} | dict(parse_request(flags).given)
    runs = {
        overlap: prepare_run(Config(**{**given, "overlap": overlap}), communicator, print)
        for overlap in ("off", "on")
    }
    steppers = {overlap: Stepper(run) for overlap, run in runs.items()}
    rows: dict[str, list[StepTimes]] = {overlap: [] for overlap in runs}
    for _ in range(args.turns + 1):
        for overlap, steps in steppers.items():
            times = measure_steps(steps.take, STEPS_A_TURN, communicator)
            rows[overlap].append(mean_of_middle_half(times, communicator)[0])
    if communicator.rank:
        return
    config = runs["on"].config
    same = len({params_sha256(run.parameters) for run in runs.values()}) == 1
    print(
        f"{config.model}, {config.reduction} sum, {communicator.world_size} ranks on"
        f" {len(set(communicator.hosts))} hosts, the same bits: {same}"
    )
    for overlap, turns in rows.items():
        step = median(turn.seconds for turn in turns[1:]) * 1e3
        sums = median(turn.sums_seconds for turn in turns[1:]) * 1e3
        waited = median(waited_seconds(turn) for turn in turns[1:]) * 1e3
        hidden = f", hidden {max(0.0, 1 - waited / sums):.0%}" if overlap == "on" and sums else ""
        print(f"{overlap}: step {step:.1f} ms, sums {sums:.1f} ms, waited {waited:.1f} ms{hidden}")
        print("    each turn:", " ".join(f"{turn.seconds * 1e3:.1f}" for turn in turns[1:]))


def waited_seconds(step: StepTimes) -> float:
    """How long the main thread waited for sums and for other ranks."""
    return step.parts.get(ALLREDUCE, 0.0) + step.parts.get(WAITING, 0.0)


if __name__ == "__main__":
    main()
