"""The interconnect test: the time of sums over all ranks, blocking and overlapped as in training.

    mpirun -hosts a,b -ppn 1 -n 2 python -m distcnn.scaling.interconnect_test --json FILE

measures what ``python -m distcnn.scaling --predict ... --interconnect FILE`` reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.distributed import Allreduce, Communicator, on_root
from distcnn.distributed.allreduce_timing import time_sums
from distcnn.errors import InputError
from distcnn.scaling.interconnect import (
    BESIDE,
    KINDS,
    WAITING,
    WAY_NAMES,
    SumTimes,
    fit_interconnect,
)
from distcnn.spans import MEASURE, Span
from distcnn.system.console import say
from distcnn.system.files import explaining, write_atomically
from distcnn.system.wording import counted

NAME = "distcnn.scaling.interconnect_test"
MOST_SECONDS = 600.0
SIZES = (8, 1024, 16_384, 131_072, 524_288, 2_097_152, 4_194_304, 8_388_608)
"""Bytes; the larger ones about double, because they decide."""


def measure_sums(communicator: Communicator, most_seconds: float) -> SumTimes:
    """Time sums over all ranks; the largest sizes are omitted if time runs out. Collective."""
    ways = {
        WAITING: Allreduce(communicator.allreduce_sum),
        BESIDE: communicator.background_allreduce(),
    }
    rows = {
        way: list(map(list, time_sums(communicator, sums, SIZES, most_seconds / len(ways))))
        for way, sums in ways.items()
        if sums is not None and communicator.world_size > 1
    }
    return SumTimes(communicator.world_size, communicator.hosts, communicator.description, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command(NAME, make_parser, measure_command, arguments)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=f"python -m {NAME}",
        description=(
            "Time sums over the ranks of a launcher, one on each of two hosts, and fit latency and"
            " bandwidth to the times."
        ),
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the measurement, for distcnn.scaling --interconnect FILE",
    )
    parser.add_argument(
        "--seconds", type=float, default=10, metavar="S", help="how long to measure (default 10)"
    )
    return parser


def measure_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Measure, print and write the result. Collective."""
    args = on_root(communicator, lambda: _parse(arguments, communicator.world_size))
    with Span(MEASURE):
        times = measure_sums(communicator, args.seconds)
    on_root(communicator, lambda: _report(times, args.json))


def _parse(arguments: Sequence[str], world_size: int) -> argparse.Namespace:
    args = make_parser().parse_args(arguments)
    if world_size < 2:
        raise InputError(
            "the test needs at least 2 ranks, one on each of two hosts: start it with mpirun"
            " -hosts a,b -ppn 1 -n 2"
        )
    if not 0 < args.seconds <= MOST_SECONDS:
        raise InputError(
            f"--seconds is {args.seconds:g}: it must be above 0 and at most {MOST_SECONDS:g}"
        )
    if args.json and not os.path.isdir(args.json.parent):  # noqa: PTH112
        raise InputError(f"--json: {args.json.parent} is not a folder: make it, or name another")
    return args


def _report(times: SumTimes, file: Path | None) -> None:
    say(
        f"sums      over {counted(times.world_size, 'rank')} on"
        f" {counted(len(set(times.hosts)), 'host')}, {times.library}; milliseconds",
        f"{'bytes':>10}" + "".join(f"{WAY_NAMES[way]:>12}" for way in times.rows),
    )
    seconds = [{int(nbytes): took for nbytes, took in rows} for rows in times.rows.values()]
    for nbytes in sorted(set().union(*seconds)):
        cells = (f"{1e3 * way[nbytes]:.3f}" if nbytes in way else "-" for way in seconds)
        say(f"{nbytes:>10}" + "".join(f"{cell:>12}" for cell in cells))
    say(f"fit       {fit_interconnect(times, str(file or 'measured')).describe()}")
    if file:
        table = {"kind": KINDS[0], **dataclasses.asdict(times)}
        with explaining(f"--json: {file} cannot be written", "name another file"):
            write_atomically(file, (json.dumps(table, indent=1) + "\n").encode())
        say(f"written   {file}")


if __name__ == "__main__":
    sys.exit(main())
