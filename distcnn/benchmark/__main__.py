"""Measure training steps: ``python -m distcnn.benchmark``, or under ``mpirun -n 2``.

``docs/speed.md`` says what each line means.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.benchmark.measure import measure
from distcnn.benchmark.measurement import read_measurement, write_measurement
from distcnn.benchmark.output import draw, table
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.config import Config
from distcnn.config_parsing import CONFIG_FLAGS, parse_request
from distcnn.distributed import Communicator, on_root
from distcnn.errors import InputError
from distcnn.fault_tolerance.watchdog import Watchdog
from distcnn.plotting import require_matplotlib
from distcnn.training.progress import NoProgress, Progress
from distcnn.training.setup import prepare_run

NAME = "distcnn.benchmark"
BATCH = 256
"""The default global batch."""
SHARDS = (2, 4, Config.num_shards)
"""Default numbers of shards: the first that all ranks share evenly, else the last."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(NAME, make_parser, benchmark_command, arguments)


def benchmark_command(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Measure or read measurements, print and draw them."""
    progress = Progress() if communicator.rank == 0 else NoProgress()
    args, config = on_root(communicator, lambda: parse(arguments, communicator.world_size))
    if args.picture:
        on_root(communicator, require_matplotlib)
    measured = on_root(communicator, lambda: [read_measurement(path) for path in args.draw])
    if not measured:
        with Watchdog(NAME, communicator, config.stall_timeout):
            run = prepare_run(config, communicator, progress.say)
            measured = [measure(run, args.steps, args.turns)]
        progress.say(*table(measured[0]))
        if args.json:
            on_root(communicator, lambda: write_measurement(args.json, measured[0]))
            progress.say(f"measurement in {args.json}")
    if args.picture:
        on_root(communicator, lambda: draw(measured, args.picture))
        progress.say(f"picture in {args.picture}")


def parse(arguments: Sequence[str], world_size: int = 1) -> tuple[argparse.Namespace, Config]:
    """The command's own flags, and what to measure. ``InputError`` names what is wrong."""
    args, of_training = make_parser().parse_own(arguments)
    for flag, value in (("--steps", args.steps), ("--turns", args.turns)):
        if value < 1:
            raise InputError(f"{flag} is {value}: it must be at least 1")
    if args.draw and not args.picture:
        raise InputError("--draw needs the name of the picture: add --picture FILE.png")
    for flag, file in (("--json", args.json), ("--picture", args.picture)):
        if file and not os.path.isdir(Path(file).parent):  # noqa: PTH112  (now, not after measuring)
            raise InputError(
                f"{flag}: no such folder: {Path(file).parent}: create it, or name another file"
            )
    given = parse_request(of_training).given
    return args, Config(**(default_split(given, world_size) | given))


def default_split(given: Mapping[str, Any], world_size: int) -> dict[str, int]:
    """Shards and microbatch size where they are not ``given``: a global batch of 256."""
    if "microbatch_size" in given:
        return {}
    even = (shards for shards in SHARDS if shards % world_size == 0)
    num_shards = given.get("num_shards", next(even, SHARDS[-1]))
    return {"num_shards": num_shards, "microbatch_size": max(1, BATCH // max(1, num_shards))}


def make_parser() -> Parser:
    """The command's own flags; the others are flags of training."""
    parser = Parser(
        prog="python -m distcnn.benchmark",
        description=(
            "Measure training steps in this process, or on the ranks of a launcher such as"
            " mpirun -n 2: images per second, where the time of a step goes, how it compares with"
            " its matrix products alone, memory. Does not train to completion and writes no run"
            " directory. docs/speed.md explains the lines."
        ),
        epilog=(
            "All flags of training (python -m distcnn.train --help) that affect a step are accepted"
            " as well, such as --model, --data, --num-shards, --optimizer, --reduction, --overlap"
            f" or --config. Unless --microbatch-size is given, the global batch is {BATCH}, in"
            f" the fewest of {SHARDS[0]}, {SHARDS[1]} or {SHARDS[2]} shards that all ranks share"
            f" evenly, else in {SHARDS[2]}."
        ),
        elsewhere=CONFIG_FLAGS,
        instead={"peer": "python benchmarks/pytorch_ddp.py compares with PyTorch"},
    )
    add = parser.add_argument
    add("--steps", type=int, default=30, metavar="N", help="timed steps per turn (default 30)")
    add("--turns", type=int, default=5, metavar="N", help="turns; results are medians (default 5)")
    add("--json", metavar="FILE", help="write all results to FILE")
    add("--picture", metavar="FILE.png", help="draw where a step's time goes (needs matplotlib)")
    add(
        "--draw",
        nargs="+",
        default=[],
        metavar="FILE.json",
        help="do not measure; draw earlier results (--json) into one --picture",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
