"""The doctor's flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from distcnn.cli.parser import Parser

AUTO = "auto"


@dataclass(frozen=True)
class Options:
    """What to look at; ``data`` and ``output`` are empty where training's defaults are meant,
    ``threads`` is 0 for auto.
    """

    data: str = ""
    output: str = ""
    json: str = ""
    threads: int = 1


def parse(arguments: Sequence[str]) -> Options:
    """``InputError`` names what is wrong."""
    return Options(**vars(make_parser().parse_args(arguments)))


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = Parser(
        prog="python -m distcnn.doctor",
        description=(
            "Look whether training will go well here: alone, or under the launcher that will start"
            " it, such as mpirun -n 4. Each line is good, warning or bad, with the remedy. Takes at"
            " most 20 seconds. Exit code 1 when something is bad."
        ),
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--data",
        metavar="FILE.h5",
        help="image set that will be trained on (default: data/mnist.h5, where it is there)",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="folder that results will be written to (default: runs)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all findings, and what was measured")
    parser.add_argument(
        "--threads-per-rank",
        dest="threads",
        type=_threads,
        metavar="N|auto",
        help="threads that each rank will use (default 1)",
    )
    return parser


def _threads(text: str) -> int:
    if text == AUTO:
        return 0
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, at least 1, or auto")
    return int(text)
