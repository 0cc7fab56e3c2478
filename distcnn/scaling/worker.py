"""What the ranks of a point run: ``python -m distcnn.scaling.worker --result FILE --steps N``,
started by the sweep through a launcher.

A benchmark of its own, for that of ``distcnn.benchmark`` measures much that a sweep need not know
of every point (products alone, tests, memory), in twice the time. The steps, the stopwatches and
the parts of the split are the benchmark's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.benchmark.machine import machine_facts
from distcnn.benchmark.measure import SHARE_OF_STEPS, WARM_UP_STEPS, Steps
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.config import Config
from distcnn.config_parsing import parse_request
from distcnn.distributed import REDUCERS, Communicator, ForegroundSums, on_root
from distcnn.distributed.allreduce_benchmark import try_network
from distcnn.errors import InputError
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.profiling.step_times import WAITING, StepTimes, mean, measure_steps, middle_half
from distcnn.scaling.result import GROUPS, KIND
from distcnn.spans import ALLREDUCE, LOCAL_SUM, READ_DATA
from distcnn.system.console import say
from distcnn.system.host import usable_cores
from distcnn.training.consistency import compare_replicas, params_sha256
from distcnn.training.setup import Run, prepare_run

NAME = "distcnn.scaling.worker"
GROUP_OF_PART = {
    READ_DATA: "data",
    LOCAL_SUM: "local_sum",
    ALLREDUCE: "communication",
    WAITING: "waiting",
}
"""All other parts are computing: layers, loss, update, and what lies between."""
SECONDS_OF_NETWORK, TIMES_TO_ADD = 0.6, 9
"""What a prediction needs besides (docs/prediction.md): the network test takes so long."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_command(NAME, make_parser().print_help, measure_command, arguments)


def make_parser() -> argparse.ArgumentParser:
    """The flags besides training's."""
    parser = Parser(prog=f"python -m {NAME}", description="One measurement of distcnn.scaling.")
    parser.add_argument(
        "--result",
        type=Path,
        required=True,
        metavar="FILE",
        help="where root writes what was measured, a new file",
    )
    parser.add_argument("--steps", type=int, required=True, metavar="N", help="timed steps")
    return parser


def measure_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Measure, and write the result."""
    args, of_training = on_root(communicator, lambda: make_parser().parse_known_args(arguments))
    config = on_root(communicator, lambda: Config(**parse_request(of_training).given))
    with Watchdog(NAME, communicator, config.stall_timeout):
        run = prepare_run(
            config, communicator, say if communicator.rank == 0 else lambda line: None
        )
        result = measure(run, args.steps)
        on_root(communicator, lambda: write_result(args.result, result))


def measure(run: Run, steps: int) -> dict[str, Any]:
    """Steps to warm up, then ``steps`` as they are, then some with stopwatches: as many on any
    number of ranks. Collective.
    """
    communicator, following = run.communicator, Steps(run)
    for _ in range(WARM_UP_STEPS):
        following.take()
    communicator.barrier()
    ends, images = [time.perf_counter()], 0
    for _ in range(steps):
        images += following.take()
        ends.append(time.perf_counter())
    seconds = ends[-1] - ends[0]
    times = measure_steps(following.take, max(2, steps // SHARE_OF_STEPS), communicator)
    taken = WARM_UP_STEPS + steps + len(times)
    compare_replicas(run.parameters, run.step.optimizer, communicator, taken)
    return {
        **facts(run),
        "steps": steps,
        "steps_taken": taken,
        "images_per_second": images / seconds,
        "step_seconds": seconds / steps,
        "step_seconds_each": [end - start for start, end in pairwise(ends)],
        "message_bytes": times[0].message_bytes,
        "split": split_results(run, times),
        "adding": adding_seconds(run),
        "network": try_network(communicator, SECONDS_OF_NETWORK),
        "params_sha256": params_sha256(run.parameters),
    }


def facts(run: Run) -> dict[str, Any]:
    """What is measured, and where. Collective."""
    config, communicator = run.config, run.communicator
    return {
        "kind": KIND,
        "model": config.model,
        "parameters": int(run.parameters.values.size),
        "data": run.dataset.name,
        "content_sha256": run.content_sha256,
        "train_examples": run.dataset.examples["train"],
        "world_size": communicator.world_size,
        "num_shards": config.num_shards,
        "microbatch_size": config.microbatch_size,
        "global_batch_size": config.global_batch_size,
        "reduction": config.reduction,
        "overlap": run.step.overlaps,
        "kept_gradients": run.step.reducer.shares_memory,
        "hosts": communicator.hosts,
        "shards_of_ranks": communicator.allgather(len(run.step.shards)),
        "cores_of_hosts": cores_of_hosts(communicator),
        "machine": machine_facts(communicator),
        "software": run.software,
        "flags": dataclasses.asdict(config),
    }


def split_results(run: Run, times: list[StepTimes]) -> dict[str, Any]:
    """Where the time of a step goes: on each rank, in the mean over ranks, and on the rank that
    waits least. Seconds. Collective.

    Means over the middle half of the steps, the same ones on all ranks: by what they took in the
    mean over the ranks. So groups add up to the step.
    """
    everyone = run.communicator.allgather([each.seconds for each in times])
    chosen = middle_half([sum(step) / len(step) for step in zip(*everyone, strict=True)])
    ranks = [
        _split_of(each)
        for each in run.communicator.allgather(mean([times[index] for index in chosen]))
    ]
    slowest = min(range(len(ranks)), key=lambda rank: ranks[rank]["waiting_seconds"])
    names = ["step_seconds", *(f"{group}_seconds" for group in GROUPS)]
    return {
        "steps": len(chosen),
        "mean": {name: sum(each[name] for each in ranks) / len(ranks) for name in names},
        "slowest_rank": slowest,
        "ranks": ranks,
    }


def _split_of(split: StepTimes) -> dict[str, Any]:
    groups = dict.fromkeys(GROUPS, 0.0)
    for part, seconds in split.parts.items():
        groups[GROUP_OF_PART.get(part, "compute")] += seconds
    seconds_of_groups = {f"{group}_seconds": seconds for group, seconds in groups.items()}
    return {
        "step_seconds": split.seconds,
        **seconds_of_groups,
        "sums_seconds": split.sums_seconds,
        "parts": split.parts,
    }


def adding_seconds(run: Run) -> dict[str, float]:
    """What it takes to add a shard's gradient to a rank's sum, the ``first`` of a step and each of
    the ``others``. Collective.

    Where this point keeps its gradients instead (``parallel/kept.py``), more ranks may not. Of the
    slowest rank: all of them at once.
    """
    config, gradients = run.config, run.parameters.values.copy()
    reducer = REDUCERS[config.reduction](
        gradients, 2, config.num_shards, config.gradient_limit, ForegroundSums(lambda values: None)
    )
    seconds: dict[str, list[float]] = {"first": [], "others": []}
    run.communicator.barrier()
    for _ in range(TIMES_TO_ADD):
        reducer.begin()
        for measured in seconds.values():
            start = time.perf_counter()
            reducer.add(reducer.buckets[0])
            measured.append(time.perf_counter() - start)
    return {name: max(run.communicator.allgather(median(each))) for name, each in seconds.items()}


def cores_of_hosts(communicator: Communicator) -> dict[str, int]:
    """How many cores the ranks of each host share: those where any of them may run, for a launcher
    may bind ranks to cores. Collective.
    """
    cores: dict[str, set[int]] = defaultdict(set)
    for of_rank in communicator.allgather(usable_cores(communicator.hosts[communicator.rank])):
        cores[of_rank.host] |= of_rank.ids
    return {host: len(each) for host, each in cores.items()}


def write_result(path: Path, result: dict[str, Any]) -> None:
    """``InputError`` when it cannot be written, and when it is there: then somebody else is root
    too.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
    except FileExistsError as error:
        raise InputError(
            f"--result: {path} is there already: the launcher started several processes that know"
            " nothing of each other"
        ) from error
    except OSError as error:
        raise InputError(
            f"--result: {path} cannot be written ({error.strerror}): make room, or name another"
            " --output"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
