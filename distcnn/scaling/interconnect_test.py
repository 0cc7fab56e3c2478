"""The network test: ``mpirun -hosts a,b -ppn 1 -n 2 python -m distcnn.scaling.interconnect_test
--json FILE``, for ``distcnn.scaling --network FILE``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distcnn.cli.start  # noqa: F401  (before NumPy)
from distcnn.cli.command import run_command
from distcnn.cli.parser import Parser
from distcnn.distributed import Communicator, on_root
from distcnn.distributed.allreduce_benchmark import try_network
from distcnn.errors import InputError
from distcnn.scaling.prediction.interconnect import KIND, fit_network
from distcnn.spans import MEASURE, Span
from distcnn.system.console import say
from distcnn.system.files import write_atomically
from distcnn.system.wording import counted

NAME = "distcnn.scaling.interconnect_test"
SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        NAME, make_parser().print_help, examine, sys.argv[1:] if arguments is None else arguments
    )


def make_parser() -> argparse.ArgumentParser:
    """Its flags."""
    parser = Parser(
        prog=f"python -m {NAME}",
        description=(
            "Time sums over the ranks that a launcher started, one rank on each of two hosts, in"
            " both ways in which training sums, and fit latency and bandwidth to them: what python"
            " -m distcnn.scaling --predict takes as its --network."
        ),
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write what was measured, for distcnn.scaling --network FILE",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        metavar="S",
        help=f"how long to measure (default {SECONDS:g})",
    )
    return parser


def examine(communicator: Communicator, arguments: Sequence[str]) -> None:
    """Measure, print, write."""
    args = on_root(
        communicator, lambda: _checked(make_parser().parse_args(arguments), communicator)
    )
    with Span(MEASURE):
        found = {"kind": KIND, **try_network(communicator, args.seconds)}
    on_root(communicator, lambda: _tell(found, args.json))


def _checked(args: argparse.Namespace, communicator: Communicator) -> argparse.Namespace:
    if communicator.world_size < 2:
        raise InputError(
            "one rank has no network: start one on each of two hosts, as in mpirun -hosts a,b -ppn"
            " 1 -n 2"
        )
    if not 0 < args.seconds <= 600:
        raise InputError(f"--seconds is {args.seconds:g}: it must be above 0, and at most 600")
    if args.json and not args.json.parent.is_dir():
        raise InputError(
            f"--json: there is no folder {args.json.parent}: make it, or name another file"
        )
    return args


def _tell(found: dict[str, Any], file: Path | None) -> None:
    """Root's."""
    hosts = len(set(found["hosts"]))
    lines = [
        f"sums      over {counted(found['world_size'], 'rank')} on {counted(hosts, 'host')},"
        f" {found['library']}; milliseconds"
    ]
    lines += [f"{'bytes':>10}" + "".join(f"{way:>12}" for way in found["rows"])]
    seconds = {way: dict(rows) for way, rows in found["rows"].items()}
    for nbytes in dict.fromkeys(size for rows in found["rows"].values() for size, _ in rows):
        cells = (
            f"{of[nbytes] * 1e3:12.3f}" if nbytes in of else f"{'-':>12}" for of in seconds.values()
        )
        lines.append(f"{nbytes:>10}" + "".join(cells))
    lines.append(f"fit       {fit_network(found, str(file or 'measured')).describe()}")
    if file:
        try:
            write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
        except OSError as error:
            raise InputError(
                f"--json: {file} cannot be written ({error.strerror}): name another file"
            ) from error
        lines.append(f"written   {file}")
    say(*lines)


if __name__ == "__main__":
    sys.exit(main())
